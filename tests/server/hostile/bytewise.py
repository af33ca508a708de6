"""Ways to break any file: bits, bytes, cuts, junk, and pieces of other files. Each takes a `Random` and the bytes."""

from __future__ import annotations

from random import Random

# Where counters overflow, signs turn and buffers end.
EDGES = (0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 257, 4095, 8192, 32767, 32768, 65535, 65536, 0x7FFFFFFF, 2**31)


def edge(rng: Random, size: int) -> int:
    """A number of `size` bytes that is likely to be wrong."""
    top = (1 << 8 * size) - 1
    return rng.choice((rng.randrange(top + 1), rng.choice(EDGES) & top, top, top - 1, rng.randrange(64)))


def flip(rng: Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwrite(rng: Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if out:
            out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
    return bytes(out)


def number(rng: Random, data: bytes) -> bytes:
    """Put a wrong number of 2 or 4 bytes somewhere; the headers are in front, so mostly there."""
    size, order = rng.choice((2, 4)), rng.choice(("little", "big"))
    at = rng.randrange(max(1, min(len(data), rng.choice((64, 256, 1 << 20)))))
    return data[:at] + edge(rng, size).to_bytes(size, "little" if order == "little" else "big") + data[at + size :]


def cut_end(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def cut_middle(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 3, 4, 8, 100, rng.randrange(len(data) + 1))) :]


def insert(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    length = rng.choice((1, 1, 2, 4, 16, 300))
    junk = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length))
    return data[:at] + junk + data[at:]


def repeat(rng: Random, data: bytes) -> bytes:
    begin = rng.randrange(len(data) + 1)
    piece = data[begin : begin + rng.randrange(1, 200)]
    at = rng.choice((begin, rng.randrange(len(data) + 1)))
    return data[:at] + piece * rng.choice((1, 2, 20)) + data[at:]


def swap(rng: Random, data: bytes) -> bytes:
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def blank(rng: Random, data: bytes) -> bytes:
    begin = rng.randrange(len(data) + 1)
    length = min(rng.randrange(1, 100), len(data) - begin)
    return data[:begin] + bytes([rng.choice((0, 0xFF, rng.randrange(256)))]) * length + data[begin + length :]


def append(rng: Random, data: bytes) -> bytes:
    return data + rng.choice((data, rng.randbytes(50), b"<html></html>", b"PK\x03\x04" + bytes(40)))


BYTEWISE = (flip, overwrite, number, cut_end, cut_middle, insert, repeat, swap, blank, append)


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one file and the rest of another, at the same or another place; or one within the other."""
    at, there = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    return rng.choice((data[:at] + other[there:], data[:at] + other[at:], data[:at] + other + data[at:]))
