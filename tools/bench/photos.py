"""The photos of the benchmark: always the same, of the size that ImageNet's have."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from skimage import data

COUNT = 64
SIZE = (500, 375)  # width, height
QUALITY = 90
_SEED = 20240501
_SMALLEST = 0.6  # of the largest crop of a photo that has the right shape


def jpegs(count: int = COUNT) -> list[bytes]:
    """`count` JPEG files of 500 x 375 pixels, quality 90, 4:2:0: random crops of five real photos.

    Equal on every machine that has the same versions of Pillow and scikit-image.
    """
    files = []
    for picture in _crops(count):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        files.append(file.getvalue())
    return files


def pixels(height: int, width: int, count: int = COUNT) -> list[bytes]:
    """The same crops as raw RGB pixels, ``height * width * 3`` bytes each."""
    return [picture.resize((width, height), Image.Resampling.BICUBIC).tobytes() for picture in _crops(count)]


def _crops(count: int) -> Iterator[Image.Image]:
    generator = np.random.default_rng(_SEED)
    # All of them come with scikit-image; none is fetched.
    sources = [
        Image.fromarray(source).convert("RGB")
        for source in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0])
    ]
    shape = SIZE[0] / SIZE[1]
    for i in range(count):
        source = sources[i % len(sources)]
        largest = min(source.width, source.height * shape)
        width = largest * generator.uniform(_SMALLEST, 1)
        height = width / shape
        left, top = generator.uniform(0, source.width - width), generator.uniform(0, source.height - height)
        yield source.resize(SIZE, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
