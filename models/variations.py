"""Random crops of a few photographs, on which a reduced precision is compared with float32.

The comparison needs many pictures like those that a network will receive. Crops of photographs with random sizes,
positions, mirroring and brightness, as in the augmentation of training, are realistic; noise and patterns are not.

No framework is imported here.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from glimpse.models.golden import SampleImage, photographs
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe

_SIDES = (0.3, 1.0)  # of a crop, as a share of the photograph's shorter side
_ASPECTS = (3 / 4, 4 / 3)  # width by height of a crop
_BRIGHTNESS = (0.8, 1.2)


def digest(own: Iterable[SampleImage]) -> str:
    """A hash of all files that `series` crops from."""
    whole = hashlib.sha256()
    for picture in (*own, *photographs()):
        whole.update(hashlib.sha256(picture.data).digest())
    return whole.hexdigest()


def series(own: Iterable[SampleImage], recipe: Recipe) -> Iterator[NDArray[np.uint8]]:
    """An endless, reproducible series of pictures: uint8 `recipe.pixels_shape`.

    The bundle's own pictures come first, unchanged. Then follow random crops of them if they are at least as large as
    the network's input, else of the photographs of the package. A crop that is smaller than the input is enlarged.

    Args:
        own: the pictures of the bundle's golden answers, which may be none.
        recipe: the bundle's pre-stem.
    """
    images = opened(own)
    yield from (host.fit(image, recipe) for image in images)
    large = [image for image in images if image.width >= recipe.width and image.height >= recipe.height]
    yield from crops(large or opened(photographs()), recipe)


def crops(images: Sequence[Image.Image], recipe: Recipe) -> Iterator[NDArray[np.uint8]]:
    """An endless, reproducible series of random crops of these RGB images in turn: uint8 `recipe.pixels_shape`."""
    random = np.random.default_rng(0)
    for number in count():
        yield host.fit(_piece(images[number % len(images)], recipe, random), recipe)


def opened(pictures: Iterable[SampleImage]) -> list[Image.Image]:
    """The pictures of these files, in RGB."""
    return [_opened(picture) for picture in pictures]


def _opened(picture: SampleImage) -> Image.Image:
    with Image.open(io.BytesIO(picture.data)) as image:
        return image.convert("RGB")


def _piece(photo: Image.Image, recipe: Recipe, random: np.random.Generator) -> Image.Image:
    side, aspect = random.uniform(*_SIDES) * min(photo.size), math.sqrt(random.uniform(*_ASPECTS))
    width, height = min(side * aspect, photo.width), min(side / aspect, photo.height)
    left, top = random.uniform(0, photo.width - width), random.uniform(0, photo.height - height)
    scale = max(1.0, recipe.width / width, recipe.height / height)
    piece = photo.resize(
        (math.ceil(width * scale), math.ceil(height * scale)),
        Image.Resampling.BICUBIC,
        (left, top, left + width, top + height),
    )
    if random.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(piece).enhance(random.uniform(*_BRIGHTNESS))
