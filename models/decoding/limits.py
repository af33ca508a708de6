"""What decoding one image may cost, and how exactly a large JPEG file is decoded."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one image may cost. Pixels are width x height, read from the header before any is decoded.

    A picture that is decoded whole takes up to 16 bytes a pixel for as long as that lasts: most of all a WebP; a PNG or
    a progressive JPEG takes 4 to 12. A sequential JPEG of 100 million pixels at 1/8 takes 15 MiB and a fifth
    of a second.
    """

    max_bytes: int  # of the encoded file
    max_pixels: int  # of a picture that has to be decoded whole
    max_jpeg_pixels: int = 0  # of a sequential JPEG picture that is decoded at a reduced scale; 0: `max_pixels`
    # A JPEG picture is decoded at 1/2, 1/4 or 1/8 as long as that leaves both sides at least so many times as long as
    # what they are resized to; 0: always whole.
    reducing_gap: float = 0.0


# Files of one's own: any number of bytes, and as many pixels as memory holds nearly everywhere (2.7 GiB at most).
OWN_FILES = ImageLimits(max_bytes=sys.maxsize, max_pixels=180_000_000)
