"""Every kind of file shows what a viewer shows: the very colours, the right way up."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from glimpse.models.decoding.limits import ImageLimits
from glimpse.server.decoding.decode import decode
from glimpse.server.domain import EncodedImage
from tests.server.files import bmp, chunk, encoded, gif, png, turned

LIMITS = ImageLimits(max_bytes=10**6, max_pixels=10**6)
WHITE, BLACK = [255, 255, 255], [0, 0, 0]
RED, GREEN, BLUE = [255, 0, 0], [0, 255, 0], [0, 0, 255]
PALETTE = bytes([*RED, *GREEN, *BLUE, 9, 9, 9])


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def scene(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth, and another colour in each corner."""
    corners = np.array([[[250, 20, 20], [20, 230, 20]], [[20, 20, 240], [240, 230, 30]]], np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR))


def shown(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode(EncodedImage(data), LIMITS).image)


def row(data: bytes) -> list[list[int]]:
    pixels: list[list[int]] = shown(data).reshape(-1, 3).tolist()
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_every_orientation_comes_out_upright_to_the_pixel(
    form: str, options: dict[str, object], orientation: int
) -> None:
    upright = noise(6, 9)
    np.testing.assert_array_equal(shown(turned(form, upright, orientation, **options)), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_a_jpeg_comes_out_upright(orientation: int) -> None:
    upright = scene(40, 56)
    data = turned("JPEG", upright, orientation, quality=98, subsampling=0)
    difference = np.abs(shown(data).astype(int) - upright)
    assert difference.max() <= 6


def cmyk() -> Image.Image:
    """Cyan, magenta, yellow, black and paper, eight pixels each."""
    inks = [(255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 0)]
    picture = Image.new("CMYK", (40, 8))
    for i, ink in enumerate(inks):
        picture.paste(ink, (8 * i, 0, 8 * i + 8, 8))
    return picture


INKS = [[0, 255, 255], [255, 0, 255], [255, 255, 0], BLACK, WHITE]


def adobe(data: bytes, transform: int) -> bytes:
    """A JPEG whose Adobe segment tells another colour transform: 0 none, 2 YCCK."""
    at = data.index(b"Adobe")
    return data[: at + 11] + bytes([transform]) + data[at + 12 :]


def test_cmyk_as_adobe_writes_it_shows_its_inks() -> None:
    data = encoded("JPEG", cmyk(), quality=95)
    assert b"Adobe" in data
    middles = shown(data)[4, 4::8].astype(int)
    assert np.abs(middles - INKS).max() <= 6


def test_cmyk_without_a_word_of_adobe_is_taken_as_inverted_as_browsers_do() -> None:
    data = encoded("JPEG", cmyk(), quality=95)
    at = data.index(b"\xff\xee")
    plain = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]
    assert b"Adobe" not in plain
    np.testing.assert_array_equal(shown(plain), shown(data))


def test_ycck_is_turned_into_inks_first() -> None:
    inks = np.asarray(cmyk())
    # Stored are luma and chroma of the first three, as if they were red, green and blue, and the inverted black. Pillow
    # inverts all that it writes.
    luma = np.asarray(Image.fromarray(inks[..., :3].copy()).convert("YCbCr"))
    stored = np.dstack([255 - luma, inks[..., 3]])
    data = adobe(encoded("JPEG", Image.fromarray(stored, "CMYK"), quality=100, subsampling=0), 2)
    middles = shown(data)[4, 4::8].astype(int)
    assert np.abs(middles - INKS).max() <= 6


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 2},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:2:0"},
        {"optimize": True},
        {"icc_profile": b"no profile at all" * 9000},
        {"comment": b"x" * 60_000},
    ],
)
def test_every_kind_of_jpeg_shows_the_same_scene(options: dict[str, object]) -> None:
    upright = scene(61, 83)
    assert (
        np.abs(shown(encoded("JPEG", Image.fromarray(upright), quality=95, **options)).astype(int) - upright).max() < 12
    )


@pytest.mark.parametrize("factors", [0x12, 0x41, 0x14, 0x22])
def test_a_jpeg_may_have_its_chroma_at_any_fraction(factors: int) -> None:
    """4:4:0, 4:1:1 and their like: the blocks of a grey picture are the same for each."""
    data = bytearray(encoded("JPEG", Image.new("RGB", (64, 64), (120, 120, 120)), subsampling="4:2:0"))
    data[data.index(b"\xff\xc0") + 11] = factors
    horizontal, vertical = factors >> 4, factors & 15
    # 64 x 64 in units of as many blocks as the luma's factors say and two of chroma; those of 4:2:0 have four of luma.
    # One DC code of the first block, then nothing changes: 28 A2 8A 00 are four blocks of luma and two of chroma.
    blocks = horizontal * vertical
    units = 8 // horizontal * (8 // vertical)
    scan = data.index(b"\xff\xda")
    start = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4])
    bits = ("001010" * blocks + "0000" * 2) * units
    bits += "1" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")
    assert (shown(bytes(data[:start]) + body + b"\xff\xd9") == 128).all()


