"""Determining whether the scores of a network are logits or probabilities, from what it gives for several pictures.

No framework is imported here.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.spec import Output

Kind = Output | Literal["shares"]
# By which probabilities may miss 1 together, by the dtype that they were computed in.
SUMS = {"bfloat16": 2e-2, "float16": 3e-3}
_SUM = 1e-3
_WHOLE = (1.0, 100.0)  # what they add up to: some networks put out percentages


def pictures(recipe: Recipe) -> NDArray[np.uint8]:
    """Pictures that cover the range of a network's input: uint8 ``[P, *recipe.pixels_shape]``."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0 : recipe.height, 0 : recipe.width]
    # As photographs are: large patches, slow changes, little noise.
    patches = rng.integers(0, 256, (8, 8, recipe.depth))[rows * 8 // recipe.height, columns * 8 // recipe.width]
    slope = (rows + columns)[..., np.newaxis] * 255 / max(1, recipe.height + recipe.width - 2)
    slope = slope * [1.0, 0.6, 0.3][: recipe.depth]
    found = [
        np.zeros(recipe.shape),
        np.full(recipe.shape, 255),
        rng.integers(0, 256, recipe.shape),
        patches * 0.7 + rng.integers(0, 64, recipe.shape),
        slope,
        255 - slope,
    ]
    return host.whole(np.stack(found).clip(0, 255).astype(np.uint8), recipe)


def kind(scores: NDArray[np.float32], dtype: str) -> Kind:
    """What kind of scores the rows of ``[P, classes]`` are.

    Args:
        scores: of several pictures; for one alone logits may add up to 1 by chance.
        dtype: that they were computed in.

    Returns:
        ``shares`` are numbers from 0 to 1 that do not add up to 1: those of a sigmoid.
    """
    allowed = SUMS.get(dtype, _SUM)
    if (scores >= -1e-6).all():
        if any((abs(scores.sum(axis=1) / whole - 1) <= allowed).all() for whole in _WHOLE):
            return "probabilities"
        if (scores <= 1 + allowed).all():
            return "shares"
    if (scores <= allowed).all() and (abs(np.exp(scores).sum(axis=1) - 1) <= allowed).all():
        return "log-probabilities"
    return "logits"
