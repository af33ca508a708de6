"""Holding images out where an image may show several labels: each label keeps its share in both parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEAST = 1  # images of a label that are held out


def held_out(targets: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """The images that are held out: places, rising; about `count` of them.

    Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-label Data", 2011: of the label that the fewest of
    the images left show, each goes to the part that lacks most of that label. At least one image of each label is held
    out, and one is not.

    Args:
        targets: ``[N, labels]`` of 1 and 0; each label is on two images at least.
        count: of images to be held out, at least 1 and less than N.
        seed: the same seed holds out the same images.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets))
    shown = targets.sum(axis=0).astype(np.float64)
    # What each part still lacks: of each label, and of images.
    wanted = np.stack([shown * (1 - count / len(targets)), shown * count / len(targets)])
    wanted[1] = np.maximum(wanted[1], _LEAST)
    wanted[0] = np.maximum(shown - wanted[1], _LEAST)
    images = np.array([len(targets) - count, count], np.float64)
    remaining = targets.sum(axis=0)  # images left that show each label
    left = np.ones(len(targets), bool)
    chosen = np.zeros(len(targets), bool)

    def place(image: int, label: int | None) -> None:
        lacking = images if label is None else wanted[:, label]
        part = int(lacking[1] > lacking[0]) if lacking[0] != lacking[1] else int(images[1] > images[0])
        chosen[image], left[image] = part == 1, False
        wanted[part] -= targets[image]
        images[part] -= 1
        np.subtract(remaining, targets[image], out=remaining)

    while remaining.any():
        label = int(np.where(remaining > 0, remaining, len(targets) + 1).argmin())
        for image in order[left[order] & (targets[order, label] == 1)]:
            place(int(image), label)
    for image in order[left[order]]:
        place(int(image), None)
    return np.flatnonzero(chosen)
