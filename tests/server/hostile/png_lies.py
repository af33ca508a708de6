"""PNG files with right checksums and wrong everything else."""

from __future__ import annotations

import struct
import zlib
from random import Random

from tests.server.hostile.bytewise import BYTEWISE, edge
from tests.server.hostile.exif_lies import exif_lie
from tests.server.hostile.seeds import PNG_MAGIC, chunk

Chunks = list[tuple[bytes, bytes]]
_SIDES = (0, 1, 2, 3, 4, 8, 16, 100, 999, 5000, 25_000, 65_535, 0x7FFFFFFF, 0xFFFFFFFF)


def chunks(data: bytes) -> Chunks:
    """The chunks of a PNG file as far as they can be told."""
    at, found = len(PNG_MAGIC), []
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_lie(rng: Random, data: bytes) -> bytes:
    """Break it at one or two places."""
    parts = chunks(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_LIES)(rng, parts)
    file = PNG_MAGIC + b"".join(chunk(*part) for part in parts)
    return rng.choice(_FRAMING)(rng, file) if rng.random() < 0.2 else file


def _header(rng: Random, parts: Chunks) -> None:
    for index, (kind, body) in enumerate(parts):
        if kind in {b"IHDR", b"fcTL"} and len(body) in {13, 26}:
            out = bytearray(body)
            if rng.random() < 0.5:
                at = rng.choice((0, 4)) + (0 if kind == b"IHDR" else 4 * rng.randrange(3))
                struct.pack_into(">I", out, at, rng.choice((rng.choice(_SIDES), rng.randrange(64))))
            else:
                at = rng.randrange(8, len(out))
                out[at] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, rng.randrange(256)))
            parts[index] = kind, bytes(out)


def _drop(rng: Random, parts: Chunks) -> None:
    if parts:
        del parts[rng.randrange(len(parts))]


def _double(rng: Random, parts: Chunks) -> None:
    if parts:
        part = rng.choice(parts)
        at = rng.randrange(len(parts) + 1)
        parts[at:at] = [part] * rng.choice((1, 1, 3, 50))


def _move(rng: Random, parts: Chunks) -> None:
    if parts:
        part = parts.pop(rng.randrange(len(parts)))
        parts.insert(rng.randrange(len(parts) + 1), part)


def _rename(rng: Random, parts: Chunks) -> None:
    if parts:
        index = rng.randrange(len(parts))
        names = (b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"fdAT", b"abcd", b"ABCD", rng.randbytes(4))
        parts[index] = rng.choice(names), parts[index][1]


def _body(rng: Random, parts: Chunks) -> None:
    if parts:
        index = rng.randrange(len(parts))
        parts[index] = parts[index][0], rng.choice(BYTEWISE)(rng, parts[index][1])


def _add(rng: Random, parts: Chunks) -> None:
    parts.insert(rng.randrange(len(parts) + 1), _odd_chunk(rng))


def _odd_chunk(rng: Random) -> tuple[bytes, bytes]:
    """A chunk that is known, with content that is not; the lengths are mostly wrong too."""
    inflated = zlib.compress(bytes(rng.choice((10, 100_000, 3_000_000))), 9)
    return rng.choice(
        (
            (b"tRNS", rng.randbytes(rng.choice((0, 1, 2, 3, 6, 256, 300)))),
            (b"PLTE", rng.randbytes(rng.choice((0, 1, 3, 48, 768, 771)))),
            (b"iCCP", b"name\x00\x00" + inflated),
            (b"iCCP", rng.randbytes(rng.randrange(8))),
            (b"zTXt", b"key\x00\x00" + inflated),
            (b"zTXt", rng.randbytes(rng.randrange(8))),
            (b"iTXt", b"key\x00\x01\x00\x00\x00" + inflated),
            (b"iTXt", b"key\x00" + rng.randbytes(rng.randrange(8))),
            (b"tEXt", rng.randbytes(rng.randrange(8)) + b"\x00" * rng.randrange(3)),
            (b"eXIf", exif_lie(rng, header=False)),
            (b"acTL", struct.pack(">II", edge(rng, 4), edge(rng, 4))),
            (b"fcTL", rng.randbytes(rng.choice((0, 8, 25, 26)))),
            (b"fdAT", rng.randbytes(rng.randrange(8))),
            (b"gAMA", rng.randbytes(rng.randrange(6))),
            (b"cHRM", rng.randbytes(rng.choice((0, 7, 32)))),
            (b"sRGB", rng.randbytes(rng.randrange(3))),
            (b"pHYs", rng.randbytes(rng.choice((0, 8, 9)))),
            (b"IDAT", b""),
        )
    )


def _scanlines(rng: Random, parts: Chunks) -> None:
    """Other pixels, filters and lengths below a valid compression, or a compression that breaks off."""
    body = b"".join(body for kind, body in parts if kind == b"IDAT")
    try:
        rows = zlib.decompress(body)
    except zlib.error:
        return
    body = zlib.compress(rng.choice(BYTEWISE)(rng, rows), rng.choice((0, 1, 9)))
    if rng.random() < 0.3:
        body = rng.choice(BYTEWISE)(rng, body)
    size = rng.choice((len(body) or 1, 1, 7, 100))
    pieces = [(b"IDAT", body[at : at + size]) for at in range(0, len(body), size)]
    first = next((index for index, (kind, _) in enumerate(parts) if kind == b"IDAT"), len(parts))
    parts[:] = parts[:first] + pieces + [part for part in parts[first:] if part[0] != b"IDAT"]


_LIES = (_header, _header, _drop, _double, _move, _rename, _body, _add, _add, _scanlines, _scanlines)


def _length(rng: Random, data: bytes) -> bytes:
    """Another length in front of a chunk."""
    places = [8]
    for kind, body in chunks(data)[:-1]:
        places.append(places[-1] + 12 + len(body) + 0 * len(kind))
    at = rng.choice(places)
    return data[:at] + edge(rng, 4).to_bytes(4, "big") + data[at + 4 :]


_FRAMING = (_length, *BYTEWISE)
