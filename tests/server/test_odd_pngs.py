"""PNG files with chunks twice, in odd places, or of a wrong length: libpng's rules, which browsers go by."""

from __future__ import annotations

import struct

import pytest

from glimpse.server.decoding.decode import decode
from glimpse.server.domain import EncodedImage
from glimpse.server.errors import InvalidImageError, Reason
from tests.server.files import chunk, png
from tests.server.test_decode_pictures import BLUE, GREEN, LIMITS, PALETTE, RED, WHITE, row


def refused(data: bytes) -> Reason:
    with pytest.raises(InvalidImageError) as error:
        decode(EncodedImage(data), LIMITS)
    return error.value.reason


PLTE = chunk(b"PLTE", PALETTE)


def behind_the_pixels(data: bytes, *chunks: bytes) -> bytes:
    return data.removesuffix(chunk(b"IEND", b"")) + b"".join(chunks) + chunk(b"IEND", b"")


def turn(orientation: int) -> bytes:
    return chunk(b"eXIf", b"II*\x00\x08\x00\x00\x00\x01\x00" + struct.pack("<HHII", 0x112, 3, 1, orientation))


def with_wrong_checksum(whole: bytes) -> bytes:
    return whole[:-1] + bytes([whole[-1] ^ 1])


GREY = png(2, 1, 8, 0, b"\x05\x06")
COLOUR = png(2, 1, 8, 2, bytes([1, 2, 3, 4, 5, 6]))
NUMBERS = png(4, 1, 2, 3, b"\x1b", PLTE)
AS_THEY_ARE, THREE, FOUR = [[5] * 3, [6] * 3], [[1, 2, 3], [4, 5, 6]], [RED, GREEN, BLUE, [9] * 3]
ODD_PNGS = {
    "transparency behind the pixels of grey": (behind_the_pixels(GREY, chunk(b"tRNS", b"\x00\x05")), AS_THEY_ARE),
    "transparency behind the pixels of colour": (
        behind_the_pixels(COLOUR, chunk(b"tRNS", b"\x00\x01\x00\x02\x00\x03")),
        THREE,
    ),
    "transparency behind the pixels of a palette": (behind_the_pixels(NUMBERS, chunk(b"tRNS", b"\x00")), FOUR),
    "transparency behind 16 bits of grey": (
        behind_the_pixels(png(2, 1, 16, 0, b"\x01\x02\x01\x03"), chunk(b"tRNS", b"\x01\x02")),
        [[1] * 3, [1] * 3],
    ),
    "transparency before the palette": (png(4, 1, 2, 3, b"\x1b", chunk(b"tRNS", b"\x00"), PLTE), FOUR),
    "transparency twice": (
        png(2, 1, 8, 0, b"\x05\x06", chunk(b"tRNS", b"\x00\x05"), chunk(b"tRNS", b"\x00\x06")),
        [WHITE, [6] * 3],
    ),
    "transparency of a wrong length": (png(2, 1, 8, 0, b"\x05\x06", chunk(b"tRNS", b"\x00\x05\x00")), AS_THEY_ARE),
    "transparency of one byte": (png(2, 1, 8, 0, b"\x05\x06", chunk(b"tRNS", b"\x05")), AS_THEY_ARE),
    "transparency of grey in a picture of colour": (
        png(2, 1, 8, 2, bytes([1, 2, 3, 4, 5, 6]), chunk(b"tRNS", b"\x00\x01")),
        THREE,
    ),
    "transparency of more colours than there are": (
        png(4, 1, 2, 3, b"\x1b", PLTE, chunk(b"tRNS", bytes(5))),
        FOUR,
    ),
    "no transparency at all": (png(4, 1, 2, 3, b"\x1b", PLTE, chunk(b"tRNS", b"")), FOUR),
    "transparency beside an alpha channel": (
        png(2, 1, 8, 4, b"\x05\xff\x07\xff", chunk(b"tRNS", b"\x00\x05")),
        [[5] * 3, [7] * 3],
    ),
    "transparency with a wrong checksum": (
        png(2, 1, 8, 0, b"\x05\x06", with_wrong_checksum(chunk(b"tRNS", b"\x00\x05"))),
        AS_THEY_ARE,
    ),
    "transparency with bits beyond the depth": (
        png(2, 1, 4, 0, b"\x56", chunk(b"tRNS", b"\x01\x05")),
        [WHITE, [102] * 3],
    ),
    "transparency with bits beyond eight": (
        png(2, 1, 8, 0, b"\x05\x06", chunk(b"tRNS", b"\x01\x05")),
        [WHITE, [6] * 3],
    ),
    "a palette twice": (png(4, 1, 2, 3, b"\x1b", PLTE, chunk(b"PLTE", bytes(12))), FOUR),
    "a palette behind the pixels": (behind_the_pixels(NUMBERS, chunk(b"PLTE", bytes(12))), FOUR),
    "a palette that is a suggestion": (png(2, 1, 8, 2, bytes([1, 2, 3, 4, 5, 6]), PLTE), THREE),
    "a palette for grey": (png(2, 1, 8, 0, b"\x05\x06", PLTE), AS_THEY_ARE),
    "an orientation behind the pixels": (behind_the_pixels(GREY, turn(3)), AS_THEY_ARE[::-1]),
    "orientations twice": (png(2, 1, 8, 0, b"\x05\x06", turn(1), turn(3)), AS_THEY_ARE),
    "a gamma": (png(2, 1, 8, 0, b"\x05\x06", chunk(b"gAMA", struct.pack(">I", 10_000))), AS_THEY_ARE),
    "a gamma behind the pixels": (behind_the_pixels(GREY, chunk(b"gAMA", struct.pack(">I", 10_000))), AS_THEY_ARE),
    "a profile behind the pixels": (behind_the_pixels(GREY, chunk(b"iCCP", b"a\0\0")), AS_THEY_ARE),
    "a background": (
        png(2, 1, 8, 0, b"\x05\x06", chunk(b"tRNS", b"\x00\x05"), chunk(b"bKGD", b"\x00\x07")),
        [WHITE, [6] * 3],
    ),
    "bytes behind the end": (GREY + b"anything" + chunk(b"tRNS", b"\x00\x05"), AS_THEY_ARE),
    "a text between the pixels": (
        GREY.replace(chunk(b"IEND", b""), chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"") + chunk(b"IEND", b"")),
        AS_THEY_ARE,
    ),
}


@pytest.mark.parametrize(("data", "expected"), ODD_PNGS.values(), ids=ODD_PNGS)
def test_chunks_in_odd_places_of_a_png_change_what_they_change_in_browsers(
    data: bytes, expected: list[list[int]]
) -> None:
    assert row(data) == expected


def test_a_png_without_the_palette_that_it_needs_is_damaged() -> None:
    assert refused(png(4, 1, 2, 3, b"\x1b")) is Reason.CORRUPT_IMAGE
    assert refused(behind_the_pixels(png(4, 1, 2, 3, b"\x1b"), PLTE)) is Reason.CORRUPT_IMAGE
