"""Finding the images that a command line names: files, folders, patterns. Lazily: a folder may hold millions."""

# ruff: noqa: PTH112, PTH116, PTH118, PTH207  (paths stay the strings that were typed: `Path` would turn "./a.jpg" into another)
from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator

STDIN = "-"
# What a folder is searched for. A file that is named outright is sent whatever its name ends in.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


def find(arguments: Iterable[str]) -> Iterator[str]:
    """The paths that the arguments name, in their order; those within a folder or pattern by name.

    An argument that leads to no image is given back as it is: whoever reads it says what is wrong with it, in its
    place among the others.

    Args:
        arguments: files, folders (searched with all that is below them, but for hidden names), patterns such as
            ``photos/**/*.png`` for shells that do not expand them, and ``-`` for the standard input.
    """
    for argument in arguments:
        if os.path.isdir(argument):
            yield from _or(argument, _below(argument))
        elif argument != STDIN and not os.path.lexists(argument) and glob.has_magic(argument):
            yield from _or(argument, _matching(argument))
        else:
            yield argument


def _or(argument: str, found: Iterator[str]) -> Iterator[str]:
    """What was found; the argument itself where that is nothing."""
    yield next(found, argument)
    yield from found


def _below(folder: str) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(root, name)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and _is_readable_kind(path):
                yield path


def _matching(pattern: str) -> Iterator[str]:
    for path in sorted(glob.iglob(pattern, recursive=True)):
        if os.path.isdir(path):
            if "**" not in pattern:  # which matches all that is below the folder by itself
                yield from _below(path)
        elif _is_readable_kind(path):
            yield path


def _is_readable_kind(path: str) -> bool:
    """Whether reading it comes to an end: a pipe would wait for a writer. One that is named outright may have one."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True  # a broken link, for example: its reader says what is wrong
