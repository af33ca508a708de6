"""JPEG files of next to no bytes whose scans go through the whole picture, in plain sight and hidden."""

from __future__ import annotations

import struct

_COLOURS = ((1, 0x11), (2, 0x11), (3, 0x11))  # components and their sampling: no chroma is left out
_RUN = 32_767  # blocks without a new coefficient that one code stands for
END = b"\xff\xd9"


def segment(code: int, body: bytes) -> bytes:
    """One segment with its right length."""
    return struct.pack(">BBH", 0xFF, code, 2 + len(body)) + body


def _table(which: int, symbols: bytes) -> bytes:
    """A Huffman table in which each symbol has as many bits as its place."""
    lengths = [int(length < len(symbols)) for length in range(16)]
    return segment(0xC4, bytes((which, *lengths)) + symbols)


def head(width: int, height: int, *, restart: int = 0, frame: int = 0xC2) -> bytes:
    """A JPEG up to its first scan."""
    parts = b"".join(bytes((number, sampling, 0)) for number, sampling in _COLOURS)
    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + b"\1" * 64)
        + segment(frame, struct.pack(">BHHB", 8, height, width, len(_COLOURS)) + parts)
        + _table(0x00, b"\0")
        + _table(0x10, b"\xe0\0")
        + (segment(0xDD, struct.pack(">H", restart)) if restart else b"")
    )


def refinement(width: int, height: int, number: int) -> bytes:
    """A scan that refines a component's coefficients and says of each that there is none: the dearest a byte."""
    blocks = -(-width // 8) * -(-height // 8)
    bits = ("0" + "1" * 14) * -(-blocks // _RUN)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    return segment(0xDA, bytes((1, 1 + number % 3, 0, 1, 63, 0x10))) + coded


def refined(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG of so many such scans."""
    return head(width, height) + b"".join(refinement(width, height, number) for number in range(scans)) + END


def hidden(width: int, height: int, scans: int, marker: bytes, *, restart: int = 1, most: int = 65_000) -> bytes:
    """The same, with all scans but the first inside of what looks like segments with this marker.

    Args:
        width: pixels.
        height: pixels.
        scans: of all.
        marker: FF and a code; the length follows.
        restart: blocks between two restarts, for which libjpeg looks among the bytes.
        most: bytes of such a segment.
    """
    out = head(width, height, restart=restart) + refinement(width, height, 0)
    one = refinement(width, height, 1)
    each = max(1, most // len(one))
    left = scans - 1
    while left > 0:
        body = b"".join(refinement(width, height, number) for number in range(min(left, each)))
        out += marker + struct.pack(">H", 2 + len(body)) + body
        left -= each
    return out + END
