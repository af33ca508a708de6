"""The first frame of a GIF file (GIF89a specification).

Pillow reads what stands before the frame byte by byte in Python, and makes room for the frame while it does: a frame
may be larger than the screen that the file promises.
"""

from __future__ import annotations

import struct

from glimpse.models.decoding import refusals
from glimpse.models.decoding.header import Header

MAGIC = (b"GIF87a", b"GIF89a")
MAX_BLOCKS = 16_384  # of 255 bytes at most, before the first frame; XMP data are the only large ones

EXTENSION, FRAME, END = 0x21, 0x2C, 0x3B
_CONTROL = 0xF9  # transparency and disposal of the frame that follows


def read(data: bytes) -> Header:
    """The header of a file that starts as a GIF does.

    Raises:
        RefusedImageError: expected; the file ends in its header, holds no frame, or would cost more than it shows.
    """
    try:
        return _read(data)
    except (IndexError, struct.error):
        raise refusals.truncated("before the first frame of a GIF") from None


def _read(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + palette(flags)
    control = b""
    screen = data[:at]
    blocks = 0
    while (code := data[at]) != FRAME:
        if code == END:
            raise refusals.damaged("a GIF without a frame")
        blocks += 1
        if code != EXTENSION:
            at += 1  # as Pillow does
        else:
            begun, label = at, data[at + 1]
            at += 2
            while (length := data[at]) and blocks <= MAX_BLOCKS:
                at += 1 + length
                blocks += 1
            at += 1
            if label == _CONTROL:
                control = data[begun:at]
        if blocks > MAX_BLOCKS:
            raise refusals.too_expensive("GIF", f"more than {MAX_BLOCKS} blocks before its first frame")
    left, top, across, down, flags = struct.unpack_from("<HHHHB", data, at + 1)
    if at + 10 + palette(flags) >= len(data):
        raise IndexError
    frame = left, top, left + across, top + down
    size = max(width, frame[2]), max(height, frame[3])
    return Header("GIF", size, b"".join((screen, control, data[at:])))


def palette(flags: int) -> int:
    """Bytes of the palette that follows, by the flags of a screen or a frame."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
