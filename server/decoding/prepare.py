"""Decode and pre-stem in one step: what runs beside the event loop for each image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from glimpse.models.decoding.cost import Cost, pixels, predict
from glimpse.models.decoding.decode import Target
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe
from glimpse.server import domain
from glimpse.server.decoding.decode import decode, no_memory, raw_pixels


@dataclass(slots=True)  # not frozen, which takes three times as long to make
class Prepared:
    """The network's input, and what it took."""

    pixels: NDArray[np.uint8]  # of the recipe's `pixels_shape`, RGB or grey
    decode_seconds: float
    pre_stem_seconds: float


def cost(image: domain.Image, recipe: Recipe, limits: ImageLimits) -> Cost:
    """What `prepare` is going to cost; told in microseconds, and never raises."""
    if isinstance(image, domain.RawImage):
        return pixels(image.width, image.height)
    return predict(image.data, limits, _target(recipe))


def prepare(image: domain.Image, recipe: Recipe, limits: ImageLimits) -> Prepared:
    """From bytes to the network's input.

    Raises:
        InvalidImageError: expected; the image is not one, is damaged, is refused or is too large.
    """
    begun = time.monotonic()
    if is_prepared(image, recipe.pixels_shape):
        pixels = raw_pixels(image, limits)
        return Prepared(pixels, time.monotonic() - begun, 0.0)
    picture = decode(image, limits, _target(recipe))
    decoded = time.monotonic()
    try:
        pixels = host.fit(picture, recipe)
    except MemoryError as error:
        raise no_memory() from error
    return Prepared(pixels, decoded - begun, time.monotonic() - decoded)


def is_prepared(image: domain.Image, shape: tuple[int, int, int]) -> TypeGuard[domain.RawImage]:
    """Whether an image is the network's input as it is: there is nothing to decode, to resize or to convert.

    `shape`: that of the input, which is the recipe's `pixels_shape`.
    """
    return isinstance(image, domain.RawImage) and (image.height, image.width, image.channels) == shape


def _target(recipe: Recipe) -> Target | None:
    return partial(host.resized, recipe=recipe) if host.may_reduce(recipe) else None
