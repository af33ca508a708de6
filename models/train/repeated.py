"""Images that are in the data more than once: to be measured with and trained on, or in classes that differ.

What a network has been trained on it also knows by heart, so that results on the same images are better than on new
ones. Images are compared as the network sees them: the same picture in another format, or a reduced copy of it, is
another image where any pixel differs.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse.models.labels import counted, some

if TYPE_CHECKING:
    from glimpse.models.train.data import LabelledImages

_DIGEST = 16  # bytes; of a million images, no two have one by chance


class Seen(NamedTuple):
    """One image."""

    digest: bytes  # of its pixels
    target: bytes  # its class, or all of its labels
    file: str


def seen(images: LabelledImages, index: NDArray[np.int64] | None = None) -> list[Seen]:
    """The images at `index`, or all of them: a gigabyte of pixels takes a second or two."""
    places = range(len(images)) if index is None else index.tolist()
    return [
        Seen(
            hashlib.blake2b(images.pixels[place].tobytes(), digest_size=_DIGEST).digest(),
            images.classes[place].tobytes(),
            images.files[place] if images.files else f"image {place + 1}",
        )
        for place in places
    ]


def report(
    data: Path, test: Path | None, training: Sequence[Seen], held_out: Sequence[Seen], tested: Sequence[Seen] = ()
) -> int:
    """Say which images are there more than once, where that spoils a training or what is measured of it.

    Args:
        data: the folder or zip file of those that are trained on and held out.
        test: that of the test images.
        training: images that are trained on.
        held_out: images that are not, from the same folder.
        tested: the test images.

    Returns:
        How many of the test images are trained on.
    """
    if unlike := _contradicting([*training, *held_out]):
        _say(
            f"{data}: {counted(unlike, 'image is', 'images are')} the same as another one, pixel for pixel, but of "
            f"another class or with other labels: {some(unlike)}. Keep the right one of both."
        )
    if again := _again(training, held_out):
        _say(
            f"{data}: of the held-out images, {counted(again, 'is', 'are')} also trained on, pixel for pixel, so that "
            f"the temperature and what is measured on them will be too good: {some(again)}. Keep each image once."
        )
    if known := _again(training, tested):
        _say(
            f"{test}: of the test images, {counted(known, 'is', 'are')} also trained on, pixel for pixel, so that the "
            f"results will be better than on new images: {some(known)}. Remove them here, or in {data}."
        )
    return len(known)


def _again(training: Iterable[Seen], others: Iterable[Seen]) -> list[str]:
    """The others that are trained on, each with the file that it is the same as."""
    trained = {each.digest: each.file for each in training}
    return [f"{each.file} as {trained[each.digest]}" for each in others if each.digest in trained]


def _contradicting(images: Iterable[Seen]) -> list[str]:
    first: dict[bytes, Seen] = {}
    found = []
    for each in images:
        other = first.setdefault(each.digest, each)
        if other.target != each.target:
            found.append(f"{each.file} as {other.file}")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - a program's
