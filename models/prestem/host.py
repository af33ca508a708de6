"""The pre-stem's host half: Pillow and uint8 from end to end, no framework."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

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


def fit(image: Image.Image, recipe: Recipe) -> NDArray[np.uint8]:
    """Resize, crop and pad an RGB image to the network's input.

    Returns:
        uint8 ``[recipe.height, recipe.width, 3]``, C-contiguous, RGB.
    """
    size = _target(image.width, image.height, recipe)
    if size != image.size:
        # Pillow widens the filter's support by the reduction, so every filter but nearest antialiases.
        image = image.resize(size, _FILTERS[recipe.filter])
    if image.size == (recipe.width, recipe.height):
        return np.asarray(image, np.uint8)

    canvas = Image.new("RGB", (recipe.width, recipe.height), recipe.fill)
    # Negative offsets crop the centre, positive ones pad around it; an axis can do either.
    canvas.paste(image, ((recipe.width - image.width) // 2, (recipe.height - image.height) // 2))
    return np.asarray(canvas, np.uint8)


def _target(width: int, height: int, recipe: Recipe) -> tuple[int, int]:
    """(width, height) to resize to before the centre crop or the padding; never larger than the image."""
    if recipe.geometry == "squash":
        return min(width, recipe.width), min(height, recipe.height)
    wide, high = recipe.width / width, recipe.height / height
    scale = max(wide, high) / recipe.crop_share if recipe.geometry == "crop" else min(wide, high)
    if scale >= 1:
        return width, height
    return max(1, math.floor(width * scale + 0.5)), max(1, math.floor(height * scale + 0.5))
