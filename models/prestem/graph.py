"""The pre-stem's device half: pixels stay uint8 up to the device and are scaled as the graph's first step."""

from __future__ import annotations

from keras import KerasTensor, layers, ops

from glimpse.models.prestem.recipe import Recipe


def scale(pixels: KerasTensor, recipe: Recipe) -> KerasTensor:
    """(x - mean) / std per channel, in the recipe's order: uint8 ``[N, H, W, C]`` -> floats of that shape."""
    if recipe.channels == "BGR":
        pixels = ops.flip(pixels, axis=-1)
    return layers.Rescaling(
        scale=[1 / std for std in recipe.std],
        offset=[-mean / std for mean, std in zip(recipe.mean, recipe.std, strict=True)],
        name="prestem_scale",
    )(pixels)
