"""Labelled images from a folder or a zip file, and the batches for training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train import files
from glimpse.models.train.augment import augment, cutmix
from glimpse.models.train.contents import Contents
from glimpse.models.train.plan import HoldOut
from glimpse.models.train.reading import network_input, summary

__all__ = ["Batches", "LabelledImages", "hold_out", "per_class", "read", "shares", "statistics", "summary"]


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """A labelled data set, decoded and resized to the network's input.

    Attributes:
        pixels: uint8 ``[N, *recipe.pixels_shape]``.
        classes: int64 ``[N]``, indices into `labels`; or where an image may show several labels, ``[N, labels]`` of 1
            and 0 (`models.train.multi_label`).
        labels: class names, sorted.
        left_out: for each file that could not be read, its name and the reason.
        empty: folders without a readable image.
        files: the name of each image's file; empty where they were not read from files.
        contents: a digest of the files and of what they show, see `models.train.contents`; empty where they were not
            read from files, or are not all that were.
    """

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    labels: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    empty: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    contents: str = ""

    def __len__(self) -> int:
        return len(self.classes)

    def select(self, index: NDArray[np.int64]) -> LabelledImages:
        """The images at `index`, in that order."""
        files = tuple(self.files[place] for place in index.tolist()) if self.files else ()
        return LabelledImages(self.pixels[index], self.classes[index], self.labels, files=files)


def read(
    path: Path,
    recipe: Recipe,
    labels: Sequence[str] | None = None,
    *,
    indices: Mapping[str, int] | None = None,
    skip_unreadable: bool = False,
    besides: Path | None = None,
) -> LabelledImages:
    """Read every ``.../class/image`` file below a folder or inside a zip; the parent folder names the class.

    All images are kept in memory as uint8, `height * width * channels` bytes each. Hidden files and folders and those
    of the operating system are ignored (`models.train.files`).

    Args:
        path: folder or zip file.
        recipe: pre-stem that makes each image the network's input.
        labels: class order to use; the sorted folder names when None.
        indices: the index of a class by each name that its folder may have; by its label alone when None.
        skip_unreadable: skip images that cannot be read or decoded; the result names them.
        besides: another folder or zip file, whose images are added.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: there is no image, an image cannot be read, or a class is not one of `labels`.
    """
    read_files: list[str] = []
    unreadable: list[tuple[str, str]] = []
    contents = Contents()
    with ExitStack() as opened:
        found = opened.enter_context(files.open_images(path, SUFFIXES))
        if besides is not None:
            found = found + opened.enter_context(files.open_images(besides, SUFFIXES))
        if stray := [file.name for file in found if "/" not in file.name]:
            raise ValueError(f"{path}: {stray[0]} is not in a folder, whose name would be its class. Move it into one.")
        empty = set(files.without_images(path, found))
        pixels = allocate(path, len(found), recipe)
        for file in found:
            try:
                content = file.read()
                pixels[len(read_files)] = network_input(content, recipe)
            except files.UnreadableError as error:
                unreadable.append((file.name, str(error)))
            else:
                read_files.append(file.name)
                contents.add(content, PurePosixPath(file.name).parent.name.encode(errors="surrogateescape"))
    names = [PurePosixPath(file).parent.name for file in read_files]
    if unreadable and not skip_unreadable:
        which, problems = "it" if len(unreadable) == 1 else "them", summary(unreadable)
        advice = f"Remove or repair {which}, or skip {which} with --skip-unreadable"
        raise ValueError(f"{path}: {problems}{chr(10) if chr(10) in problems else ' '}{advice}")
    if not names:
        why = f" {summary(unreadable)}" if unreadable else f" Supported suffixes: {', '.join(sorted(SUFFIXES))}"
        raise ValueError(f"{path} has no images in folders named after their classes.{why}")
    known = tuple(labels) if labels is not None else tuple(sorted(set(names)))
    index = {label: i for i, label in enumerate(known)} if indices is None else indices
    if unknown := sorted(set(names) - index.keys()):
        raise ValueError(f"{path} has classes that the model does not have: {', '.join(unknown)}")
    classes = np.array([index[name] for name in names])
    filled = set(names)
    empty |= {str(folder) for name, _ in unreadable if (folder := PurePosixPath(name).parent).name not in filled}
    return LabelledImages(
        pixels[: len(names)],
        classes,
        known,
        tuple(unreadable),
        tuple(sorted(empty)),
        files=tuple(read_files),
        contents=contents.digest,
    )


def allocate(path: Path, count: int, recipe: Recipe) -> NDArray[np.uint8]:
    """Room for so many images.

    Raises:
        ValueError: there is not enough memory.
    """
    try:
        return np.empty((count, *recipe.pixels_shape), np.uint8)
    except MemoryError:
        size = count * math.prod(recipe.pixels_shape) / 2**30
        raise ValueError(
            f"{path}: {count:,} images of {recipe.height} x {recipe.width} pixels need {size:,.0f} GiB of memory, and "
            "there is not as much. Give fewer images, or a smaller --size."
        ) from None


def hold_out(
    images: LabelledImages, count: int, seed: int, rule: HoldOut = "share"
) -> tuple[LabelledImages, LabelledImages]:
    """Split off `count` images for calibration and for monitoring the training.

    Args:
        images: all of them.
        count: how many are held out.
        seed: the same seed holds out the same images.
        rule: ``share``: the same share of every class, and its last image only when no class has another one;
            ``equal``: as many of every class, while it has some.

    Returns:
        (the rest, the held-out images).
    """
    if not 0 <= count < len(images):
        raise ValueError(
            f"--hold-out must be at least 0 and less than the number of images, {len(images)}. Received: {count}"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    # A stable sort by each image's place within its class walks through the classes in turn.
    place = np.empty(len(images), np.float64)
    for label in range(len(images.labels)):
        members = order[images.classes[order] == label]
        place[members] = np.arange(len(members))
        if rule == "share" and len(members):
            place[members] = (place[members] + 0.5) / len(members)
            place[members[-1]] = 1.0
    order = order[np.argsort(place[order], kind="stable")]
    return images.select(np.sort(order[count:])), images.select(np.sort(order[:count]))


def per_class(images: LabelledImages) -> list[int]:
    """How many images each class has, in the order of the labels."""
    counts: list[int] = np.bincount(images.classes, minlength=len(images.labels)).tolist()
    return counts


def statistics(images: LabelledImages, *, needs_std: bool = True) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, 0..255, to one decimal.

    Where there is a mask (`Recipe.masked`), padding is left out.

    Args:
        images: to measure.
        needs_std: whether the standard deviation will be used.

    Raises:
        ValueError: the standard deviation is needed, and that of a channel is 0.
    """
    # From counts of the 256 values: exact, and without a float copy of the images.
    values = np.arange(256)
    channels = np.moveaxis(images.pixels, -1, 0)
    # Of 2 or 4 channels, the last is the mask.
    seen = channels[-1] == 1 if len(channels) % 2 == 0 else np.bool_(True)  # noqa: FBT003 - a mask of one value
    counts = np.stack(
        [np.bincount(each[seen].ravel(), minlength=256) for each in channels[: len(channels) - (seen.ndim > 0)]]
    )
    mean = (counts @ values) / counts.sum(axis=1)
    std = np.sqrt((counts @ values**2) / counts.sum(axis=1) - mean**2)
    if needs_std and not all(std >= 0.05):
        raise ValueError(
            f"All pixels of these images are equal in a channel, so that it cannot be scaled to a standard "
            f"deviation of 1. Give --mean and --std. Received: std {std}"
        )
    return tuple(round(float(value), 1) for value in mean), tuple(round(float(value), 1) for value in std)


