"""BMP files that few programs write, and that viewers show."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from glimpse.server.decoding.decode import decode
from glimpse.server.domain import EncodedImage
from glimpse.server.errors import InvalidImageError, Reason
from tests.server.files import other_bmp
from tests.server.test_decode_pictures import BLACK, BLUE, COLOURS, FIRST, LIMITS, RED, SECOND, WHITE, row, shown


def refused(data: bytes) -> Reason:
    with pytest.raises(InvalidImageError) as error:
        decode(EncodedImage(data), LIMITS)
    return error.value.reason


BITS = (0xFF0000, 0xFF00, 0xFF)
RED_BLUE = bytes((*RED[::-1], *BLUE[::-1], 0, 0))  # of 24 bits a pixel
OTHER_BMPS = {
    "masks in another order": (
        other_bmp(2, 1, 32, b"\xff\x00\x00\x00\x00\x00\xff\x00", compression=3, masks=(0xFF, 0xFF00, 0xFF0000)),
        [RED, BLUE],
    ),
    "masks beginning in the second byte": (
        other_bmp(2, 1, 32, b"\x07\x01\x02\x03\x07\x04\x05\x06", compression=3, masks=(0xFF00, 0xFF0000, 0xFF000000)),
        [[1, 2, 3], [4, 5, 6]],
    ),
    "three channels of four bits": (
        other_bmp(2, 1, 16, struct.pack("<HH", 0x0F80, 0xF001), compression=3, masks=(0xF00, 0xF0, 0xF)),
        [[255, 136, 0], [0, 0, 17]],
    ),
    "masks for 5, 5 and 5 bits, blue first": (
        other_bmp(2, 1, 16, struct.pack("<HH", 0x001F, 0x7C00), compression=3, masks=(0x1F, 0x3E0, 0x7C00)),
        [RED, BLUE],
    ),
    "masks for 6, 5 and 5 bits": (
        other_bmp(2, 1, 16, struct.pack("<HH", 0xFC00, 0x001F), compression=3, masks=(0xFC00, 0x3E0, 0x1F)),
        [RED, BLUE],
    ),
    "ten bits a channel": (
        other_bmp(
            2,
            1,
            32,
            struct.pack("<II", 0x3FF << 20 | 0x200 << 10 | 3, 4),
            compression=3,
            masks=(0x3FF00000, 0xFFC00, 0x3FF),
        ),
        [[255, 128, 0], [0, 0, 1]],
    ),
    "11, 11 and 10 bits": (
        other_bmp(2, 1, 32, struct.pack("<II", 0xFFE00000, 0x3FF), compression=3, masks=(0xFFE00000, 0x1FFC00, 0x3FF)),
        [RED, BLUE],
    ),
    "no mask for green": (
        other_bmp(1, 1, 32, b"\xff\xff\xff\xff", compression=3, masks=(0xFF0000, 0, 0xFF)),
        [[255, 0, 255]],
    ),
    "24 bits with masks in another order": (
        other_bmp(1, 1, 24, b"\x01\x02\x03\x00", compression=3, masks=(0xFF, 0xFF00, 0xFF0000)),
        [[1, 2, 3]],
    ),
    "four channels of four bits": (
        other_bmp(
            2, 1, 16, struct.pack("<HH", 0xFF00, 0x0F00), header=56, compression=3, masks=(0xF00, 0xF0, 0xF, 0xF000)
        ),
        [RED, WHITE],
    ),
    "an alpha of one bit": (
        other_bmp(
            2, 1, 16, struct.pack("<HH", 0xFC00, 0x7C00), header=108, compression=3, masks=(0x7C00, 0x3E0, 0x1F, 0x8000)
        ),
        [RED, WHITE],
    ),
    "an alpha of one bit that nobody filled in": (
        other_bmp(
            2, 1, 16, struct.pack("<HH", 0x7C00, 0x001F), header=124, compression=3, masks=(0x7C00, 0x3E0, 0x1F, 0x8000)
        ),
        [RED, BLUE],
    ),
    "an alpha of two bits": (
        other_bmp(
            2,
            1,
            32,
            struct.pack("<II", 0xFFF00000, 0x3FF00000),
            header=56,
            compression=3,
            masks=(0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000),
        ),
        [RED, WHITE],
    ),
    "an alpha that no pixel can have": (
        other_bmp(
            1, 1, 16, struct.pack("<HH", 0xF800, 0), header=56, compression=3, masks=(0xF800, 0x7E0, 0x1F, 0xF0000000)
        ),
        [RED],
    ),
    "masks with alpha behind the plain header": (
        other_bmp(2, 1, 32, b"\x01\x02\x03\xff\x01\x02\x03\x00", compression=6, masks=(*BITS, 0xFF000000)),
        [FIRST, WHITE],
    ),
    "52 bytes of header": (other_bmp(1, 1, 32, COLOURS[:4], header=52, compression=3, masks=BITS), [FIRST]),
    "108 bytes of header": (
        other_bmp(1, 1, 32, b"\x03\x02\x01\x00", header=108, compression=3, masks=(*BITS[::-1], 0)),
        [[3, 2, 1]],
    ),
    "124 bytes of header": (other_bmp(1, 1, 24, COLOURS[:4], header=124), [FIRST]),
    "2 bits": (
        other_bmp(5, 2, 2, b"\x1b\x40\x00\x00\xe4\x00\x00\x00", palette=COLOURS + b"\x09\x09\x09\x00\x07\x07\x07\x00"),
        [[7] * 3, [9] * 3, SECOND, FIRST, FIRST, FIRST, SECOND, [9] * 3, [7] * 3, SECOND],
    ),
    "2 bits from the top": (
        other_bmp(1, -2, 2, b"\x00\x00\x00\x00\x40\x00\x00\x00", palette=COLOURS, colours=2),
        [FIRST, SECOND],
    ),
    "a number beyond the palette": (
        other_bmp(2, 1, 2, b"\x70\x00\x00\x00", palette=COLOURS, colours=2),
        [SECOND, BLACK],
    ),
    "OS/2 1.x, 1 bit": (
        other_bmp(3, 1, 1, b"\x40\x00\x00\x00", header=12, palette=b"\1\2\3\4\5\6"),
        [FIRST, SECOND, FIRST],
    ),
    "OS/2 1.x, 2 bits": (
        other_bmp(3, 1, 2, b"\x10\x00\x00\x00", header=12, palette=b"\1\2\3\4\5\6"),
        [FIRST, SECOND, FIRST],
    ),
    "OS/2 1.x, 8 bits": (other_bmp(2, 1, 8, b"\x01\x00\x00\x00", header=12, palette=b"\1\2\3\4\5\6"), [SECOND, FIRST]),
    "OS/2 1.x, 24 bits": (other_bmp(1, 2, 24, COLOURS, header=12), [SECOND, FIRST]),
    "OS/2 2.x, the shortest header": (
        other_bmp(2, 1, 8, b"\x01\x00\x00\x00", header=16, palette=COLOURS),
        [SECOND, FIRST],
    ),
    "OS/2 2.x, 24 bits": (other_bmp(1, 2, 24, COLOURS, header=16), [SECOND, FIRST]),
    "OS/2 2.x, 36 bytes": (
        other_bmp(2, 1, 4, b"\x10\x00\x00\x00", header=36, colours=2, palette=COLOURS),
        [SECOND, FIRST],
    ),
    "OS/2 2.x, the longest header": (
        other_bmp(2, 1, 8, b"\x01\x00\x00\x00", header=64, colours=2, palette=COLOURS),
        [SECOND, FIRST],
    ),
    "a palette of more colours than a pixel can name": (
        other_bmp(2, 1, 8, b"\x01\x00\x00\x00", colours=300, palette=COLOURS * 150),
        [SECOND, FIRST],
    ),
    "a gap in front of the pixels": (
        other_bmp(2, 1, 2, b"\x40\x00\x00\x00", colours=2, palette=COLOURS, gap=100),
        [SECOND, FIRST],
    ),
    "without the padding of its last row": (
        other_bmp(1, 1, 16, b"\x00\x0f", compression=3, masks=(0xF00, 0xF0, 0xF)),
        [RED],
    ),
}


@pytest.mark.parametrize(("data", "expected"), OTHER_BMPS.values(), ids=OTHER_BMPS)
def test_bmps_that_few_programs_write_show_what_other_viewers_show(data: bytes, expected: list[list[int]]) -> None:
    assert row(data) == expected


def test_masks_that_pillow_knows_and_others_give_the_same_values() -> None:
    """Of every value of five and six bits, by Pillow in the usual order and by our own code in another one."""
    five, six = np.arange(64) % 32, np.arange(64)
    usual = (five << 11 | six << 5 | five).astype("<u2").tobytes()
    other = (six << 10 | five << 5 | five).astype("<u2").tobytes()
    theirs = shown(other_bmp(64, 1, 16, usual, compression=3, masks=(0xF800, 0x7E0, 0x1F)))
    ours = shown(other_bmp(64, 1, 16, other, compression=3, masks=(0x3E0, 0xFC00, 0x1F)))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_bmp_with_other_masks_that_is_cut_is_truncated(cut: int) -> None:
    whole = other_bmp(1, 2, 32, bytes(8), compression=3, masks=(0xFF00, 0xFF0000, 0xFF000000))
    assert refused(whole[:-cut]) is Reason.TRUNCATED_IMAGE


@pytest.mark.parametrize(
    "whole",
    [
        other_bmp(2, 1, 24, RED_BLUE),
        other_bmp(2, -1, 24, RED_BLUE, header=124),
        other_bmp(2, 1, 32, b"\xff\x00\x00\x00\x00\x00\xff\x00", compression=3, masks=(0xFF, 0xFF00, 0xFF0000)),
        other_bmp(2, 1, 16, struct.pack("<HH", 0xF800, 0x1F), compression=3, masks=(0xF800, 0x7E0, 0x1F)),
        other_bmp(2, 1, 32, bytes((0, 0, 255, 255, 255, 0, 0, 255)), compression=6, masks=(*BITS, 0xFF000000)),
        other_bmp(2, 1, 2, b"\x10\0\0\0", palette=bytes((*RED[::-1], 0, *BLUE[::-1], 0, *bytes(8)))),
        other_bmp(2, 1, 8, b"\0\1\0\0", palette=bytes((*RED[::-1], 0, *BLUE[::-1], 0)), colours=2),
        other_bmp(2, 1, 24, RED_BLUE, palette=bytes(8), colours=2),
    ],
)
def test_a_bmp_without_the_header_of_a_file_is_the_picture_that_it_is_with_it(whole: bytes) -> None:
    assert shown(whole).tolist() == [[RED, BLUE]]
    assert shown(whole[14:]).tolist() == [[RED, BLUE]]


def test_what_pillow_writes_as_dib_is_decoded() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[RED, BLUE]], np.uint8)).save(file, "DIB")
    assert shown(file.getvalue()).tolist() == [[RED, BLUE]]


def test_a_bmp_without_the_header_of_a_file_may_end_early() -> None:
    bare = other_bmp(2, 1, 24, RED_BLUE)[14:]
    assert {refused(bare[:length]) for length in range(16, len(bare) - 2)} == {Reason.TRUNCATED_IMAGE}
    assert refused(bare[:32] + b"\xff" * 4 + bare[36:]) is Reason.TRUNCATED_IMAGE


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (other_bmp(1, 1, 32, bytes(4), compression=3, masks=(0xF0F, 0xF0, 0xFF0000)), "colour masks F0F, F0, FF0000"),
        (other_bmp(1, 1, 16, bytes(4), compression=3, masks=(0, 0, 0)), "colour masks 0, 0, 0"),
        (other_bmp(1, 1, 16, bytes(4), compression=3, masks=(0xF0000, 0xF0, 0xF)), "colour masks F0000"),
        (other_bmp(1, 1, 8, bytes(4), compression=3, masks=(0xE0, 0x1C, 3)), "colour masks for 8 bits"),
        (other_bmp(1, 1, 64, bytes(8)), "64 bits a pixel"),
        (other_bmp(1, 1, 0, bytes(8)), "0 bits a pixel"),
        (other_bmp(1, 1, 1, bytes(8), header=64, compression=3, palette=COLOURS), "Huffman codes"),
        (other_bmp(1, 1, 24, bytes(8), header=64, compression=4), "run lengths"),
        (other_bmp(1, 1, 8, bytes(8), compression=1), "run lengths"),
        (other_bmp(1, 1, 32, bytes(8), compression=11), "inks"),
        (b"BA" + bytes(12) + other_bmp(1, 1, 24, bytes(4)), "OS/2 bitmap array"),
    ],
)
def test_a_bmp_that_is_not_decoded_is_refused_by_name(data: bytes, what: str) -> None:
    with pytest.raises(InvalidImageError, match=what) as error:
        decode(EncodedImage(data), LIMITS)
    assert error.value.reason is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    "data",
    [
        other_bmp(1, 1, 3, bytes(4)),
        other_bmp(1, 1, 24, bytes(4), header=66),
        other_bmp(1, 1, 24, bytes(4), header=39),
        other_bmp(-1, 1, 24, bytes(4)),
    ],
)
def test_a_bmp_of_no_kind_that_there_is_is_damaged(data: bytes) -> None:
    assert refused(data) is Reason.CORRUPT_IMAGE
