"""Putting a file under a name of its own in a folder, without ever writing over another one."""

# ruff: noqa: PTH100, PTH103, PTH104, PTH108, PTH113, PTH114, PTH118, PTH119, PTH120, PTH122, PTH211  (paths stay strings)
from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
from collections.abc import Iterator, Mapping
from enum import StrEnum

UNSURE = "unsure"  # the folder of what is less probable than asked for
_LONGEST_NAME = 120  # bytes of a folder's name; file systems stop at 255
_UNSAFE = frozenset('<>:"/\\|?*')  # some file system or shell takes these for something else


class Method(StrEnum):
    """How a file gets to its place; the value says what was done."""

    COPY = "copied"
    LINK = "linked"
    SYMLINK = "symlinked"
    MOVE = "moved"


def folder_name(label: str) -> str:
    """A folder's name for a label, whatever that holds: one step down, never out of the folder, never hidden."""
    name = "".join(char if char.isprintable() and char not in _UNSAFE else "_" for char in label)
    name = name.encode(errors="replace")[:_LONGEST_NAME].decode(errors="ignore").strip(" .")
    return f"{name}_" if name in {"", UNSURE} else name


def free_place(source: str, folder: str, taken: Mapping[str, str]) -> str | None:
    """Where in a folder a file can go: under its own name, or with the first number that is free.

    Args:
        source: the file.
        folder: may be missing.
        taken: by place, the files that are to go there and have not yet.

    Returns:
        The place; None where one of these names has the same content already.

    Raises:
        OSError: files cannot be compared.
    """
    for place in _places(folder, os.path.basename(source)):
        there = taken.get(place, place)
        if not os.path.lexists(there):
            return place
        with contextlib.suppress(FileNotFoundError):  # a link that leads nowhere is somebody's, too
            if os.path.isfile(there) and filecmp.cmp(source, there, shallow=False):
                return None
    raise AssertionError  # there is always another number


def _places(folder: str, name: str) -> Iterator[str]:
    stem, suffix = os.path.splitext(name)
    yield os.path.join(folder, name)
    number = 2
    while True:
        yield os.path.join(folder, f"{stem}-{number}{suffix}")
        number += 1


def make_folder(path: str) -> None:
    """Make a folder where there is none.

    Raises:
        NotADirectoryError: a file is there, or in the way to it. This is not a place that has been taken meanwhile.
        OSError: it cannot be made.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error


def put(source: str, place: str, method: Method) -> None:
    """Put a file in its place, whole or not at all.

    Raises:
        FileExistsError: somebody took the place.
        OSError: it cannot be done.
    """
    make_folder(os.path.dirname(place))
    if method is Method.LINK:
        os.link(os.path.realpath(source), place)
    elif method is Method.SYMLINK:
        os.symlink(os.path.abspath(source), place)
    elif method is Method.COPY:
        _copy(source, place)
    else:
        _move(source, place)


def _move(source: str, place: str) -> None:
    """Only when the file is in its new place it leaves the old one."""
    linked = False
    if not os.path.islink(source):  # its content moves; it may be relative
        with _unless_unsupported():
            os.link(source, place)
            linked = True
    if not linked:
        _copy(source, place)
    os.unlink(source)


def _copy(source: str, place: str) -> None:
    folder, name = os.path.split(place)
    partial = os.path.join(folder, f".{name[:100]}.glimpse-partial")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)  # of a run that was killed
    try:
        shutil.copy2(source, partial)
        linked = False
        with _unless_unsupported():
            os.link(partial, place)  # unlike a renaming, this fails where there is something
            linked = True
        if not linked:
            if os.path.lexists(place):
                raise FileExistsError(place)
            os.rename(partial, place)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


@contextlib.contextmanager
def _unless_unsupported() -> Iterator[None]:
    """Let a hard link fail where there can be none: across disks, and on those of cameras."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError:
        return
