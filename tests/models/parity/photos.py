"""Real photos for comparisons of pixels, and odd cuts of them: scikit-image's, which come with its package."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

Pixels = NDArray[np.uint8]


@functools.cache
def photos() -> dict[str, Image.Image]:
    """Photos by name: both orientations, odd sides, narrow ones, and one that is smaller than most inputs."""
    cat, coffee, astronaut, rocket = data.chelsea(), data.coffee(), data.astronaut(), data.rocket()
    cuts = {
        "cat 451x300": cat,
        "coffee 600x400": coffee,
        "astronaut 512x512": astronaut,
        "cat 333x299": cat[:299, 57:390],
        "rocket 427x639": rocket.transpose(1, 0, 2)[:639],
        "coffee 101x400": coffee[:, 211:312],
        "rocket 640x65": rocket[200:265],
        "astronaut 97x150": astronaut[40:190, 170:267],
    }
    return {name: Image.fromarray(np.ascontiguousarray(cut)) for name, cut in cuts.items()}


PHOTOS = (
    "cat 451x300",
    "coffee 600x400",
    "astronaut 512x512",
    "cat 333x299",
    "rocket 427x639",
    "coffee 101x400",
    "rocket 640x65",
    "astronaut 97x150",
)


def furthest(ours: Pixels, theirs: NDArray[np.generic]) -> float:
    """The largest difference of two images' values, in steps of 1/255."""
    assert ours.shape == theirs.shape, f"{ours.shape} against {theirs.shape}"
    return float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())


def share_above(ours: Pixels, theirs: NDArray[np.generic], steps: float) -> float:
    """The share of values that differ by more than so many steps of 1/255."""
    return float((np.abs(ours.astype(np.float64) - theirs.astype(np.float64)) > steps).mean())


def tell(measured: str) -> None:
    """Say what was measured; pytest shows it with -rP."""
    print(measured)  # noqa: T201 - it is what the tests are run for
