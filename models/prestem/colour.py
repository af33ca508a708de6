"""Any picture that Pillow has opened as a viewer shows it: upright, opaque, 8 bits of red, green and blue."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

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
        image: as Pillow has opened it.
        orientation: EXIF's, 1 to 8, from a caller who knows it; None: it is read from the image.
    """
    image.load()  # first, so that what is wrong with the pixels is not taken for a matter of metadata
    if orientation is None:
        orientation = _orientation(image)
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


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; None where there is none or where the EXIF data cannot be read.

    Pillow's `exif_transpose` is not used because it writes the EXIF data anew, and fails on the odd tags that cameras
    and editors leave in it. What is wrong with metadata is no reason to refuse a good picture.
    """
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - EXIF data can be anything
        return None
