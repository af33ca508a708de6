"""Holding images out of a small or unbalanced data set: the same share of every class, and never all of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glimpse.models.train.transfer.fit import Split


def split(classes: NDArray[np.int64], labels: Sequence[str], count: int, seed: int) -> Split:
    """Hold out `count` images: of each class its share of all images, at least one, and never all.

    Args:
        classes: class number of every image.
        labels: of the classes.
        count: of images that are held out.
        seed: the same seed holds out the same images.

    Raises:
        ValueError: a class has one image alone, or `count` is too small or too large.
    """
    of_class = np.bincount(classes, minlength=len(labels))
    for label, images in zip(labels, of_class.tolist(), strict=True):
        if images < 2:
            raise ValueError(
                f"The class {label!r} has only {images} image{'s' * (images != 1)}, but needs two: one to train with "
                "and one to hold out. Add images to its folder, or remove it."
            )
    if not len(labels) <= count <= len(classes) - len(labels):
        raise ValueError(
            f"--hold-out must be at least {len(labels)} and at most {len(classes) - len(labels)} here, so that every "
            f"class has an image that is held out and one to train with. Received: {count}"
        )
    counts = _shares(of_class, count)
    rng = np.random.default_rng(seed)
    held_out = [
        rng.permutation(np.flatnonzero(classes == number))[:wanted] for number, wanted in enumerate(counts.tolist())
    ]
    chosen = np.sort(np.concatenate(held_out))
    return Split(training=np.setdiff1d(np.arange(len(classes)), chosen), held_out=chosen)


def _shares(of_class: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """How many of each class are held out, `count` together."""
    exact = of_class * count / of_class.sum()
    counts: NDArray[np.int64] = np.clip(exact.astype(np.int64), 1, of_class - 1)
    while (missing := count - int(counts.sum())) != 0:
        # One at a time to the class that is furthest from its share, among those that can change.
        step = 1 if missing > 0 else -1
        free = (counts < of_class - 1) if step > 0 else (counts > 1)
        gap = np.where(free, (exact - counts) * step, -np.inf)
        counts[int(gap.argmax())] += step
    return counts
