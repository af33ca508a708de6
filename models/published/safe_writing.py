"""Writing into a cache that other users may also write into, such as a folder in ``/tmp``.

No symbolic link is followed and no file of another user is written, so that nobody can choose which file of this user
is overwritten. Files that others put there are recognised by their hash at most, see SECURITY.md.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from io import FileIO
from pathlib import Path

from glimpse.models.published.transfer_limits import FetchError

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_ADD = os.O_WRONLY | os.O_APPEND | _NO_LINK | getattr(os, "O_NONBLOCK", 0)  # a pipe is not waited for
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK


def open_for_append(path: Path) -> FileIO:
    """Open a file for appending, unbuffered: a new one, or one that an earlier run of this user has left.

    Raises:
        FetchError: the path is a symbolic link, is not a regular file, belongs to another user or has a second name.
        OSError: it cannot be opened.
    """
    try:
        return _opened(path, _NEW | os.O_APPEND)
    except FileExistsError:
        pass
    try:
        file = _opened(path, _ADD)
    except OSError as error:
        if path.is_symlink() or not path.is_file():
            raise FetchError(_other(path)) from error
        raise
    status = os.fstat(file.fileno())
    own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    if not (stat.S_ISREG(status.st_mode) and own and status.st_nlink <= 1):
        file.close()
        raise FetchError(_other(path))
    return file


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically; a symbolic link at the path is replaced, not followed.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with _opened(beside, _NEW) as file:
            write_whole(file, data)
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:  # an interrupt, too
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def write_whole(file: FileIO, data: bytes) -> None:
    """Write all of the data: without a buffer, a disk that becomes full takes a part of it and raises nothing.

    Raises:
        OSError: it cannot be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _opened(path: Path, flags: int) -> FileIO:
    descriptor = os.open(path, flags, 0o666)
    return FileIO(descriptor, "ab" if flags & os.O_APPEND else "wb")


def _other(path: Path) -> str:
    return (
        f"{path} is not a regular file of this user, so it is not written to. Delete it, or set "
        "GLIMPSE_CACHE to a folder that nobody else can write to."
    )
