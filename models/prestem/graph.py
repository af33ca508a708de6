"""The pre-stem's device half: pixels stay uint8 up to the device and are scaled as the graph's first step."""

from __future__ import annotations

from keras import KerasTensor, layers, ops

from glimpse.models.prestem.recipe import Recipe


def scale(pixels: KerasTensor, recipe: Recipe) -> KerasTensor:
    """(x - mean) / std per channel, in the recipe's order: uint8 ``[N, H, W, C]`` -> floats of that shape.

    With the mask of a recipe that pads with zero, uint8 ``[N, H, W, C + 1]`` -> floats ``[N, H, W, C]``, which are
    exactly 0 where the mask is.
    """
    if recipe.masked:
        pixels, mask = ops.split(pixels, [recipe.depth], axis=-1)
    if recipe.channels == "BGR":
        pixels = ops.flip(pixels, axis=-1)
    scaled = layers.Rescaling(
        scale=[1 / std for std in recipe.std],
        offset=[-mean / std for mean, std in zip(recipe.mean, recipe.std, strict=True)],
        name="prestem_scale",
    )(pixels)
    return scaled * ops.cast(mask, scaled.dtype) if recipe.masked else scaled
