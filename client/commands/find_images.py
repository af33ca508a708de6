"""Finding the images that a command line names: files, folders, patterns. Lazily: a folder may hold millions."""

# ruff: noqa: PTH112, PTH116, PTH118, PTH120, PTH206, PTH207  (paths stay the strings that were typed: `Path` would turn "./a.jpg" into another)
from __future__ import annotations

import contextlib
import glob
import heapq
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator

from glimpse.client.commands.program import called

STDIN = "-"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# What a folder is searched for: all that names of the formats that a server decodes end in, as in `models.decoding`. A
# file that is named outright is sent whatever its name ends in.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
)
# Of macOS' archives, of network storage, of Windows: copies, thumbnails and what was thrown away. In lower case.
SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
    )
)
# Names of one folder that are held at a time. A larger folder is read again for each such portion: one of 300,000 files
# 5 times, which took 5 seconds of processor time and 18 MB, where classifying them takes many minutes.
PORTION = 65_536


def find(arguments: Iterable[str], *, leave_out: str | None = None) -> Iterator[str]:
    """The paths that the arguments name, in their order; those within a folder or pattern by name.

    A folder gives its own images first, then those of the folders in it. An argument that leads to no image is given
    back as it is, and so is a folder that cannot be read: whoever reads it says what is wrong with it, in its place
    among the others. Memory is bounded for folders of any size; the matches of a pattern are listed.

    Args:
        arguments: files, folders (searched with all that is below them, but for hidden names and the folders that
            systems keep for themselves), patterns such as ``photos/**/*.png`` for shells that do not expand them, and
            ``-`` for the standard input.
        leave_out: a folder that is not searched where it lies below another one.
    """
    left_out = None if leave_out is None else os.path.realpath(leave_out)
    for argument in arguments:
        if os.path.isdir(argument):
            yield from _or(argument, _below(argument, left_out))
        elif argument != STDIN and not os.path.lexists(argument) and glob.has_magic(argument):
            yield from _or(argument, _matching(argument, left_out))
        else:
            yield argument


def why_not_found(argument: str) -> str:
    """What to say of an argument that led to no image: a folder, a pattern, a URL or a name.

    Args:
        argument: as it was given, and given back by `find`.
    """
    if os.path.isdir(argument):
        return f"There is no image with one of these suffixes in {argument}: {', '.join(sorted(SUFFIXES))}."
    if _URL.match(argument):
        command = called(f"curl -s {shlex.quote(argument)} | glimpse classify -")
        return f"This is a URL, and only files are read. Download it first: {command}"
    if glob.has_magic(argument):
        return f"No file matches the pattern {argument}."
    return f"There is no file {argument}."


def is_named_like_one(path: str | os.PathLike[str]) -> bool:
    """Whether a file of that name is an image by its name."""
    return os.fspath(path).lower().endswith(SUFFIXES)


def _or(argument: str, found: Iterator[str]) -> Iterator[str]:
    """What was found; the argument itself where that is nothing."""
    yield next(found, argument)
    yield from found


def _below(folder: str, left_out: str | None) -> Iterator[str]:
    """Images of a folder, then of those below it; of each folder on the way down no more than a portion is held."""
    waiting = [iter((folder,))]
    while waiting:
        here = next(waiting[-1], None)
        if here is None:
            waiting.pop()
            continue
        try:
            for name in _names(here, _is_image):
                yield os.path.join(here, name)
        except OSError:
            yield here
        else:
            waiting.append(_folders(here, left_out))


def _folders(folder: str, left_out: str | None) -> Iterator[str]:
    with contextlib.suppress(OSError):  # it could be read a moment ago: it was removed meanwhile
        for name in _names(folder, _is_folder):
            path = os.path.join(folder, name)
            if left_out is None or os.path.realpath(path) != left_out:
                yield path


def _names(folder: str, wanted: Callable[[os.DirEntry[str]], bool]) -> Iterator[str]:
    """Names of the wanted entries, sorted.

    Raises:
        OSError: the folder cannot be read.
    """
    last = ""
    while True:
        with os.scandir(folder) as entries:
            following = (entry.name for entry in entries if entry.name > last and wanted(entry))
            names = heapq.nsmallest(PORTION, following)
        yield from names
        if len(names) < PORTION:
            return
        last = names[-1]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return not _is_left_out(entry.name) and entry.is_dir(follow_symlinks=False)


def _is_left_out(folder: str) -> bool:
    return folder.startswith(".") or folder.lower() in SYSTEM_FOLDERS


def _is_image(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or not entry.name.lower().endswith(SUFFIXES):
        return False
    return entry.is_file(follow_symlinks=False) or _is_readable_kind(entry.path)


def _matching(pattern: str, left_out: str | None) -> Iterator[str]:
    named = set(pattern.split(os.sep))
    for path in sorted(glob.iglob(pattern, recursive=True)):
        folders = set(os.path.dirname(path).split(os.sep)) - named
        if any(folder.lower() in SYSTEM_FOLDERS for folder in folders):
            continue
        if os.path.isdir(path):
            if "**" not in pattern:  # which matches all that is below the folder by itself
                yield from _below(path, left_out)
        elif _is_readable_kind(path):
            yield path


def _is_readable_kind(path: str) -> bool:
    """Whether reading it comes to an end: a pipe would wait for a writer. One that is named outright may have one."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True  # a broken link, for example: its reader says what is wrong
