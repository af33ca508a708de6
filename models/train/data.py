"""Labelled images from a folder or a zip, and the batches that training and evaluation feed on."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import keras
import numpy as np
from numpy.typing import NDArray

from models.decoding.decode import decode
from models.decoding.formats import SUFFIXES
from models.decoding.limits import OWN_FILES
from models.decoding.refusals import RefusedImageError
from models.prestem import host
from models.prestem.recipe import Recipe
from models.train.augment import augment


@dataclass(frozen=True, slots=True)
class Labelled:
    """A labelled image set, decoded through the host half of the pre-stem.

    Attributes:
        pixels: uint8 ``[N, height, width, 3]``.
        classes: int64 ``[N]``, indices into `labels`.
        labels: class names, sorted.
    """

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.classes)

    def select(self, index: NDArray[np.int64]) -> Labelled:
        """The images at `index`, in that order."""
        return Labelled(self.pixels[index], self.classes[index], self.labels)


def read(path: Path, recipe: Recipe, labels: Sequence[str] | None = None) -> Labelled:
    """Read every ``.../class/image`` file below a folder or inside a zip; the parent folder names the class.

    All images are kept in memory as uint8, which is `height * width * 3` bytes each.

    Args:
        path: folder or zip file.
        recipe: pre-stem that makes each image the network's input.
        labels: class order to use; the sorted folder names when None.

    Raises:
        FileNotFoundError: nothing at `path`.
        ValueError: no image in it, an image that cannot be decoded, or a class that `labels` lacks.
    """
    names: list[str] = []
    pixels: list[NDArray[np.uint8]] = []
    for name, data in _files(path):
        try:
            pixels.append(host.fit(decode(data, OWN_FILES), recipe))
        except RefusedImageError as error:
            raise ValueError(f"{path}: {name} cannot be decoded: {error} Remove it or mend it.") from error
        folder = PurePosixPath(name).parent.name
        if not folder:
            raise ValueError(f"{path}: {name} lies in no folder that would name its class. Sort it into one.")
        names.append(folder)
    if not names:
        raise ValueError(f"{path} holds no class/image files. Known suffixes: {', '.join(sorted(SUFFIXES))}")
    known = tuple(labels) if labels is not None else tuple(sorted(set(names)))
    index = {label: i for i, label in enumerate(known)}
    if unknown := sorted(set(names) - index.keys()):
        raise ValueError(f"{path} holds classes that the model does not have: {', '.join(unknown)}")
    return Labelled(np.stack(pixels), np.array([index[name] for name in names]), known)


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path)
            if _is_image(name):
                yield name.as_posix(), file.read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in sorted(archive.namelist()):
                if _is_image(PurePosixPath(entry)):
                    yield entry, archive.read(entry)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is neither a folder nor a whole zip file: {error}.") from error


def _is_image(name: PurePath) -> bool:
    # Archives made on a Mac carry a hidden "._" shadow of every file, with the same suffix.
    return name.suffix.lower() in SUFFIXES and not name.name.startswith(".")


def hold_out(images: Labelled, count: int, seed: int) -> tuple[Labelled, Labelled]:
    """Split off `count` images, the same share of every class, for calibration and for watching the training.

    Returns:
        (the rest, the held-out images); the same split for the same seed.
    """
    if not 0 <= count < len(images):
        raise ValueError(f"Cannot hold out {count} of {len(images)} images.")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    # A stable sort by each image's rank within its class walks through the classes in turn.
    rank = np.empty(len(images), np.int64)
    for label in range(len(images.labels)):
        members = order[images.classes[order] == label]
        rank[members] = np.arange(len(members))
    order = order[np.argsort(rank[order], kind="stable")]
    return images.select(np.sort(order[count:])), images.select(np.sort(order[:count]))


def statistics(images: Labelled) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of red, green and blue over all pixels, 0..255, to one decimal.

    Raises:
        ValueError: a channel is the same everywhere, so there is nothing to scale by.
    """
    # From counts of the 256 values: exact, and without a float copy of the images.
    values = np.arange(256)
    counts = np.stack([np.bincount(images.pixels[..., channel].ravel(), minlength=256) for channel in range(3)])
    mean = (counts @ values) / counts.sum(axis=1)
    std = np.sqrt((counts @ values**2) / counts.sum(axis=1) - mean**2)
    r, g, b = (round(float(value), 1) for value in mean)
    if not all(std >= 0.05):
        raise ValueError(f"These images have a channel without contrast. Give --mean and --std. Received: std {std}")
    sr, sg, sb = (round(float(value), 1) for value in std)
    return (r, g, b), (sr, sg, sb)


class Batches(keras.utils.PyDataset):
    """One epoch of shuffled, augmented uint8 batches; the epoch's number seeds both."""

    def __init__(
        self,
        images: Labelled,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        fill: tuple[int, int, int],
        cutout: float = 0.0,
    ) -> None:
        super().__init__(workers=1, max_queue_size=16)
        self._images = images
        self._batch_size = batch_size
        self._seed = (seed, epoch)
        self._fill = fill
        self._cutout = cutout
        self._order = np.random.default_rng(self._seed).permutation(len(images))

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._batch_size)

    def __getitem__(self, step: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        index = self._order[step * self._batch_size : (step + 1) * self._batch_size]
        rng = np.random.default_rng((*self._seed, step))
        return augment(self._images.pixels[index], rng, self._fill, self._cutout), self._images.classes[index]
