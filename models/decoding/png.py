"""A PNG file without its metadata (PNG specification, third edition, section 5).

Pillow reads texts, profiles and animations chunk by chunk in Python, and inflates them: a file of a million texts keeps
it busy for seconds. What the picture needs is four kinds of chunk.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Container, Mapping

from glimpse.models.decoding import exif, refusals
from glimpse.models.decoding.header import Header

MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 16_384  # encoders cut the pixels into pieces of 8 kB or more
# Pillow takes two microseconds for each piece of the pixels, in Python: there may be one for each kilobyte of the file,
# and so many besides.
_PIECES_BESIDES, _PIECE_BYTES = 2_048, 1 << 10

_PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_CHUNK = struct.Struct(">L4s")
_GREY, _COLOUR, _PALETTE = 0, 2, 3  # the colour types without an alpha channel
# Colour type -> bytes that name the one colour which is transparent: a grey, or red, green and blue.
_TRANSPARENT = {_GREY: 2, _COLOUR: 6}


def read(data: bytes) -> Header:
    """The header of a file that starts as a PNG does; of an animation, the picture that stands outside it or is first.

    Palettes and transparency are taken and left as libpng does, which browsers use: the first of each, in front of the
    pixels, whole, and of the picture's own kind.

    Raises:
        RefusedImageError: expected; the file ends in its header, is damaged there, or needs what is refused.
    """
    if len(data) < 33:
        raise refusals.truncated("within the header of a PNG")
    if data[12:16] != b"IHDR":
        # iPhone tools write a form of their own, with a chunk in front that no other program knows.
        raise refusals.unsupported(f"PNG that begins with {data[12:16]!r}", "a standard PNG")
    size, colour = struct.unpack_from(">LL", data, 16), data[25]
    kept: list[bytes] = []
    since, at = 0, len(MAGIC)
    orientation: int | None = None
    met: dict[bytes, int] = {}  # the bytes in the first of each kind that the picture needs
    pieces = _PIECES_BESIDES + len(data) // _PIECE_BYTES
    for _ in range(MAX_CHUNKS):
        if b"IEND" in met or at + 8 > len(data):
            break
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + 12 + length
        if kind == b"eXIf" and orientation is None:
            orientation = exif.orientation(data[at + 8 : end - 4])
        _check(kind, colour, met)
        if kind == b"IDAT" and (pieces := pieces - 1) < 0:
            raise refusals.too_expensive("PNG", "its pixels in chunks of almost no bytes")
        if _is_needed(kind, length, colour, met) and (kind != b"tRNS" or _whole(data[at + 4 : end])):
            met.setdefault(kind, length)
        else:
            kept.append(data[since:at])
            since = end
        at = end
    else:
        raise refusals.too_expensive("PNG", f"more than {MAX_CHUNKS} chunks")
    kept.append(data[since:at])
    bare = b"".join(kept) if len(kept) > 1 else data
    return Header("PNG", size, bare, orientation or 1, cut=b"IEND" not in met)


def _check(kind: bytes, colour: int, met: Container[bytes]) -> None:
    """Refuse a file in which a chunk of this kind follows those that were met."""
    if kind == b"IHDR" and b"IHDR" in met:
        raise refusals.damaged("a PNG with two headers")
    if kind == b"IDAT" and colour == _PALETTE and b"PLTE" not in met:
        raise refusals.damaged("a PNG without the palette that its pixels refer to")
    if kind not in _PIXELS and not kind[0] & 0x20 and kind.isalpha():
        raise refusals.unsupported(f"PNG that needs {kind!r}", "a standard PNG")


def _is_needed(kind: bytes, length: int, colour: int, met: Mapping[bytes, int]) -> bool:
    """Whether the picture needs a chunk that follows those that were met."""
    if kind not in {b"PLTE", b"tRNS"}:
        return kind in _PIXELS
    if kind in met or b"IDAT" in met:
        return False
    if kind == b"PLTE":
        return colour == _PALETTE
    if colour == _PALETTE:
        return 0 < length <= met.get(b"PLTE", 0) // 3
    return length == _TRANSPARENT.get(colour)


def _whole(chunk: bytes) -> bool:
    """Whether a chunk, from its kind to its checksum, is as it was written; an optional one that is not is left out."""
    return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:])