def test_a_grey_jpeg_is_grey_in_all_channels() -> None:
    pixels = shown(encoded("JPEG", Image.fromarray(scene(16, 16)).convert("L"), quality=95))
    assert (pixels == pixels[..., :1]).all()


def test_of_several_pictures_in_a_jpeg_the_first_is_shown() -> None:
    buffer = io.BytesIO()
    first, second = (Image.new("RGB", (24, 16), colour) for colour in ("red", "blue"))
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert np.abs(shown(buffer.getvalue()).astype(int) - RED).max() <= 3


def test_an_icc_profile_changes_no_colour() -> None:
    picture = Image.fromarray(noise(8, 8))
    plain = shown(encoded("PNG", picture))
    np.testing.assert_array_equal(shown(encoded("PNG", picture, icc_profile=b"any" * 1000)), plain)


PNGS = {
    "1 bit": (png(2, 1, 1, 0, b"\x40"), [BLACK, WHITE]),
    "1 bit with black transparent": (png(2, 1, 1, 0, b"\x00", chunk(b"tRNS", b"\x00\x00")), [WHITE, WHITE]),
    "2 bits": (png(4, 1, 2, 0, b"\x1b"), [BLACK, [85] * 3, [170] * 3, WHITE]),
    "2 bits with a grey transparent": (
        png(4, 1, 2, 0, b"\x1b", chunk(b"tRNS", b"\x00\x01")),
        [BLACK, WHITE, [170] * 3, WHITE],
    ),
    "4 bits": (png(2, 1, 4, 0, b"\x05"), [BLACK, [85] * 3]),
    "4 bits with a grey transparent": (png(2, 1, 4, 0, b"\x56", chunk(b"tRNS", b"\x00\x05")), [WHITE, [102] * 3]),
    "grey with one transparent": (png(2, 1, 8, 0, b"\x05\x06", chunk(b"tRNS", b"\x00\x05")), [WHITE, [6] * 3]),
    "grey with alpha": (png(2, 1, 8, 4, b"\x00\x80\x07\xff"), [[127] * 3, [7] * 3]),
    "colour with one transparent": (
        png(2, 1, 8, 2, bytes([1, 2, 3, 4, 5, 6]), chunk(b"tRNS", b"\x00\x01\x00\x02\x00\x03")),
        [WHITE, [4, 5, 6]],
    ),
    "colour with alpha": (png(2, 1, 8, 6, bytes([200, 0, 0, 0, 0, 0, 0, 51])), [WHITE, [204] * 3]),
    "palette": (png(4, 1, 2, 3, b"\x1b", chunk(b"PLTE", PALETTE)), [RED, GREEN, BLUE, [9] * 3]),
    "palette with transparency": (
        png(4, 1, 2, 3, b"\x1b", chunk(b"PLTE", PALETTE), chunk(b"tRNS", b"\x00\x80")),
        [WHITE, [127, 255, 127], BLUE, [9] * 3],
    ),
    "16 bits of grey": (png(2, 1, 16, 0, b"\x01\x02\x80\xff"), [[1] * 3, [128] * 3]),
    "16 bits of grey with one transparent": (
        png(2, 1, 16, 0, b"\x01\x02\x01\x03", chunk(b"tRNS", b"\x01\x02")),
        [WHITE, [1] * 3],
    ),
    "16 bits of colour": (png(1, 1, 16, 2, b"\xab\xff\x10\x80\x05\x06"), [[0xAB, 0x10, 0x05]]),
    "16 bits of colour with one transparent": (
        png(
            2,
            1,
            16,
            2,
            b"\xab\xff\x10\x80\x05\x06\x00\x00\x00\x00\x00\x00",
            chunk(b"tRNS", b"\xab\xff\x10\x80\x05\x06"),
        ),
        [WHITE, BLACK],
    ),
    "16 bits of colour with alpha": (png(1, 1, 16, 6, b"\xab\xff\x10\x80\x05\x06\xff\xff"), [[0xAB, 0x10, 0x05]]),
    "16 bits of grey with alpha": (png(1, 1, 16, 4, b"\x00\x00\x80\x00"), [[127] * 3]),
}


@pytest.mark.parametrize(("data", "expected"), PNGS.values(), ids=PNGS)
def test_every_kind_of_png_shows_its_colours_on_white(data: bytes, expected: list[list[int]]) -> None:
    assert row(data) == expected


