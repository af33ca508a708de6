"""Labelled image files, before any is decoded, and which class of a model each of their classes is.

Two forms are read: a folder or zip file with a folder for each class, and a folder with a ``labels.txt`` that has a
line for each image, ``FILE CLASS``. There a class may also be an index into the model's classes, unless these have
numbers for labels.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from glimpse.models import labels as classes
from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.files import bounded_files
from glimpse.models.labels import LABELS, LABELS_BYTES, ClassLabel, some
from glimpse.models.train import files


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """A data set as it lies on the disk.

    Attributes:
        path: what the user gave, for messages.
        images: the folder or zip file that `models.train.files.open_images` opens.
        files: of each image, the name within `images`, and the name of its class.
        indexed: the classes are whole numbers: indices into the model's classes, or labels that are numbers.
    """

    path: Path
    images: Path
    files: tuple[tuple[str, str], ...]
    indexed: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes, sorted."""
        return tuple(sorted({name for _, name in self.files}))


def find(path: Path) -> LabelledFiles:
    """The labelled images of a folder or a zip file.

    Raises:
        OSError: it does not exist or cannot be read.
        ValueError: it has no labelled images; the message says what was expected.
    """
    if path.is_dir() and (path / LABELS).is_file():
        return _listed(path)
    with files.open_images(path, SUFFIXES) as found:
        names = [file.name for file in found]
    if stray := [name for name in names if "/" not in name]:
        raise ValueError(
            f"{path}: {stray[0]} is not in a folder, whose name would be its class. Move each image into the folder of "
            f"its class, or write a {LABELS} with a line 'FILE CLASS' for each image."
        )
    if not names:
        raise ValueError(
            f"{path} has no images in folders named after their classes. Supported suffixes: "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    return LabelledFiles(path, path, tuple((name, PurePosixPath(name).parent.name) for name in names))


def _listed(path: Path) -> LabelledFiles:
    """The images that ``labels.txt`` names, in the folder or in the one zip file in it."""
    images = _images(path)
    with files.open_images(images, SUFFIXES) as found:
        names = [file.name for file in found]
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_name[PurePosixPath(name).name].append(name)
    whole = set(names)
    labelled: list[tuple[str, str]] = []
    missing: list[str] = []
    for number, line in enumerate(_lines(path / LABELS), start=1):
        # A tab separates where there is one, so that names may have spaces; else the last space does.
        name, separator, klass = line.partition("\t") if "\t" in line else line.rpartition(" ")
        name, klass = files.composed(name.strip()), klass.strip()
        if not (separator and name and klass):
            raise ValueError(
                f"{path / LABELS}: line {number} must be 'FILE CLASS', a file's name and its class, separated by a tab "
                f"or a space. Received: {bounded_files.shown(line)}"
            )
        at = [name] if name in whole else by_name.get(name, [])
        if len(at) > 1:
            raise ValueError(
                f"{path / LABELS}: line {number} names {name}, of which there are several: {some(at)}. Write its "
                "folder, too."
            )
        if at:
            labelled.append((at[0], klass))
        else:
            missing.append(name)
    if missing:
        raise ValueError(f"{path / LABELS} names images that are not in {images}: {some(missing)}.")
    if not labelled:
        raise ValueError(f"{path / LABELS} names no image. Write a line 'FILE CLASS' for each.")
    if twice := len(labelled) - len({name for name, _ in labelled}):
        raise ValueError(f"{path / LABELS} names {twice} images more than once. Give each image one line.")
    return LabelledFiles(path, images, tuple(labelled), indexed=all(re.fullmatch("[0-9]+", at) for _, at in labelled))


def _images(path: Path) -> Path:
    archives = sorted(path.glob("*.zip"))
    return archives[0] if len(archives) == 1 else path


def _lines(path: Path) -> list[str]:
    try:
        text = bounded_files.read_text(path, LABELS_BYTES)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    return [line for line in text.splitlines() if line.strip()]


def indices(data: LabelledFiles, labels: Sequence[ClassLabel], model: str) -> dict[str, int]:
    """Of each class of the data, its place among the model's classes.

    Args:
        data: the data set.
        labels: of the model, in the order of its output.
        model: its name, for messages.

    Raises:
        ValueError: the model does not know a class, or several of its classes have that name; the message names them.
    """
    # The labels "1" to "12" are not the indices 1 to 12, and not even in their order where they were sorted as texts.
    named = {each.label for each in labels}.intersection(data.classes) if data.indexed else set()
    if named and len(named) < len(data.classes):
        raise ValueError(
            f"{data.path} names classes by numbers, and only some are labels of {model}: {some(sorted(named))}. So it "
            "is not clear whether they are labels or indices. Name all of them by their labels."
        )
    if data.indexed and not named:
        beyond = [name for name in data.classes if int(name) >= len(labels)]
        if beyond:
            raise ValueError(
                f"{data.path} has classes that {model} does not know: {some(sorted(beyond, key=int))}. Its "
                f"{len(labels)} classes have the indices 0 to {len(labels) - 1}."
            )
        return {name: int(name) for name in data.classes}
    return classes.indices(data.classes, labels, data=data.path, model=model)
