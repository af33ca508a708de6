"""Augmentation in uint8: shift and mirror as in He et al., arXiv:1512.03385, section 4.2; cutout; CutMix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def augment(
    pixels: NDArray[np.uint8], rng: np.random.Generator, fill: tuple[int, ...] = (0,), cutout: float = 0.0
) -> NDArray[np.uint8]:
    """Shift every image by up to an eighth of its size (4 of 32 pixels) and mirror half of them.

    What is shifted in is the image's own edge, mirrored.

    Args:
        pixels: uint8 ``[N, H, W, C]``; not changed.
        rng: source of the randomness; the same state gives the same batch.
        fill: value of what is cut out, one number a channel or one for all: the pre-stem's own padding.
        cutout: side of a square that is blanked somewhere in every image, as a share of the image's sides, the centre
            anywhere in it (DeVries and Taylor, arXiv:1708.04552); 0 for none.

    Returns:
        uint8 ``[N, H, W, C]``.
    """
    count, height, width, _ = pixels.shape
    dy, dx = height // 8, width // 8
    # Mirrored rather than filled: no photo has black bars that a network could learn from.
    padded = np.pad(pixels, ((0, 0), (dy, dy), (dx, dx), (0, 0)), mode="reflect")
    mirrored = np.less(rng.random(count), 0.5)
    tops, lefts = rng.integers(0, 2 * dy + 1, count), rng.integers(0, 2 * dx + 1, count)
    out = np.empty_like(pixels)
    for i, (mirror, top, left) in enumerate(zip(mirrored, tops, lefts, strict=True)):
        crop = padded[i, top : top + height, left : left + width]
        out[i] = crop[:, ::-1] if mirror else crop
    if cutout:
        high, wide = round(height * cutout), round(width * cutout)
        tops, lefts = rng.integers(0, height, count) - high // 2, rng.integers(0, width, count) - wide // 2
        for i in range(count):
            out[i, max(tops[i], 0) : max(tops[i] + high, 0), max(lefts[i], 0) : max(lefts[i] + wide, 0)] = fill
    return out


def cutmix(pixels: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64], float]:
    """Replace a rectangle of every image by that of another one (Yun et al., arXiv:1905.04899), the same for a batch.

    Its area is any share of the image's, all alike often, and its centre anywhere in the image.

    Args:
        pixels: uint8 ``[N, H, W, C]``; not changed.
        rng: source of the randomness.

    Returns:
        (uint8 ``[N, H, W, C]``; int64 ``[N]``, the image that each rectangle is of; the share of every image's pixels
        that are still its own.)
    """
    count, height, width, _ = pixels.shape
    order = rng.permutation(count)
    side = np.sqrt(rng.random())
    high, wide = round(height * side), round(width * side)
    top, left = int(rng.integers(0, height)) - high // 2, int(rng.integers(0, width)) - wide // 2
    rows, columns = slice(max(top, 0), min(top + high, height)), slice(max(left, 0), min(left + wide, width))
    out = pixels.copy()
    out[:, rows, columns] = pixels[order, rows, columns]
    replaced = (rows.stop - rows.start) * (columns.stop - columns.start)
    return out, order, 1 - replaced / (height * width)