def test_an_interlaced_png_shows_the_same_pixels() -> None:
    # 2 x 2 pixels in the passes of Adam7: the first pixel is pass 1, its neighbour pass 6, the row below pass 7.
    pixels = bytes([10, 20, 30, 40])
    plain = png(2, 2, 8, 0, pixels)
    rows = b"\x00\x0a\x00\x14\x00\x1e\x28"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1))
    interlaced = plain[:8] + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert row(interlaced) == row(plain) == [[value] * 3 for value in pixels]


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_of_an_animation_the_first_frame_is_shown(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(form, frames[0], save_all=True, append_images=frames[1:], **options)
    assert (shown(data) == RED).all()


@pytest.mark.parametrize("alpha", [False, True])
def test_beside_the_first_frame_of_a_webp_there_is_white(*, alpha: bool) -> None:
    """Also where no frame is transparent, and the file says so."""
    picture = encoded("WEBP", Image.new("RGB", (2, 1), tuple(RED)), lossless=True)
    frame = bytes((1, 0, 0, 0, 0, 0)) + bytes((1, 0, 0, 0, 0, 0)) + bytes(4) + picture[12:]
    header = bytes((0x02 | 0x10 * alpha, 0, 0, 0)) + bytes((5, 0, 0, 0, 0, 0))
    chunks = ((b"VP8X", header), (b"ANIM", bytes(6)), (b"ANMF", frame))
    body = b"WEBP" + b"".join([kind + struct.pack("<L", len(content)) + content for kind, content in chunks])
    assert row(b"RIFF" + struct.pack("<L", len(body)) + body) == [WHITE, WHITE, RED, RED, WHITE, WHITE]


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 95}])
def test_a_transparent_webp_lies_on_white(options: dict[str, object]) -> None:
    picture = Image.new("RGBA", (16, 8), (0, 0, 255, 255))
    picture.paste((255, 0, 0, 0), (8, 0, 16, 8))
    pixels = shown(encoded("WEBP", picture, **options)).astype(int)
    assert np.abs(pixels[:, :7] - BLUE).max() <= 4
    assert np.abs(pixels[:, 9:] - WHITE).max() <= 4


GIFS = {
    "whole": (gif((2, 1), (0, 0, 2, 1), [1, 2], PALETTE), [GREEN, BLUE]),
    "a frame in the middle": (gif((3, 1), (1, 0, 1, 1), [1], PALETTE), [WHITE, GREEN, WHITE]),
    "a frame beyond the screen": (gif((1, 1), (1, 0, 2, 1), [1, 2], PALETTE), [WHITE, GREEN, BLUE]),
    "transparency": (gif((2, 1), (0, 0, 2, 1), [1, 2], PALETTE, control=(0, 1)), [WHITE, BLUE]),
    "disposal": (gif((3, 1), (1, 0, 2, 1), [1, 2], PALETTE, control=(2, 2)), [WHITE, GREEN, WHITE]),
    "an older disposal": (gif((3, 1), (1, 0, 2, 1), [1, 2], PALETTE, control=(3, 2)), [WHITE, GREEN, WHITE]),
    "a comment in front": (gif((1, 1), (0, 0, 1, 1), [2], PALETTE, extensions=b"\x21\xfe\x02hi\x00"), [BLUE]),
}


@pytest.mark.parametrize(("data", "expected"), GIFS.values(), ids=GIFS)
def test_the_first_frame_of_a_gif_lies_where_it_belongs(data: bytes, expected: list[list[int]]) -> None:
    assert row(data) == expected


COLOURS = b"\x01\x02\x03\x00\x04\x05\x06\x00"
FIRST, SECOND = [3, 2, 1], [6, 5, 4]
BMPS = {
    "1 bit": (bmp(4, 1, 1, b"\x60\x00\x00\x00", palette=COLOURS), [FIRST, SECOND, SECOND, FIRST]),
    "4 bits": (bmp(3, 1, 4, b"\x01\x00\x00\x00", palette=COLOURS), [FIRST, SECOND, FIRST]),
    "8 bits": (bmp(2, 1, 8, b"\x00\x01\x00\x00", palette=COLOURS), [FIRST, SECOND]),
    "16 bits": (bmp(2, 1, 16, struct.pack("<HH", 0x7C00, 0x1F)), [RED, BLUE]),
    "16 bits with masks": (
        bmp(2, 1, 16, struct.pack("<HH", 0xF800, 0x7E0), masks=(0xF800, 0x7E0, 0x1F)),
        [RED, GREEN],
    ),
    "24 bits from the bottom": (bmp(1, 2, 24, COLOURS), [SECOND, FIRST]),
    "24 bits from the top": (bmp(1, -2, 24, COLOURS), [FIRST, SECOND]),
    "32 bits": (bmp(1, 1, 32, b"\x01\x02\x03\x80"), [FIRST]),
    "32 bits with alpha": (
        bmp(2, 1, 32, b"\x01\x02\x03\xff\x01\x02\x03\x00", masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        [FIRST, WHITE],
    ),
    "32 bits with an alpha that nobody filled in": (
        bmp(2, 1, 32, COLOURS, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        [FIRST, SECOND],
    ),
}


@pytest.mark.parametrize(("data", "expected"), BMPS.values(), ids=BMPS)
def test_every_kind_of_bmp_shows_its_colours(data: bytes, expected: list[list[int]]) -> None:
    assert row(data) == expected


def test_the_decoders_are_those_that_were_tested() -> None:
    """Pillow built without one of them would refuse good files."""
    assert all(features.check(feature) for feature in ("jpg", "zlib", "webp"))
