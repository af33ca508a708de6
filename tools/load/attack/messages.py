"""What attackers send: messages of the contract that are legal, or nearly, and cost far more than they weigh."""

from __future__ import annotations

import gzip
import io
import random
import struct
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from glimpse.v1 import classifier_pb2 as pb
from tests.server.hostile.bombs import jpeg, one_colour_webp
from tests.server.hostile.wire import message
from tools.bench import photos

_MIB = 1 << 20
LARGEST = 16 * _MIB  # bytes of a message, by default
_SIDE = 4096  # pixels of the pictures with hidden scans
_INTERVAL = 32_767  # blocks between two restarts: as many as one code of a run of empty blocks can stand for
_SEGMENT = 65_000  # bytes of a segment


@cache
def body(name: str, *, packed: bool = False) -> bytes:
    """Messages by the name of their kind, each behind gRPC's prefix; `packed`: by gzip."""
    made = KINDS[name]()
    if not packed:
        return made
    assert len(made) == 5 + int.from_bytes(made[1:5])  # a single message
    return message(gzip.compress(made[5:]), flag=1)


def _classify(*images: pb.Image) -> bytes:
    return message(pb.ClassifyRequest(images=images).SerializeToString())


def _pieces(image: pb.Image, count: int) -> bytes:
    """So many requests of a stream, each with an id of its own."""
    request = pb.ClassifyRequest(images=[image])
    return b"".join(
        message(pb.ClassifyStreamRequest(id=str(number), request=request).SerializeToString())
        for number in range(count)
    )


def _file(data: bytes) -> pb.Image:
    return pb.Image(encoded=data)


def _webp() -> pb.Image:
    """25 megapixels in 34 bytes."""
    return _file(one_colour_webp(5000, 5000))


@cache
def _photo() -> pb.Image:
    return _file(photos.jpegs(1)[0])


@cache
def _jpeg_of_12_megapixels() -> pb.Image:
    file = io.BytesIO()
    Image.open(io.BytesIO(photos.jpegs(1)[0])).resize((4000, 3000), Image.Resampling.BICUBIC).save(file, "JPEG")
    return _file(file.getvalue())


def _small_png(seed: int) -> pb.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 48, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return _file(file.getvalue())


def _raw(side: int) -> pb.Image:
    return pb.Image(raw=pb.RawPixels(height=side, width=side, data=bytes(side * side * 3)))


def _progressive() -> bytes:
    """The head of a grey progressive JPEG that shall have restarts, up to its first scan (T.81, annex B)."""
    quantization = b"\xff\xdb\x00\x43\x00" + b"\x01" * 64
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, _SIDE, _SIDE, 1) + b"\x01\x11\x00"
    # One code of one bit each: a difference of 0 for DC, and a run of empty blocks for AC.
    direct = b"\xff\xc4\x00\x14\x00" + b"\x01" + bytes(15) + b"\x00"
    alternating = b"\xff\xc4\x00\x14\x10" + b"\x01" + bytes(15) + b"\xe0"
    restarts = b"\xff\xdd\x00\x04" + struct.pack(">H", _INTERVAL)
    return b"\xff\xd8" + quantization + frame + direct + alternating + restarts


def _scan_header(low: int, high: int, before: int, now: int) -> bytes:
    return b"\xff\xda\x00\x08\x01\x01\x00" + bytes((low, high, before << 4 | now))


