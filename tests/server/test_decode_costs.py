"""Small files that would cost much: each costs what its pixels cost, or is refused before anything is taken for it."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image

from glimpse.models.decoding import bmp, formats, gif, png, webp
from glimpse.models.decoding.exif import orientation
from glimpse.models.decoding.limits import ImageLimits
from glimpse.server.decoding.decode import MAX_SIDE, decode
from glimpse.server.domain import EncodedImage, RawImage
from glimpse.server.errors import InvalidImageError, Reason
from tests.server import files
from tests.server.files import chunk, encoded, exif_bomb, turned

LIMITS = ImageLimits(max_bytes=12_582_912, max_pixels=10**6)
PICTURE = Image.fromarray(np.random.default_rng(5).integers(0, 256, (30, 40, 3), np.uint8))
HEADER = 33  # bytes of a PNG up to the end of its first chunk


def refusal(data: bytes, limits: ImageLimits = LIMITS) -> InvalidImageError:
    with pytest.raises(InvalidImageError) as refused:
        decode(EncodedImage(data), limits)
    return refused.value


def inserted(*chunks: bytes) -> bytes:
    data = encoded("PNG", PICTURE)
    return data[:HEADER] + b"".join(chunks) + data[HEADER:]


def shows_the_picture(data: bytes) -> bool:
    return np.array_equal(np.asarray(decode(EncodedImage(data), LIMITS).image), np.asarray(PICTURE))


# Made by the tests: a quarter of a gigabyte takes most of a second to compress.
METADATA: dict[str, Callable[[], bytes]] = {
    "a profile of 256 MB": lambda: chunk(b"iCCP", b"a\x00\x00" + zlib.compress(bytes(1 << 28))),
    "texts of 100 MB": lambda: chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(1 << 20))) * 100,
    "a profile that is none": lambda: chunk(b"iCCP", b"a\x00\x07"),
    "a text with a wrong checksum": lambda: struct.pack(">I", 3) + b"tEXta\x00b\x00\x00\x00\x00",
    "frames": lambda: chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + chunk(b"fcTL", bytes(26)) * 5000,
    "EXIF data of 6 MB": lambda: chunk(b"eXIf", exif_bomb(6_000_000)),
    "ten thousand chunks": lambda: chunk(b"prIv", b"") * 10_000,
}


@cache
def metadata_of(name: str) -> bytes:
    return METADATA[name]()


@pytest.mark.parametrize("name", METADATA)
def test_no_metadata_of_a_png_keeps_its_picture_from_being_seen(name: str) -> None:
    assert shows_the_picture(inserted(metadata_of(name)))


def test_the_metadata_of_a_png_never_reach_the_decoder() -> None:
    header = png.read(inserted(*map(metadata_of, METADATA)))
    assert header.data == encoded("PNG", PICTURE)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (inserted(chunk(b"tEXt", b"a\x00b") * 20_000), "more than 16384 chunks"),
        (inserted(chunk(b"IDAT", b"") * 20_000), "chunks of almost no bytes"),
        (
            files.gif((1, 1), (0, 0, 1, 1), [0], bytes(12), extensions=b"\x21\xfe" + b"\x01a" * 20_000 + b"\x00"),
            "more than 16384 blocks",
        ),
        (
            files.gif((1, 1), (0, 0, 1, 1), [0], bytes(12), extensions=b"\x21\xfe\x00" * 20_000),
            "more than 16384 blocks",
        ),
        (files.gif((1, 1), (0, 0, 1, 1), [0], bytes(12), extensions=b"\x00" * 20_000), "more than 16384 blocks"),
    ],
    ids=["texts", "empty pieces of pixels", "blocks of a comment", "empty comments", "junk"],
)
def test_what_is_read_piece_by_piece_has_a_number_of_pieces(data: bytes, what: str) -> None:
    error = refusal(data)
    assert error.reason is Reason.CORRUPT_IMAGE
    assert what in error.message


def test_pieces_of_a_webp_have_a_number() -> None:
    data = encoded("WEBP", PICTURE) + b"JUNK\x00\x00\x00\x00" * 20_000
    whole = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    assert "more than 16384 chunks" in refusal(whole).message


@pytest.mark.parametrize("compression", [1, 2, 4, 5, 99])
def test_a_compressed_bmp_is_refused_by_name(compression: int) -> None:
    data = bytearray(files.bmp(4, 1, 8, bytes(4), palette=bytes(8)))
    struct.pack_into("<I", data, 30, compression)
    error = refusal(bytes(data))
    assert error.reason is Reason.UNSUPPORTED_FORMAT
    assert error.message.startswith("BMP with")


def test_exif_data_are_read_without_believing_their_lengths() -> None:
    for form in ("JPEG", "WEBP", "PNG"):
        decode(EncodedImage(encoded(form, PICTURE, exif=b"Exif\x00\x00" + exif_bomb(60_000))), LIMITS)
    bomb = exif_bomb(5_000_000)
    tracemalloc.start()
    try:
        assert orientation(bomb) == 1
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 1),
        (b"Exif\x00\x00", 1),
        (b"II*\x00", 1),
        (b"II*\x00\xff\xff\xff\xff", 1),
        (b"II*\x00\x08\x00\x00\x00\x01\x00" + struct.pack("<HHII", 0x112, 3, 1, 6), 6),
        (b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + struct.pack(">HHIHH", 0x112, 3, 1, 8, 0), 8),
        (b"MM\x00*\x00\x00\x00\x08\x00\x01" + struct.pack(">HHII", 0x112, 4, 1, 3), 3),
        (b"II*\x00\x08\x00\x00\x00\x01\x00" + struct.pack("<HHII", 0x112, 3, 1, 9), 1),
        (b"II*\x00\x08\x00\x00\x00\x01\x00" + struct.pack("<HHII", 0x112, 2, 1, 6), 1),
        (b"II*\x00\x08\x00\x00\x00\xff\xff" + struct.pack("<HHII", 0x112, 3, 1, 5), 5),
    ],
)
def test_the_orientation_is_read_from_whatever_is_there(data: bytes, expected: int) -> None:
    assert orientation(data) == expected


def headed(form: str, width: int, height: int) -> bytes:
    """A file that promises so many pixels in the place where its format does."""
    data = bytearray(encoded(form, PICTURE))
    if form == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif form == "PNG":
        struct.pack_into(">II", data, 16, width, height)
    elif form == "GIF":
        struct.pack_into("<HH", data, 6, width, height)
    elif form == "BMP":
        struct.pack_into("<ii", data, 18, width, height)
    else:
        struct.pack_into("<HH", data, 26, width, height)
    return bytes(data)


LARGE = {form: headed(form, 16_000, 16_000) for form in formats.FORMATS} | {
    "a GIF whose frame is larger than its screen": files.gif((1, 1), (0, 0, 60_000, 60_000), [0], bytes(12)),
    "a GIF whose frame lies far out": files.gif((1, 1), (60_000, 60_000, 1, 1), [0], bytes(12)),
    "a GIF whose frame is disposed of": files.gif((1, 1), (0, 0, 60_000, 60_000), [0], bytes(12), control=(2, 0)),
    "a BMP from the top": files.bmp(16_000, -16_000, 24, b""),
    "an animated WebP": b"RIFF\x1e\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02\x00\x00\x00\x7f\x3e\x00\x7f\x3e\x00",
    "a lossless WebP": b"RIFF\x1e\x00\x00\x00WEBPVP8L\x05\x00\x00\x00\x2f\xff\xff\xff\x0f\x00",
}


@pytest.mark.parametrize("data", LARGE.values(), ids=LARGE)
def test_too_many_pixels_are_refused_before_the_decoder_sees_them(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Image, "open", opened)
    assert refusal(data).reason is Reason.IMAGE_PIXELS_EXCEEDED


@pytest.mark.parametrize(("width", "height"), [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)])
def test_a_side_longer_than_any_photo_is_refused(width: int, height: int) -> None:
    error = refusal(headed("PNG", width, height))
    assert error.reason is Reason.IMAGE_PIXELS_EXCEEDED
    assert f"{MAX_SIDE:,}" in error.message
    with pytest.raises(InvalidImageError) as refused:
        decode(RawImage(height, width, bytes(3 * (MAX_SIDE + 1))), LIMITS)
    assert refused.value.reason is Reason.IMAGE_PIXELS_EXCEEDED


@pytest.mark.parametrize("form", formats.FORMATS)
def test_a_picture_without_pixels_is_damaged(form: str) -> None:
    for width, height in ((0, 30), (40, 0)):
        # A GIF's screen grows with its frame.
        flat = files.gif((5, 5), (0, 0, width, height), [0], bytes(12))
        data = flat if form == "GIF" else headed(form, width, height)
        assert refusal(data).reason in {Reason.CORRUPT_IMAGE, Reason.TRUNCATED_IMAGE}


def test_pillows_own_limit_does_not_interfere() -> None:
    """It would warn from 89 million pixels, and a warning is an error here; ours may be higher."""
    assert Image.MAX_IMAGE_PIXELS is None
    many = files.png(12_000, 8_000, 1, 0, bytes(1500 * 8_000))
    assert refusal(many).reason is Reason.IMAGE_PIXELS_EXCEEDED
    with Image.open(io.BytesIO(png.read(many).data)) as image:
        assert image.size == (12_000, 8_000)


def test_a_png_that_needs_what_no_decoder_has_is_refused_by_name() -> None:
    assert refusal(inserted(chunk(b"XyZz", b""))).reason is Reason.UNSUPPORTED_FORMAT
    apple = encoded("PNG", PICTURE)
    assert "CgBI" in refusal(apple[:8] + chunk(b"CgBI", bytes(4)) + apple[8:]).message


def test_a_png_with_two_headers_is_refused() -> None:
    data = encoded("PNG", PICTURE)
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    assert refusal(data[:HEADER] + second + data[HEADER:]).reason is Reason.CORRUPT_IMAGE


def test_headers_say_what_pillow_says() -> None:
    for form, module in (("PNG", png), ("GIF", gif), ("BMP", bmp), ("WEBP", webp)):
        header = module.read(encoded(form, PICTURE))
        assert (header.form, header.size, header.cut) == (form, (40, 30), False)
    for options in ({"lossless": True}, {"exif": b"Exif\x00\x00" + bytes(9)}):
        assert webp.read(encoded("WEBP", PICTURE, **options)).size == (40, 30)
    for form in ("JPEG", "PNG", "WEBP"):
        assert formats.read(turned(form, np.asarray(PICTURE), 6)).orientation == 6
