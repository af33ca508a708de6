"""The pre-stem's host half: Pillow and uint8 from end to end, no framework."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from models.prestem.picture import Picture
from models.prestem.recipe import Recipe

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


# EXIF orientation -> what makes the picture upright; 1 is upright already. CIPA DC-008 (EXIF 2.32), tag 0112.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACKGROUND = "white"  # behind transparent pixels, as on a page
_LARGE = 1 << 22  # pixels: 16 MB of memory


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as a viewer shows it, in 8 bits of red, green and blue.

    EXIF orientation is applied, transparency lies on white, 16-bit values keep their upper 8 bits.
    """
    image.load()  # first, so that what is wrong with the pixels is not taken for a matter of metadata
    orientation = _orientation(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, _BACKGROUND)
        canvas.alpha_composite(image)
        image = canvas
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; None where there is none or where the EXIF data cannot be read.

    Pillow's `exif_transpose` is not used because it writes the EXIF data anew, and fails on the odd tags that cameras
    and editors leave in it. What is wrong with metadata is no reason to refuse a good picture.
    """
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - EXIF data can be anything
        return None


def fit(picture: Picture | Image.Image, recipe: Recipe) -> NDArray[np.uint8]:
    """Resize, crop and pad an RGB picture to the network's input.

    Returns:
        uint8 ``[recipe.height, recipe.width, 3]``, C-contiguous, RGB.
    """
    if isinstance(picture, Image.Image):
        picture = Picture.whole(picture)
    image = picture.image
    size = resized(picture.size, recipe)
    if size != picture.size or picture.size != image.size:
        # Pillow widens the filter's support by the reduction, so every filter but nearest antialiases.
        image = _resized(picture, size, recipe)
    if image.size == (recipe.width, recipe.height):
        return np.asarray(image, np.uint8)

    canvas = Image.new("RGB", (recipe.width, recipe.height), recipe.fill)
    canvas.paste(image, (_offset(image.width, recipe.width), _offset(image.height, recipe.height)))
    return np.asarray(canvas, np.uint8)


def _resized(picture: Picture, size: tuple[int, int], recipe: Recipe) -> Image.Image:
    """`picture` at `size`; of one that would not fit in memory, only the centre that is kept."""
    resample = _FILTERS[recipe.filter]
    image, (left, top, right, bottom) = picture.image, picture.box
    if math.prod(size) <= max(_LARGE, math.prod(image.size)):
        return image.resize(size, resample, picture.box)
    # A line of 1 x 1,000,000 pixels, enlarged. Cropping before resizing rounds otherwise, so it is not done always.
    cut = min(size[0], recipe.width), min(size[1], recipe.height)
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    left -= _offset(size[0], cut[0]) * across
    top -= _offset(size[1], cut[1]) * down
    box = left, top, min(left + cut[0] * across, right), min(top + cut[1] * down, bottom)
    return image.resize(cut, resample, box)


def _offset(side: int, target: int) -> int:
    """Where `side` pixels begin on `target`: negative crops the centre, positive pads around it."""
    # Python rounds halves to even; that is torchvision's centre, and its `CenterCrop` is what most weights have seen.
    return (target - side) // 2 if side < target else -round((side - target) / 2)


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


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)
