"""GIF, WebP and BMP files whose headers lie."""

from __future__ import annotations

import struct
from random import Random

from tests.server.hostile.bytewise import BYTEWISE, edge
from tests.server.hostile.exif_lies import exif_lie

_SIDES = (0, 1, 2, 3, 19, 20, 21, 100, 1000, 5000, 16_383, 16_384, 65_535)


def gif_lie(rng: Random, data: bytes) -> bytes:
    """The screen against the frame, code sizes, blocks, palettes, extensions."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if len(out) < 20:
            break
        palette = 3 << (out[10] & 7) + 1 if out[10] & 0x80 else 0
        begin = min(13 + palette, len(out) - 1)  # the first block after the global palette
        frame = out.find(b",", begin)
        what = rng.randrange(6)
        if what == 0:
            struct.pack_into("<H", out, rng.choice((6, 8)), rng.choice(_SIDES))
        elif what == 1:
            out[10] = rng.randrange(256)
        elif what == 2 and 0 < frame < len(out) - 12:
            struct.pack_into("<H", out, frame + 1 + 2 * rng.randrange(4), rng.choice(_SIDES))
        elif what == 3 and 0 < frame < len(out) - 12:
            out[frame + 9 + rng.randrange(3)] = rng.choice((0, 1, 2, 8, 9, 11, 12, 13, 255, rng.randrange(256)))
        elif what == 4:
            out[begin:begin] = rng.choice(
                (
                    b"!\xf9\x04" + rng.randbytes(4) + b"\x00",  # what becomes of the frame, its delay and transparency
                    b"!\xfe\x05hello" * 3 + b"\x00",
                    b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00",
                    b"!\xff" + rng.randbytes(5) + b"\x00",
                    b"!" + rng.randbytes(3),
                    b"," + struct.pack("<HHHHB", *(rng.choice(_SIDES) for _ in range(4)), rng.randrange(256)),
                    b";",
                )
            )
        else:
            out[rng.randrange(begin, len(out))] = rng.choice((0, 1, 0x21, 0x2C, 0x3B, 255))
    return _perhaps_more(rng, bytes(out))


def riff(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a WebP file as far as they can be told."""
    at, found = 12, []
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return found


def webp_lie(rng: Random, data: bytes) -> bytes:
    """The canvas against the picture, frames, chunks in another order and number, lengths."""
    parts = riff(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _riff_lie(rng, parts)
    body = bytearray(b"WEBP")
    for kind, content in parts:
        length = len(content) if rng.random() < 0.97 else edge(rng, 4)
        body += kind + struct.pack("<I", length) + content + bytes(len(content) % 2)
    length = len(body) if rng.random() < 0.9 else edge(rng, 4)
    return _perhaps_more(rng, b"RIFF" + struct.pack("<I", length) + bytes(body))


def _riff_lie(rng: Random, parts: list[tuple[bytes, bytes]]) -> None:
    if not parts:
        return
    index = rng.randrange(len(parts))
    kind, content = parts[index]
    what = rng.randrange(7)
    if what == 0:
        del parts[index]
    elif what == 1:
        parts.insert(rng.randrange(len(parts) + 1), parts[index])
    elif what == 2:
        parts.insert(rng.randrange(len(parts)), parts.pop(index))
    elif what == 3:
        parts[index] = (
            rng.choice((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"ICCP", b"XMP ")),
            content,
        )
    elif what == 4:
        canvas = bytes([rng.randrange(256), 0, 0, 0]) + b"".join(
            rng.choice((*_SIDES, edge(rng, 3))).to_bytes(3, "little") for _ in range(2)
        )
        parts.insert(0, (b"VP8X", canvas))
    elif what == 5:
        parts.append(rng.choice(((b"EXIF", exif_lie(rng)), (b"ALPH", rng.randbytes(9)), (b"ANIM", rng.randbytes(6)))))
    elif rng.random() < 0.5:
        # The sides of a picture, the canvas or a frame are all among the first bytes.
        at = rng.randrange(max(1, min(len(content), 16)))
        parts[index] = kind, content[:at] + edge(rng, 2).to_bytes(2, "little") + content[at + 2 :]
    else:
        parts[index] = kind, rng.choice(BYTEWISE)(rng, content)


# Offset and size of what a bitmap's header says, from the file's beginning.
_BMP_FIELDS = ((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4), (50, 4))
_BMP_VALUES = {
    10: (0, 1, 13, 14, 54, 0xFFFFFFFF),
    14: (0, 11, 12, 13, 16, 40, 52, 56, 64, 108, 124, 125, 0xFFFFFFFF),
    18: (*_SIDES, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
    22: (*_SIDES, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF9),
    28: (0, 1, 2, 4, 8, 15, 16, 24, 32, 64),
    30: (0, 1, 2, 3, 4, 5, 6, 11),
    46: (0, 1, 2, 255, 256, 257, 0x7FFFFFFF, 0xFFFFFFFF),
}


def bmp_lie(rng: Random, data: bytes) -> bytes:
    """The fields of both headers, masks, and the run-length code."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.7:
            at, size = rng.choice(_BMP_FIELDS)
            value = rng.choice(_BMP_VALUES[at]) if at in _BMP_VALUES and rng.random() < 0.8 else edge(rng, size)
            out[at : at + size] = value.to_bytes(size, "little")
        elif rng.random() < 0.5:
            at = rng.randrange(54, 70)  # masks
            out[at : at + 4] = rng.choice((0, 0xF800, 0x7E0, 0x1F, 0xFF0000, 0xFFFFFFFF)).to_bytes(4, "little")
        else:
            at = rng.randrange(len(out))
            out[at : at + 2] = rng.choice((b"\x00\x00", b"\x00\x01", b"\x00\x02", b"\x00\xff", b"\xff\x00"))
    return _perhaps_more(rng, bytes(out))


def _perhaps_more(rng: Random, data: bytes) -> bytes:
    return rng.choice(BYTEWISE)(rng, data) if data and rng.random() < 0.15 else data