class Batches(keras.utils.PyDataset):
    """One epoch of shuffled, augmented uint8 batches; the epoch's number seeds both.

    The targets are the class numbers ``[N]`` or labels ``[N, labels]`` of the images; with CutMix float32
    ``[N, classes]``, the share of each class.

    The last batch is smaller where the images do not fill it, or, with `filled`, filled up with the first images of the
    epoch.
    """

    def __init__(
        self,
        images: LabelledImages,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        fill: tuple[int, ...],
        cutout: float = 0.0,
        cutmix: float = 0.0,
        filled: bool = False,
    ) -> None:
        super().__init__(workers=1, max_queue_size=16)
        self._images = images
        self._batch_size = batch_size
        self._seed = (seed, epoch)
        self._fill = fill
        self._cutout = cutout
        self._cutmix = cutmix
        self._order = np.random.default_rng(self._seed).permutation(len(images))
        if filled:
            self._order = np.resize(self._order, len(self) * batch_size)

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._batch_size)

    def __getitem__(self, step: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        index = self._order[step * self._batch_size : (step + 1) * self._batch_size]
        rng = np.random.default_rng((*self._seed, step))
        pixels = augment(self._images.pixels[index], rng, self._fill, self._cutout)
        if not self._cutmix:
            return pixels, self._images.classes[index]
        targets = shares(self._images, index)
        if rng.random() < self._cutmix:
            pixels, order, own = cutmix(pixels, rng)
            targets = np.float32(own) * targets + np.float32(1 - own) * targets[order]
        return pixels, targets


def shares(images: LabelledImages, index: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
    """The classes of images as the share of each, 1 and 0: float32 ``[N, classes]``."""
    return np.eye(len(images.labels), dtype=np.float32)[images.classes[index]]
