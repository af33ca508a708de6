"""Files that would take far more memory or time than their bytes, if anybody believed them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from functools import cache

from tests.server.hostile.other_lies import riff
from tests.server.hostile.seeds import PNG_MAGIC, SAMPLES, bmp, chunk, picture, saved, seeds

PIXELS, DAMAGED, REFUSED = "IMAGE_PIXELS_EXCEEDED", "CORRUPT_IMAGE", "UNSUPPORTED_FORMAT"
_BLOCK = 1 << 20


@cache
def _deflated(length: int, flush: int = zlib.Z_FULL_FLUSH) -> bytes:
    """Zeros as a piece of a deflated stream."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    return press.compress(bytes(length)) + press.flush(flush)


@cache
def zeros(width: int, height: int, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A whole PNG of zeros, about a thousandth of its pixels' size; made without them."""
    length = ((width * SAMPLES[colour] * depth + 7) // 8 + 1) * height
    blocks, rest = divmod(length, _BLOCK)
    stream = b"\x78\xda" + _deflated(_BLOCK) * blocks + _deflated(rest, zlib.Z_FINISH)
    stream += struct.pack(">HH", length % 65_521, 1)  # Adler-32 of zeros
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    body = chunk(b"IDAT", stream)
    return PNG_MAGIC + chunk(b"IHDR", header) + palette + extra + body + chunk(b"IEND", b"")


def one_colour_webp(width: int, height: int) -> bytes:
    """A whole lossless WebP: every code has one symbol, so that a pixel takes no bits (RFC 9649, section 3)."""
    bits, length = 0, 0
    fields = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (1, 1), (0, 3), (0, 3)]
    for value, size in fields + [(1, 1), (0, 3)] * 5:
        bits |= value << length
        length += size
    body = bits.to_bytes(16, "little")
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int, mode: str = "RGB", *, scans: int = 1, **options: object) -> bytes:
    """A JPEG of any size whose picture ends as soon as it begins, which decoders fill up with grey."""
    data = saved(picture(16, 16, mode), "JPEG", **options)
    frame = re.search(rb"\xff[\xc0\xc2]\x00[\x0b\x11\x14]\x08", data)
    assert frame is not None
    data = data[: frame.end()] + struct.pack(">HH", height, width) + data[frame.end() + 4 :]
    scan = data.index(b"\xff\xda")
    end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    return data[:end] + data[scan:end] * (scans - 1) + b"\xff\xd9"


def apart(data: bytes) -> bytes:
    """A sequential JPEG with a scan for each of its components: gathered in memory as a progressive one is."""
    head = data[: data.index(b"\xff\xda")]
    return (
        head
        + b"".join(b"\xff\xda\x00\x08\x01" + bytes((n, t)) + b"\x00\x3f\x00" for n, t in ((1, 0), (2, 17), (3, 17)))
        + b"\xff\xd9"
    )


def fields(count: int, size: int) -> bytes:
    """EXIF data of so many fields, all of which are the same `size` bytes."""
    out = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", count)
    out += b"".join(struct.pack("<HHII", 0x9000 + i, 1, size, 8) for i in range(count)) + bytes(4)
    return out + bytes(max(0, size + 8 - len(out)))


def _segments(kind: int, prefix: bytes, data: bytes) -> bytes:
    pieces = [prefix + data[at : at + 65_000] for at in range(0, len(data), 65_000)]
    return b"".join(struct.pack(">BBH", 0xFF, kind, 2 + len(piece)) + piece for piece in pieces)


def _in_jpeg(piece: bytes) -> bytes:
    data = seeds()["JPEG plain"]
    return data[:2] + piece + data[2:]


def _in_png(piece: bytes) -> bytes:
    data = seeds()["PNG rgb"]
    return data[:33] + piece + data[33:]


def _in_webp(kind: bytes, body: bytes) -> bytes:
    parts = [*riff(seeds()["WEBP turned"]), (kind, body)]
    data = b"WEBP" + b"".join(
        k + struct.pack("<I", len(d)) + d + bytes(len(d) % 2) for k, d in parts if k != b"EXIF" or d is body
    )
    return b"RIFF" + struct.pack("<I", len(data)) + data


def _in_gif(piece: bytes) -> bytes:
    data = seeds()["GIF palette"]
    begin = 13 + (3 << (data[10] & 7) + 1)
    return data[:begin] + piece + data[begin:]


def _gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    data = bytearray(seeds()["GIF tiny"])
    at = data.index(b",", 13 + (3 << (data[10] & 7) + 1))
    struct.pack_into("<HH", data, 6, *screen)
    struct.pack_into("<HH", data, at + 5, *frame)
    return bytes(data)


def _canvas() -> bytes:
    return (
        b"RIFF"
        + struct.pack("<I", 52)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + b"\xff" * 6
        + one_colour_webp(2, 2)[12:]
    )


