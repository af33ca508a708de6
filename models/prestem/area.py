"""Which part of a photo a network's input shows: the pre-stem's geometry, the other way round."""

from __future__ import annotations

from typing import NamedTuple

from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe


class Area(NamedTuple):
    """A rectangle in a photo, in shares of its width and height; beyond 0 and 1 there is padding, not photo."""

    left: float
    top: float
    right: float
    bottom: float


def covered(size: tuple[int, int], recipe: Recipe) -> Area:
    """What the network's input shows of an upright photo of that width and height, as `host.fit` makes it."""
    resized = host.resized(size, recipe)
    left, right = _covered(resized[0], recipe.width)
    top, bottom = _covered(resized[1], recipe.height)
    return Area(left, top, right, bottom)


def _covered(side: int, target: int) -> tuple[float, float]:
    begin = -host.offset(side, target) / side
    return begin, begin + target / side
