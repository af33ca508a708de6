"""What a file says of its picture before any of it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True)
class Header:
    """Read by our own code, in time and memory that the file's length bounds, before Pillow sees the file."""

    form: str  # Pillow's name of the format
    size: tuple[int, int]  # width and height of all that the decoder makes room for, before it is turned upright
    data: bytes  # the file, without what Pillow would read and the picture does not need
    orientation: int = 1  # EXIF's, 1 to 8
    cut: bool = False  # the file ends before its own structure says that it does
    # A JPEG of 8-bit DCT blocks, which can be decoded at a reduced scale.
    reducible: bool = False
    # Decoded row by row: at a reduced scale it takes the memory of the reduced picture and no more.
    streamed: bool = False
    scans: int = 1  # of a JPEG: how often its coefficients are gone through
    # Makes the picture where Pillow does not know this kind of the format; it may have an alpha channel.
    pixels: Callable[[], Image.Image] | None = None
