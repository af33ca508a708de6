"""What a BMP file holds, from its header (BITMAPCOREHEADER, BITMAPINFOHEADER and their successors)."""

from __future__ import annotations

import struct

from server.decoding import refusals
from server.decoding.header import Header

MAGIC = b"BM"
_CORE = 12  # bytes of the oldest header, which knows no compression
_PLAIN = (0, 3)  # pixels as they are, or with a mask for each channel
# Pillow unpacks runs in Python, pixel by pixel: seconds for a picture within the limits.
_COMPRESSIONS = {1: "run lengths", 2: "run lengths", 4: "JPEG", 5: "PNG"}


def read(data: bytes) -> Header:
    """The header of a file that starts as a BMP does.

    Raises:
        InvalidImageError: expected; the file ends in its header or is of a kind that is refused.
    """
    try:
        (length,) = struct.unpack_from("<L", data, 14)
        if length == _CORE:
            width, height = struct.unpack_from("<HH", data, 18)
            return Header("BMP", (width, height), data)
        width, height, compression = struct.unpack_from("<Ll4xL", data, 18)
    except struct.error:
        raise refusals.truncated("within the header of a BMP") from None
    if compression not in _PLAIN:
        name = _COMPRESSIONS.get(compression, f"compression {compression}")
        raise refusals.unsupported(f"BMP with {name}", "one without compression, or a PNG")
    return Header("BMP", (width, abs(height)), data)  # a negative height: rows from the top
