"""JPEG files whose segments lie: sides, components, tables, scans, restarts, metadata."""

from __future__ import annotations

import struct
from random import Random

from tests.server.hostile.bytewise import BYTEWISE, edge
from tests.server.hostile.exif_lies import exif_lie

Segments = list[tuple[int, bytes]]  # marker and what follows its length; for a scan, with the coded data behind it
_FRAMES = tuple(code for code in range(0xC0, 0xD0) if code not in {0xC4, 0xC8, 0xCC})
_SIDES = (0, 1, 2, 7, 8, 9, 16, 17, 100, 1000, 4000, 5000, 10_000, 32_768, 65_500, 65_535)
_SCAN = 0xDA


def segments(data: bytes) -> Segments:
    """The segments of a JPEG file up to its first scan; all that comes from there on is the last one."""
    at, found = 2, []
    while at + 4 <= len(data) and data[at] == 0xFF:
        code, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if code == _SCAN:
            found.append((code, data[at + 4 :]))
            break
        found.append((code, data[at + 4 : at + 2 + length]))
        at += 2 + length
    return found


def joined(parts: Segments, *, scan_header: int = 0) -> bytes:
    """A file of segments; a scan's length is that of its header, which says itself how many components it has."""
    out = bytearray(b"\xff\xd8")
    for code, body in parts:
        length = 2 + len(body)
        if code == _SCAN:
            length = scan_header or 2 + (4 + 2 * body[0] if body else 0)
        out += bytes((0xFF, code)) + struct.pack(">H", length & 0xFFFF) + body
    return bytes(out)


def jpeg_lie(rng: Random, data: bytes) -> bytes:
    """Break it at one or two places."""
    parts = segments(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_LIES)(rng, parts)
    file = joined(parts, scan_header=0 if rng.random() < 0.97 else edge(rng, 2))
    return rng.choice(BYTEWISE)(rng, file) if rng.random() < 0.15 else file


def _frame(rng: Random, parts: Segments) -> None:
    """Precision, sides, number of components, and of each its id, sampling factors and quantization table."""
    for index, (code, body) in enumerate(parts):
        if code in _FRAMES and len(body) > 6:
            out = bytearray(body)
            what = rng.randrange(5)
            if what == 0:
                out[0] = rng.choice((0, 1, 8, 12, 16, 255))
            elif what == 1:
                struct.pack_into(">H", out, rng.choice((1, 3)), rng.choice(_SIDES))
            elif what == 2:
                out[5] = rng.choice((0, 1, 2, 3, 4, 5, 10, 255))
                out += rng.randbytes(rng.choice((0, 3, 6)))
            elif what == 3:
                at = 6 + 3 * rng.randrange((len(out) - 6) // 3 or 1) + 1
                out[min(at, len(out) - 1)] = rng.choice((0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x13, 0x44, 0xFF))
            else:
                out[rng.randrange(6, len(out))] = rng.randrange(256)
            new = rng.choice(_FRAMES) if rng.random() < 0.3 else code
            parts[index] = new, bytes(out)


def _frame_again(rng: Random, parts: Segments) -> None:
    frames = [part for part in parts if part[0] in _FRAMES]
    if frames:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(frames))
        _frame(rng, parts)


def _tables(rng: Random, parts: Segments) -> None:
    """Garbage in quantization or Huffman tables."""
    found = [index for index, (code, _) in enumerate(parts) if code in {0xC4, 0xDB}]
    if found:
        index = rng.choice(found)
        code, body = parts[index]
        out = bytearray(body)
        for _ in range(rng.choice((1, 3, 20))):
            out[rng.randrange(min(len(out), rng.choice((1, 17, 200))))] = rng.choice(
                (0, 1, 0x10, 255, rng.randrange(256))
            )
        parts[index] = code, bytes(out)


def _drop(rng: Random, parts: Segments) -> None:
    if parts:
        del parts[rng.randrange(len(parts))]


def _move(rng: Random, parts: Segments) -> None:
    if parts:
        part = parts.pop(rng.randrange(len(parts)))
        parts.insert(rng.randrange(len(parts) + 1), part)


def _double(rng: Random, parts: Segments) -> None:
    if parts:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(parts))


def _body(rng: Random, parts: Segments) -> None:
    if parts:
        index = rng.randrange(len(parts))
        parts[index] = parts[index][0], rng.choice(BYTEWISE)(rng, parts[index][1])


def _add(rng: Random, parts: Segments) -> None:
    odd = (
        (0xDD, struct.pack(">H", edge(rng, 2))),  # restart interval
        (0xDC, struct.pack(">H", rng.choice(_SIDES))),  # number of lines, after the frame
        (0xDE, rng.randbytes(8)),  # hierarchical
        (0xCC, rng.randbytes(rng.choice((2, 4)))),  # arithmetic coding
        (0xEE, b"Adobe\x00d\x00\x00\x00\x00" + bytes([rng.choice((0, 1, 2, 3, 255))])),
        (0xEE, b"Adobe" + rng.randbytes(rng.randrange(8))),
        (0xE0, b"JFIF\x00" + rng.randbytes(rng.randrange(12))),
        (0xE1, exif_lie(rng)),
        (0xE1, exif_lie(rng)),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\x00" + rng.randbytes(20)),
        (0xE2, b"ICC_PROFILE\x00" + rng.randbytes(rng.randrange(20))),
        (0xE2, b"MPF\x00" + exif_lie(rng, header=False)),
        (0xED, b"Photoshop 3.0\x008BIM" + rng.randbytes(rng.randrange(30))),
        (0xFE, rng.randbytes(rng.randrange(20))),
        (rng.randrange(1, 256), rng.randbytes(rng.randrange(20))),
    )
    parts.insert(rng.randrange(len(parts) + 1), rng.choice(odd))


def _scan(rng: Random, parts: Segments) -> None:
    """The header of a scan, or markers in the middle of its data."""
    for index, (code, body) in enumerate(parts):
        if code == _SCAN and body:
            out = bytearray(body)
            if rng.random() < 0.4:
                out[rng.randrange(min(len(out), 10))] = rng.choice(
                    (0, 1, 2, 3, 4, 0x11, 63, 64, 255, rng.randrange(256))
                )
            else:
                at = rng.randrange(len(out))
                marker = rng.choice(
                    (0xD0, 0xD3, 0xD7, 0xD8, 0xD9, 0xD9, 0xDA, 0xC0, 0xC4, 0x00, 0x01, rng.randrange(256))
                )
                out[at : at + rng.choice((0, 2))] = bytes((0xFF, marker)) * rng.choice((1, 1, 5))
            parts[index] = code, bytes(out)


def _scans_again(rng: Random, parts: Segments) -> None:
    """The scans of a progressive file in another order and number."""
    if not parts or parts[-1][0] != _SCAN:
        return
    marker, first = b"\xff\xda", parts[-1][1]
    scans = (struct.pack(">H", 6 + 2 * (first or b"\0")[0]) + first).split(marker)
    rng.shuffle(scans)
    scans *= rng.choice((1, 1, 2, 5))
    parts[-1] = _SCAN, marker.join(scans)[2:]


_LIES = (
    _frame, _frame, _frame_again, _tables, _tables, _drop, _move, _double, _body, _add, _add, _scan, _scan,
    _scans_again,
)  # fmt: skip
