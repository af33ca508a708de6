"""Any picture that Pillow has opened as a viewer shows it: upright, opaque, 8 bits of red, green and blue."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFile

from glimpse.models.decoding import exif

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


def to_rgb(image: Image.Image, orientation: int | None = None) -> Image.Image:
    """The picture as a viewer shows it, in 8 bits of red, green and blue.

    EXIF orientation is applied, transparency lies on white, 16-bit values keep their upper 8 bits.

    Args:
        image: as Pillow has opened it, before its pixels are loaded.
        orientation: EXIF's, 1 to 8, from a caller who knows it; None: it is read from the image.
    """
    image = _loaded(image)
    if orientation is None:
        # Not with Pillow's `getexif`, which writes the EXIF data anew, fails on the odd tags that cameras and editors
        # leave in it, and believes orientations that no viewer does: in XMP, in texts of a PNG.
        orientation = exif.orientation(image.info.get("exif", b""))
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead.
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        if (transparent := image.info.get("transparency")) is not None:
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, _BACKGROUND)
        canvas.paste(image, mask=image)
        return canvas
    # Pillow's conversion to the mode that an image has already is a copy.
    return image if image.mode == "RGB" else image.convert("RGB")


def _loaded(image: Image.Image) -> Image.Image:
    """`image` with its pixels, and with the transparency that browsers see where Pillow sees another."""
    tile = image.tile[0] if isinstance(image, ImageFile.ImageFile) and image.tile else None
    transparent = image.info.get("transparency")
    image.load()
    if tile is None:
        return image
    if image.format == "GIF" and tile.extents not in {None, (0, 0, *image.size)} and image.tell() == 0:
        # Beside the first frame there is nothing; Pillow fills in the first colour of the palette.
        canvas = Image.new("RGBA", image.size)
        canvas.paste(image.convert("RGBA").crop(tile.extents), tile.extents)
        return canvas
    if image.format == "PNG":
        # One that follows the pixels has no meaning, and Pillow reads it as the file ends.
        image.info.pop("transparency", None)
        if transparent is not None:
            image.info["transparency"] = _as_pixels(transparent, tile.args)
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # written by programs that do not fill in the alpha channel
    return image


def _as_pixels(transparent: Any, layout: object) -> Any:
    """The one colour of a PNG that is transparent, in the 8 bits of the pixels that Pillow compares it with.

    Pillow reads pixels of any depth as 8 bits (grey of 16 bits stays so), and the colour as it stands. Bits beyond the
    depth do not count.

    Args:
        transparent: a grey, or red, green and blue; bytes: the alphas of a palette, which are as they should be.
        layout: Pillow's name for the pixels as they lie in the file.
    """
    if layout in _LARGEST and isinstance(transparent, int):
        largest = _LARGEST[layout]
        return (transparent & largest) * 255 // largest
    if layout == "RGB" and isinstance(transparent, tuple):
        return tuple(value & 0xFF for value in transparent)
    if layout == "RGB;16B" and isinstance(transparent, tuple):
        return tuple(value >> 8 for value in transparent)
    return transparent


# Pillow's names for grey of fewer than 16 bits -> the largest value of a pixel.
_LARGEST: dict[object, int] = {"1": 1, "L;2": 3, "L;4": 15, "L": 255}