# Name -> how it is made, and what becomes of it. 178,956,970 pixels is where Pillow itself would refuse.
REFUSED_BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of 178,957,506 pixels": (lambda: zeros(13_377, 13_378), PIXELS),
    "PNG of 178,944,129 pixels": (lambda: zeros(13_377, 13_377), PIXELS),
    "PNG of 25,005,000 pixels": (lambda: zeros(5000, 5001, 1, 0), PIXELS),
    "PNG of 65,535 x 65,535 pixels": (lambda: zeros(65_535, 65_535, 1, 0), PIXELS),
    # Pillow has a pointer for every row, in every copy: 859 MiB.
    "PNG of 1 x 25,000,000 pixels": (lambda: zeros(1, 25_000_000, 8, 4), PIXELS),
    "PNG of 25,000,000 x 1 pixels": (lambda: zeros(25_000_000, 1, 8, 4), PIXELS),
    "WebP of 16,383 x 16,383 pixels": (lambda: one_colour_webp(16_383, 16_383), PIXELS),
    "WebP whose canvas is 16,777,216 pixels square": (_canvas, PIXELS),
    "GIF of 65,535 x 65,535 pixels": (lambda: _gif((65_535, 65_535), (1, 1)), PIXELS),
    "GIF whose frame is larger than its screen": (lambda: _gif((1, 1), (65_535, 65_535)), PIXELS),
    "BMP of 2,147,483,647 x 2,147,483,647 pixels": (lambda: bmp(2**31 - 1, 2**31 - 1, 24, b"x"), PIXELS),
    "BMP of -2,147,483,648 lines": (lambda: bmp(1, -(2**31), 24, b"x"), PIXELS),
    "BMP of 1 bit a pixel": (lambda: bmp(5000, 5001, 1, bytes(628 * 5001), palette=bytes(8)), PIXELS),
    "BMP of run lengths": (lambda: bmp(5000, 5000, 8, b"\0\0" * 5000, compression=1, palette=bytes(1024)), REFUSED),
    "JPEG of 65,500 x 65,500 pixels": (lambda: jpeg(65_500, 65_500), PIXELS),
    "progressive JPEG of 65,500 x 65,500 pixels": (lambda: jpeg(65_500, 65_500, progressive=True), PIXELS),
    "JPEG of 100,010,000 pixels": (lambda: jpeg(10_000, 10_001), PIXELS),
    "progressive JPEG of 25,005,000 pixels": (lambda: jpeg(5000, 5001, progressive=True), PIXELS),
    "JPEG of 25,005,000 pixels, a scan for each component": (lambda: apart(jpeg(5000, 5001, subsampling=0)), PIXELS),
    "progressive JPEG of 1000 scans": (lambda: jpeg(4000, 4000, scans=1000, progressive=True), DAMAGED),
    "JPEG of 100,000 segments": (lambda: _in_jpeg(b"\xff\xfe\x00\x02" * 100_000), DAMAGED),
    "PNG of 100,000 chunks": (lambda: _in_png(chunk(b"abCd", b"") * 100_000), DAMAGED),
    "PNG of 100,000 pieces": (lambda: _in_png(chunk(b"IDAT", b"") * 100_000), DAMAGED),
    "WebP of 100,000 chunks": (lambda: _in_webp(b"ABCD", b"") + b"ABCD\0\0\0\0" * 100_000, DAMAGED),
    "GIF of 100,000 extensions": (lambda: _in_gif(b"!\xf9\x04\0\0\0\0\0" * 100_000), DAMAGED),
    "GIF of a comment in 100,000 pieces": (lambda: _in_gif(b"!\xfe" + b"\x01x" * 100_000 + b"\0"), DAMAGED),
}

# A small picture with metadata that nobody needs.
METADATA_BOMBS: dict[str, Callable[[], bytes]] = {
    "JPEG of 5000 fields of 60 kB": lambda: _in_jpeg(_segments(0xE1, b"Exif\0\0", fields(5000, 60_000))),
    "JPEG of 1000 fields of 4 MB in 62 pieces": lambda: _in_jpeg(_segments(0xE1, b"Exif\0\0", fields(1000, 4_000_000))),
    "JPEG of a list of pictures that is no list": lambda: _in_jpeg(_segments(0xE2, b"MPF\0", fields(2500, 30_000))),
    "PNG of 1000 fields of 4 MB": lambda: _in_png(chunk(b"eXIf", fields(1000, 4_000_000))),
    "WebP of 1000 fields of 4 MB": lambda: _in_webp(b"EXIF", fields(1000, 4_000_000)),
    "PNG of 70 texts of 1 MB": lambda: _in_png(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000), 9)) * 70),
    "PNG of a profile of 200 MB": lambda: _in_png(chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "PNG of 4,294,967,295 frames": lambda: _in_png(chunk(b"acTL", b"\xff" * 8)),
}

# Within every limit, and as dear as that can be: 25 million pixels, 100 million of a sequential JPEG.
_CLEAR = chunk(b"tRNS", bytes(6))
COSTLY: dict[str, Callable[[], bytes]] = {
    "PNG, red-green-blue with a transparent colour": lambda: zeros(5000, 5000, 8, 2, _CLEAR),
    "PNG, grey with transparency": lambda: zeros(5000, 5000, 8, 4),
    "PNG, 16 bits with transparency": lambda: zeros(5000, 5000, 16, 6),
    "PNG, a tall one": lambda: zeros(381, 65_535, 8, 4),
    "GIF, a point on a large screen": lambda: _gif((5000, 5000), (1, 1)),
    "WebP": lambda: one_colour_webp(5000, 5000),
    "JPEG, progressive, 32 scans": lambda: jpeg(5000, 5000, scans=32, progressive=True),
    "JPEG, a scan for each component": lambda: apart(jpeg(5000, 5000, subsampling=0)),
    "JPEG, CMYK, 100 million pixels": lambda: jpeg(10_000, 10_000, "CMYK"),
}
