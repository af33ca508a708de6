"""The pre-stem's host half: Pillow and uint8 from end to end, no framework."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glimpse.models.prestem import resampling
from glimpse.models.prestem.colour import to_rgb
from glimpse.models.prestem.picture import Picture
from glimpse.models.prestem.recipe import Filter, Recipe

__all__ = ["fit", "may_reduce", "resized", "to_rgb"]

_Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_REACH = {"bilinear": 1, "bicubic": 2, "lanczos": 3}  # pixels on either side that a filter takes, where it enlarges
_LARGE = 1 << 22  # pixels: 16 MB of memory
_LONG = 1 << 16  # pixels of a side; photos are shorter


def fit(picture: Picture | Image.Image, recipe: Recipe) -> NDArray[np.uint8]:
    """Resize, crop and pad a picture to the network's input.

    Args:
        picture: RGB or grey. What the recipe does not have is made first: the luma of ITU-R BT.601 as Pillow rounds it,
            or three equal channels, which have that luma again.
        recipe: how.

    Returns:
        uint8 `recipe.pixels_shape`, C-contiguous: RGB, or grey in one channel; with the mask, where the recipe has one.
    """
    if isinstance(picture, Image.Image):
        picture = Picture.whole(picture)
    if picture.image.mode != (mode := "L" if recipe.depth == 1 else "RGB"):
        picture = replace(picture, image=picture.image.convert(mode))
    image = picture.image
    size = resized(picture.size, recipe)
    if not size == picture.size == image.size:
        image = _resized(picture, size, recipe)
    pixels = np.asarray(_centred(image, recipe), np.uint8).reshape(recipe.shape)
    return _masked(pixels, image.size) if recipe.masked else pixels


def whole(pixels: NDArray[np.uint8], recipe: Recipe) -> NDArray[np.uint8]:
    """Pixels ``[..., H, W, C]`` of the network's size as `fit` would return them: nothing of them is padding."""
    return _masked(pixels, (recipe.width, recipe.height)) if recipe.masked else pixels


