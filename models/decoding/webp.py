"""What a WebP file holds, from its chunks (RFC 9649, section 2)."""

from __future__ import annotations

import struct

from glimpse.models.decoding import exif, refusals
from glimpse.models.decoding.header import Header

MAX_CHUNKS = 16_384  # an animation has one for every frame

_CHUNK = struct.Struct("<4sL")
_FLAGS, _ALPHA = 20, 0x10  # where an extended header says what the file has, and that it has transparency


def is_webp(data: bytes) -> bool:
    """Whether a file starts as a WebP file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read(data: bytes) -> Header:
    """The header of a file that starts as a WebP does.

    Raises:
        RefusedImageError: expected; the file ends in its header, is damaged there, or would cost more than it shows.
    """
    cut = int.from_bytes(data[4:8], "little") + 8 > len(data)
    size = canvas(data)
    if size is None:
        if len(data) < 30:
            raise refusals.truncated("within the header of a WebP")
        raise refusals.damaged("a WebP whose header cannot be read")
    orientation: int | None = None
    partial = data[12:16] == b"VP8X"  # whether the first frame may be smaller than the canvas
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            break
        kind, length = _CHUNK.unpack_from(data, at)
        if kind == b"EXIF" and orientation is None:
            orientation = exif.orientation(data[at + 8 : at + 8 + length])
        if kind == b"ANMF" and partial:
            partial = False
            if not _covers(data[at + 8 : at + 20], size):
                # Beside the frame there is nothing, which the decoder makes black unless it is to be transparent.
                data = data[:_FLAGS] + bytes((data[_FLAGS] | _ALPHA,)) + data[_FLAGS + 1 :]
        at += 8 + length + length % 2
    else:
        raise refusals.too_expensive("WebP", f"more than {MAX_CHUNKS} chunks")
    return Header("WEBP", size, data, orientation or 1, cut=cut)


def _covers(frame: bytes, size: tuple[int, int]) -> bool:
    """Whether the first bytes of an animation's frame say that it is as large as the canvas."""
    return tuple(int.from_bytes(frame[at : at + 3], "little") + 1 for at in (6, 9)) == size


def canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height of the canvas, which the decoder makes room for when it is made."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) == 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
