"""Opening files that a user names, if they are regular files.

Opening a named pipe waits for its other end, a device such as ``/dev/zero`` never ends, and a sparse file may claim
terabytes that are not stored.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

# A file may be larger than what is stored of it by so much: some file systems compress, and count in blocks.
_LARGE, _RATIO = 64 << 20, 8
_BLOCK = 512  # bytes, in which `stat` counts whatever the blocks of the file system are
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotARegularFileError(OSError):
    """The path leads to something other than a regular file; the message is a sentence with the path."""

    def __init__(self, path: Path, reason: str) -> None:
        """`reason` is the rest of a sentence that begins with the path, without the full stop: "is a folder"."""
        super().__init__(f"{path} {reason}.")
        self.reason = reason


def open_file(path: Path, *, holes: bool = False) -> BufferedReader:
    """Open a file for reading; symbolic links are followed.

    Args:
        path: of the file.
        holes: whether a sparse file is allowed, because it is read only up to a limit.

    Raises:
        NotARegularFileError: a folder, a named pipe, a socket, a device, a loop of links, or a mostly sparse file.
        OSError: it cannot be opened.
    """
    # Looked at before it is opened as well: to open a device can be an act of its own.
    kind = _special(path)
    if kind is not None:
        raise _refusal(path, kind)
    # Without O_NONBLOCK (not on Windows, which has no such pipes) opening a pipe waits for whoever writes to it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    try:
        _check(path, descriptor, holes=holes)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check(path: Path, descriptor: int, *, holes: bool) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise _refusal(path, _kind(found.st_mode))
    if not holes and _mostly_holes(descriptor, found):
        raise NotARegularFileError(
            path,
            f"is a sparse file: it claims {found.st_size} bytes, and the file system stores only a fraction of them. "
            "Copy the file again from its source",
        )


def _refusal(path: Path, kind: str) -> NotARegularFileError:
    return NotARegularFileError(path, f"is {kind}, not a file. Give the path of a file")


def _special(path: Path) -> str | None:
    """What the path leads to, if not to a regular file; None: a regular file, or not known."""
    try:
        mode = path.stat().st_mode
    except RuntimeError:
        return "a link to itself"
    except OSError:
        return None
    return None if stat.S_ISREG(mode) else _kind(mode)


def _kind(mode: int) -> str:
    return next((name for matches, name in _KINDS if matches(mode)), "something else")


def _mostly_holes(descriptor: int, found: os.stat_result) -> bool:
    if found.st_size < _LARGE:
        return False
    blocks = getattr(found, "st_blocks", 0)  # Windows does not tell
    if blocks:
        return bool(blocks * _BLOCK * _RATIO < found.st_size)
    # Some network file systems tell no blocks at all; then only a file without any data is known for certain.
    seek_data = getattr(os, "SEEK_DATA", None)
    if seek_data is None:
        return False
    try:
        os.lseek(descriptor, 0, seek_data)
    except OSError:
        return True
    os.lseek(descriptor, 0, os.SEEK_SET)
    return False
