"""EXIF data that loops, points out of itself, or says what cannot be."""

from __future__ import annotations

import struct
from random import Random

from tests.server.hostile.bytewise import edge, flip

_TAGS = (0x0112, 0x8769, 0x8825, 0xA005, 0x0100, 0x0101, 0x010F, 0x011A, 0x927C, 0x014A, 0x0201, 0x0202, 0x02BC, 0x8649)


def exif_lie(rng: Random, *, header: bool = True) -> bytes:
    """TIFF directories, with the six bytes in front that JPEG wants, or without."""
    order = rng.choice("<>")
    out = bytearray({"<": b"II", ">": b"MM"}[order])
    out += struct.pack(order + "HI", rng.choice((42, 42, 42, 43, 0)), rng.choice((8, 8, 8, edge(rng, 4))))
    for _ in range(rng.choice((1, 1, 2, 5))):
        entries = rng.randrange(8)
        begin = len(out)
        out += struct.pack(order + "H", rng.choice((entries, entries, 0xFFFF, edge(rng, 2))))
        for _ in range(entries):
            kind = rng.choice((*range(14), 129, edge(rng, 2)))
            count = rng.choice((1, 1, 2, 1000, 0xFFFFFFFF, edge(rng, 4)))
            # A directory within itself, the header, the end, beyond the end.
            value = rng.choice((begin, 0, 8, len(out), rng.randrange(1, 9), edge(rng, 4)))
            out += struct.pack(order + "HHII", rng.choice(_TAGS), kind, count, value)
        out += struct.pack(order + "I", rng.choice((0, 8, begin, edge(rng, 4))))
    data = bytes(out) if rng.random() < 0.7 else flip(rng, bytes(out))
    return (b"Exif\x00\x00" if header else b"") + data
