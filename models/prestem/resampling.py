"""Reducing without antialiasing: each pixel of the result is made of the few nearest ones, whatever lies between.

Pillow has nothing for it. Its `resize` always averages; its `transform` rounds down, has another bicubic filter (up to
22 of 255 from TensorFlow's) and no Lanczos.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]

_BAND = 1 << 20  # pixels that are held as floats at a time: 12 MB


@dataclass(frozen=True, slots=True)
class Axis:
    """What one axis of an image becomes: ``length`` pixels of `start` to `stop`, of which `part` is wanted."""

    start: float  # in the image's pixels and their fractions
    stop: float
    length: int
    part: range

    def taps(self, side: int, name: str) -> tuple[NDArray[np.intp], Floats]:
        """The nearest pixels of an image with `side` of them: ``[len(part), taps]`` indices and weights.

        Beyond the edge there is nothing: the weights of what is there are raised to a sum of 1.
        """
        taps, kernel = _KERNELS[name]
        # A pixel's value lies in its middle.
        middles = self.start + (np.array(self.part) + 0.5) * ((self.stop - self.start) / self.length) - 0.5
        indices = np.floor(middles).astype(np.intp)[:, None] + np.arange(1 - taps // 2, 1 + taps // 2)
        weights = kernel(np.abs(middles[:, None] - indices))
        weights[(indices < 0) | (indices >= side)] = 0
        return indices.clip(0, side - 1), weights / weights.sum(axis=1, keepdims=True)


def resize(image: Image.Image, horizontal: Axis, vertical: Axis, name: str) -> Image.Image:
    """The wanted part of an RGB or grey image, by the filter `name`: bilinear, bicubic or lanczos."""
    columns, across = horizontal.taps(image.width, name)
    rows, down = vertical.taps(image.height, name)
    left, right = int(columns.min()), int(columns.max()) + 1
    # In bands of rows: as arrays, the pixels of a large image would take more memory than the image.
    height = int(np.ptp(rows)) + 1
    pixels = max((right - left) * height, rows.size * len(columns))
    bands = []
    for band in np.array_split(np.arange(len(rows)), min(len(rows), height, math.ceil(pixels / _BAND))):
        top, bottom = int(rows[band].min()), int(rows[band].max()) + 1
        part = np.asarray(image.crop((left, top, right, bottom))).reshape(bottom - top, right - left, -1)
        lines = np.zeros((*rows[band].shape, len(columns), part.shape[-1]), np.float32)
        for tap, weight in enumerate(across.T.astype(np.float32)):
            lines += part[rows[band][..., None] - top, columns[:, tap] - left] * weight[:, None]
        values = np.einsum("rtcx,rt->rcx", lines, down[band].astype(np.float32))
        bands.append(np.rint(values).clip(0, 255).astype(np.uint8))
    return Image.fromarray(np.concatenate(bands).squeeze(axis=-1) if image.mode == "L" else np.concatenate(bands))


def _triangle(x: Floats) -> Floats:
    return np.maximum(0, 1 - x)


def _cubic(x: Floats) -> Floats:
    """Keys' cubic convolution with a = -1/2, which Pillow's and TensorFlow's bicubic filter is."""
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: Floats) -> Floats:
    return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)


# How many pixels on an axis each filter sees, and their weights by their distance.
_KERNELS: dict[str, tuple[int, Callable[[Floats], Floats]]] = {
    "bilinear": (2, _triangle),
    "bicubic": (4, _cubic),
    "lanczos": (6, _lanczos),
}