def _masked(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels with one more channel: 1 in their centre of that width and height, 0 around it."""
    mask = np.zeros((*pixels.shape[:-1], 1), np.uint8)
    height, width = pixels.shape[-3:-1]
    left, top = max(0, offset(size[0], width)), max(0, offset(size[1], height))
    mask[..., top : top + size[1], left : left + size[0], :] = 1
    return np.concatenate([pixels, mask], axis=-1)


def may_reduce(recipe: Recipe) -> bool:
    """Whether a decoder may hand `fit` a picture that it has reduced already.

    A reduced picture is one of averages. Where the filter averages over all pixels, the result is nearly the same;
    without antialiasing, and with the filter nearest, the recipe is about single pixels, of which none is left.
    """
    return recipe.antialias and recipe.filter != "nearest"


def resized(size: tuple[int, int], recipe: Recipe) -> tuple[int, int]:
    """(width, height) that a picture of `size` is resized to, before the centre crop or the padding."""
    width, height = size
    enlarge = recipe.smaller == "resize"
    if recipe.geometry == "squash":
        wide, high = recipe.width, recipe.height
        return (wide, high) if enlarge else (min(width, wide), min(height, high))
    horizontal, vertical = recipe.width / width, recipe.height / height
    crop = recipe.geometry == "crop"
    scale = max(horizontal, vertical) / recipe.crop_share if crop else min(horizontal, vertical)
    if scale >= 1 and not enlarge:
        return width, height
    if not crop:
        return max(1, _rounded(width * scale)), max(1, _rounded(height * scale))
    # The side that decides comes out exactly; the other follows and loses its fraction, as in torchvision's `Resize`.
    if horizontal >= vertical:
        side = _rounded(recipe.width / recipe.crop_share)
        return side, max(1, side * height // width)
    side = _rounded(recipe.height / recipe.crop_share)
    return max(1, side * width // height), side


def kept(picture: Picture, size: tuple[int, int], recipe: Recipe) -> tuple[_Box, tuple[int, int]]:
    """What the network's input shows of a picture that is resized to `size`.

    Returns:
        The box in `picture.image`, and the width and height that it becomes.
    """
    left, top, right, bottom = picture.box
    cut = min(size[0], recipe.width), min(size[1], recipe.height)
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    left, top = left - offset(size[0], cut[0]) * across, top - offset(size[1], cut[1]) * down
    return (left, top, min(left + cut[0] * across, right), min(top + cut[1] * down, bottom)), cut


def _resized(picture: Picture, size: tuple[int, int], recipe: Recipe) -> Image.Image:
    """`picture` at `size`, or only the centre of it that is kept."""
    image, (left, top, right, bottom) = picture.image, picture.box
    box, cut = kept(picture, size, recipe)
    averages = recipe.filter != "nearest"
    if not recipe.antialias and averages and max((right - left) / size[0], (bottom - top) / size[1]) > 1:
        skip = -offset(size[0], cut[0]), -offset(size[1], cut[1])
        horizontal = resampling.Axis(left, right, size[0], range(skip[0], skip[0] + cut[0]))
        vertical = resampling.Axis(top, bottom, size[1], range(skip[1], skip[1] + cut[1]))
        return resampling.resize(image, horizontal, vertical, recipe.filter)
    # The nearest pixel may be another one where only the centre is resized, so this is done only where the whole would
    # not fit in memory: a line of 1 x 1,000,000 pixels, enlarged.
    if cut == size or not (averages or math.prod(size) > max(_LARGE, math.prod(image.size))):
        return _pillow(image, size, recipe.filter, picture.box)
    return _centre(image, box, cut, recipe.filter) if averages else _pillow(image, cut, recipe.filter, box)


def _centre(image: Image.Image, box: _Box, size: tuple[int, int], by: Filter) -> Image.Image:
    """What `box` of an image becomes at `size`, computed as a part of the whole image.

    Half of the work of resizing all of a photo of 4:3 and then taking its centre. Pillow has boxes in float32, whose
    rounding changes about one number in a thousand, by one.
    """
    left, top, right, bottom = box
    # Rows that the filter does not reach are left out, where they are worth a copy of the others.
    reach = _REACH[by] * max((bottom - top) / size[1], 1) + 1
    first, last = max(0, math.floor(top - reach)), min(image.height, math.ceil(bottom + reach))
    if last - first > image.height * 3 // 4:
        first, last = 0, image.height
    else:
        image = image.crop((0, first, image.width, last))
    # Across, then down, as Pillow always did when published weights were made. Pillow 13 begins with what is cheaper,
    # which is not the same for the centre and for the whole, and rounds other numbers in between.
    rows = _pillow(image, (size[0], last - first), by, (left, 0, right, last - first))
    return _pillow(rows, size, by, (0, top - first, size[0], bottom - first))


def _pillow(image: Image.Image, size: tuple[int, int], by: Filter, box: _Box) -> Image.Image:
    # Pillow widens the filter's support by the reduction, so every filter but nearest antialiases. The weights of a
    # side of millions of pixels would take gigabytes: there, boxes of pixels are averaged first.
    return image.resize(size, _FILTERS[by], box, reducing_gap=8 if max(image.size) > _LONG else None)


def _centred(image: Image.Image, recipe: Recipe) -> Image.Image:
    """The centre of `image`, with fill around it where it is smaller than the input."""
    width, height = recipe.width, recipe.height
    if image.size == (width, height):
        return image
    left, top = offset(image.width, width), offset(image.height, height)
    if image.width >= width and image.height >= height:
        return image.crop((-left, -top, width - left, height - top))
    canvas = Image.new(image.mode, (width, height), recipe.fill)
    canvas.paste(image, (left, top))
    return canvas


def offset(side: int, target: int) -> int:
    """Where `side` pixels begin on `target`: negative crops the centre, positive pads around it."""
    # Python rounds halves to even; that is torchvision's centre, and its `CenterCrop` is what most weights have seen.
    return (target - side) // 2 if side < target else -round((side - target) / 2)


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)