@cache
def _scan() -> bytes:
    """A scan that refines every coefficient of the picture and says nothing: some 60 bytes."""
    intervals = -(-((_SIDE // 8) ** 2) // _INTERVAL)
    out = bytearray(_scan_header(1, 63, 1, 0))
    for number in range(intervals):
        out += b"\x7f\xff\x00"  # the code, and 14 bits of ones: 32,767 blocks
        if number < intervals - 1:
            out += bytes((0xFF, 0xD0 + number % 8))
    return bytes(out)


def _hiding(scans: int, codes: list[int]) -> bytes:
    """A scan whose first restart is a marker below FFC0 instead, and whose `segment` is scans.

    Where restarts are on, libjpeg drops such a marker alone and reads on behind it; who believes in a length behind
    every marker jumps over what is decoded.
    """
    out, generator = bytearray(_progressive()), random.Random(1)
    each = (_SEGMENT - 2) // len(_scan())
    while scans > 0:
        hidden = _scan() * min(scans, each)
        out += _scan_header(1, 63, 1, 0) + b"\x7f\xff\x00"
        out += bytes((0xFF, generator.choice(codes))) + struct.pack(">H", len(hidden) + 2).replace(b"\xff", b"\xfe")
        out += hidden
        scans -= each
    return bytes(out + b"\xff\xd9")


def _behind_the_end(scans: int) -> bytes:
    """Scans behind an end of the image that stands in a comment, behind another one, and behind garbage."""
    first = _progressive() + _scan()
    comment = b"\xff\xfe\x00\x06" + b"\xff\xd9\xff\xd9"
    garbage = bytes(range(1, 0xD0)) * 5
    return first + comment + _scan() * (scans // 2) + b"\xff\xd9" + garbage + _scan() * (scans // 2) + b"\xff\xd9"


def _in_tables(scans: int) -> bytes:
    """Scans between false restarts and tables: everything a reader of markers has to step over."""
    out, table = bytearray(_progressive()), b"\xff\xdb\x00\x43\x00" + b"\x01" * 64
    for number in range(scans):
        out += _scan() + bytes((0xFF, 0xD0 + number % 8)) + (table if number % 3 == 0 else b"\xff\xff")
    return bytes(out + b"\xff\xd9")


def _empty_images(count: int) -> bytes:
    """So many images without a source, of two bytes each."""
    return message(b"\x12\x00" * count)


KINDS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: message(b""),
    "list of services": lambda: message(b"\x3a\x00"),
    "no message": lambda: message(b"\xff" * 20),
    "photo": lambda: _classify(_photo()),
    "25 megapixels": lambda: _classify(_webp()),
    "12 megapixels": lambda: _classify(_jpeg_of_12_megapixels()),
    "raw pixels": lambda: _classify(_raw(2300)),
    "64 images": lambda: _classify(*(_small_png(seed) for seed in range(64))),
    "64 large images": lambda: _classify(*[_webp()] * 64),
    "64 no images": lambda: _classify(*[_file(b"x")] * 64),
    "63 duds": lambda: _classify(*[_file(_photo().encoded[: 5000 + i]) for i in range(63)], _photo()),
    "pieces of 25 megapixels": lambda: _pieces(_webp(), 1000),
    "pieces of photos": lambda: _pieces(_photo(), 200),
    "empty pieces": lambda: message(b"") * 20_000,
    "hidden scans": lambda: _classify(_file(_hiding(900, [0x02]))),
    "scans hidden by many markers": lambda: _classify(_file(_hiding(900, list(range(0x02, 0xC0))))),
    "scans behind the end": lambda: _classify(_file(_behind_the_end(900))),
    "32 scans of 25 megapixels": lambda: _classify(_file(jpeg(5000, 5000, scans=32, progressive=True))),
    "scans between tables": lambda: _classify(_file(_in_tables(900))),
    "hidden scans of 11 MB": lambda: _classify(_file(_hiding(11 * _MIB // len(_scan()), [0x02]))),
    "16 MiB but for a byte": lambda: message(bytes(LARGEST - 1), length=LARGEST),
    "8 of 16 MiB": lambda: message(bytes(LARGEST // 2), length=LARGEST),
    "16 MiB of zeros": lambda: message(b"\x12" + _varint(LARGEST - 16) + b"\x0a" + _varint(LARGEST - 24)
                                       + bytes(LARGEST - 24)),
    "half a million empty images": lambda: _empty_images(500_000),
    "two million empty images": lambda: _empty_images(2_000_000),
    "unknown fields": lambda: message((b"\xf3\x07" * 60 + b"\xf4\x07" * 60) * (4 * _MIB // 240)),
}  # fmt: skip


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes((*out, value))
