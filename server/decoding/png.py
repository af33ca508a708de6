"""A PNG file without its metadata (PNG specification, third edition, section 5).

Pillow reads texts, profiles and animations chunk by chunk in Python, and inflates them: a file of a million texts keeps
it busy for seconds. What the picture needs is four kinds of chunk.
"""

from __future__ import annotations

import struct
import zlib

from server.decoding import exif, refusals
from server.decoding.header import Header

MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 16_384  # encoders cut the pixels into pieces of 8 kB or more

_PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_CHUNK = struct.Struct(">L4s")
# Colour type -> bytes that name the one colour which is transparent: a grey, or red, green and blue.
_TRANSPARENT = {0: 2, 2: 6}
_DEEP = (1, 2, 4, 16)  # bits a value, for which Pillow compares that colour with pixels of another depth


def read(data: bytes) -> Header:
    """The header of a file that starts as a PNG does; of an animation, the picture that stands outside it or is first.

    Raises:
        InvalidImageError: expected; the file ends in its header, is damaged there, or needs what is refused.
    """
    if len(data) < 33:
        raise refusals.truncated("within the header of a PNG")
    if data[12:16] != b"IHDR":
        # iPhone tools write a form of their own, with a chunk in front that no other program knows.
        raise refusals.unsupported(f"PNG that begins with {data[12:16]!r}", "a standard PNG")
    size, depth, colour = struct.unpack_from(">LL", data, 16), data[24], data[25]
    kept: list[bytes] = []
    since, at = 0, len(MAGIC)
    orientation, ended = 1, False
    for _ in range(MAX_CHUNKS):
        if ended or at + 8 > len(data):
            break
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + 12 + length
        if kind == b"IHDR" and at != len(MAGIC):
            raise refusals.damaged("a PNG with two headers")
        if kind == b"eXIf":
            orientation = exif.orientation(data[at + 8 : end - 4])
        mended = depth in _DEEP and end <= len(data)
        if kind == b"tRNS" and length == _TRANSPARENT.get(colour) and mended:
            kept += data[since:at], _transparent(data[at + 8 : end - 4], depth)
            since = end
        elif kind not in _PIXELS:
            if not kind[0] & 0x20 and kind.isalpha():
                raise refusals.unsupported(f"PNG that needs {kind!r}", "a standard PNG")
            kept.append(data[since:at])
            since = end
        ended = kind == b"IEND"
        at = end
    else:
        raise refusals.costly("PNG", f"more than {MAX_CHUNKS} chunks")
    kept.append(data[since:at])
    return Header("PNG", size, b"".join(kept) if len(kept) > 1 else data, orientation, cut=not ended)


def _transparent(content: bytes, depth: int) -> bytes:
    """The chunk that names the transparent colour, in the 8 bits of the pixels that Pillow compares it with.

    It reads the pixels of any depth as 8 bits, and the colour as it stands. Grey of 16 bits stays: it keeps those.
    """
    values = struct.unpack(f">{len(content) // 2}H", content)
    if depth < 8:
        values = tuple(value * 255 // (2**depth - 1) & 0xFFFF for value in values)
    elif len(values) == 3:
        values = tuple(value >> 8 for value in values)
    named = b"tRNS" + struct.pack(f">{len(values)}H", *values)
    return struct.pack(">L", len(content)) + named + struct.pack(">L", zlib.crc32(named))
