"""Writing files so that whoever reads them finds the old contents or the new ones, and never a part of either."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a file of UTF-8 beside the one at the path, and put it in its place.

    A link is followed, so that the file it leads to is replaced and the link stays.

    Args:
        path: of the file.
        text: its new contents.
        errors: what becomes of characters that UTF-8 lacks, as of `str.encode`.

    Raises:
        OSError: it cannot be written; the old contents stay.
    """
    write_bytes(path, text.encode(errors=errors))


def write_bytes(path: Path, data: bytes) -> None:
    """The same with any contents.

    Raises:
        OSError: it cannot be written; the old contents stay.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            beside.chmod(target.stat().st_mode & 0o777)
        beside.replace(target)
    except BaseException as error:  # an interrupt, too
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if not isinstance(error, OSError) or error.errno is None:
            raise
        # What was written to is of no use to whoever reads the message.
        raise OSError(error.errno, error.strerror, str(path)) from error


def holds(path: Path, data: bytes) -> bool:
    """Whether a regular file has these contents; a link at the path is not followed."""
    found = path.is_file() and not path.is_symlink() and path.stat().st_size == len(data)
    return found and path.read_bytes() == data
