"""The folder in which a server keeps samples (GLIMPSE_SAMPLES): those with a true class are labelled images.

Each is an image file and a JSON file that names it and, once somebody has told it, its true class. The server writes
there while it is read, and deletes what is old.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from glimpse.models.files import bounded_files

MARK = ".glimpse-samples"  # the server's lock file, by which such a folder is known
_SIDE_BYTES = 1 << 20  # of a JSON file


def is_samples(path: Path) -> bool:
    """Whether it is such a folder."""
    return (path / MARK).is_file()


def labelled(path: Path) -> Iterator[tuple[str, str]]:
    """The samples with a true class: the name of the image file, and the class; by the names of their files."""
    for side in sorted(path.glob("*.json")):
        file, true_class = _read(side)
        if file and true_class:
            # As a folder would be called, whose name cannot have a slash.
            yield file, true_class.replace("/", "-")


def unlabelled(path: Path) -> int:
    """How many samples have no true class yet."""
    return sum(not _read(side)[1] for side in path.glob("*.json"))


def _read(side: Path) -> tuple[str, str]:
    """Name of the image file and true class, as a JSON file has them; empty where it has not, or cannot be read."""
    try:
        facts = json.loads(bounded_files.read_text(side, _SIDE_BYTES))
        file, true_class = facts["file"], facts["true_class"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "", ""
    inside = isinstance(file, str) and Path(file).name == file and not file.startswith(".")
    return (file if inside else ""), (true_class if isinstance(true_class, str) else "")
