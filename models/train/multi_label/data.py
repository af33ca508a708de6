"""Images with the labels of a table: read, and held out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.labels import some
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train import files
from glimpse.models.train.contents import Contents
from glimpse.models.train.data import LabelledImages, allocate
from glimpse.models.train.multi_label import split
from glimpse.models.train.multi_label.table import LabelTable, check_files
from glimpse.models.train.reading import network_input, summary

_HELD_OUT = (5, 2500)  # one of so many images, at most so many: a threshold for each label is fitted on them


def names(path: Path) -> list[str]:
    """The images in a folder or a zip file."""
    with files.open_images(path, SUFFIXES) as found:
        return [file.name for file in found]


def read(path: Path, table: LabelTable, recipe: Recipe, *, skip_unreadable: bool = False) -> LabelledImages:
    """Read every image of a folder or a zip file, with its labels.

    Args:
        path: folder or zip file.
        table: which image shows which labels.
        recipe: pre-stem that makes each image the network's input.
        skip_unreadable: skip images that cannot be read or decoded; the result names them.

    Returns:
        The images; their `classes` are int64 ``[N, labels]`` of 1 and 0.

    Raises:
        OSError: `path` cannot be read.
        ValueError: there is no image, the table is not one of these images, or an image cannot be read.
    """
    rows = {name: row for row, name in enumerate(table.files)}
    unreadable: list[tuple[str, str]] = []
    read_rows: list[int] = []
    contents = Contents()
    with files.open_images(path, SUFFIXES) as found:
        check_files(table, path, [file.name for file in found])
        pixels = allocate(path, len(found), recipe)
        for file in found:
            try:
                content = file.read()
                pixels[len(read_rows)] = network_input(content, recipe)
            except files.UnreadableError as error:
                unreadable.append((file.name, str(error)))
            else:
                read_rows.append(rows[file.name])
                contents.add(content, table.targets[read_rows[-1]].astype("<i8").tobytes())
    if unreadable and not skip_unreadable:
        raise ValueError(
            f"{path}: {summary(unreadable)} Remove or repair what cannot be read, or skip it with --skip-unreadable"
        )
    if not read_rows:
        raise ValueError(f"{path} has no images. Supported suffixes: {', '.join(sorted(SUFFIXES))}")
    return LabelledImages(
        pixels[: len(read_rows)],
        table.targets[read_rows],
        table.labels,
        tuple(unreadable),
        files=tuple(table.files[row] for row in read_rows),
        contents=contents.digest,
    )


def hold_out_places(images: LabelledImages, count: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which images train and which are held out: places, rising.

    Args:
        images: all of them.
        count: how many are held out, nearly; None: a fifth, at most 2,500.
        seed: the same seed holds out the same images.

    Raises:
        ValueError: a label would be in one of the parts alone, or `count` leaves no image to train with.
    """
    share, most = _HELD_OUT
    wanted = min(most, math.ceil(len(images) / share)) if count is None else count
    if not 0 < wanted < len(images):
        raise ValueError(
            f"--hold-out must be at least 1 and less than the number of images, {len(images)}. Received: {wanted}"
        )
    held_out = split.held_out(images.classes, wanted, seed)
    training = np.setdiff1d(np.arange(len(images)), held_out)
    for part, what in ((training, "trained with"), (held_out, "held out")):
        shown = images.classes[part].sum(axis=0)
        if lacking := [label for label, count in zip(images.labels, shown, strict=True) if not count]:
            raise ValueError(
                f"No image with one of these labels would be {what}: {some(lacking)}. Add images that show it, or give "
                "another --hold-out or --seed."
            )
    return training, held_out
