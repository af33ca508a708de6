"""From bytes to pixels: every refusal has its reason, and nothing but a refusal comes out."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glimpse.models.decoding.limits import ImageLimits
from glimpse.server.decoding.decode import FORMATS, decode
from glimpse.server.domain import EncodedImage, RawImage
from glimpse.server.errors import InvalidImageError, Reason
from tests.server import files
from tests.server.files import PNG, chunk

LIMITS = ImageLimits(max_bytes=200_000, max_pixels=1_000_000)
GRADIENT = Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8))


def encoded(form: str, image: Image.Image = GRADIENT) -> bytes:
    return files.encoded(form, image)


def refusal(data: bytes, limits: ImageLimits = LIMITS) -> InvalidImageError:
    with pytest.raises(InvalidImageError) as refused:
        decode(EncodedImage(data), limits)
    return refused.value


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises pixels it does not hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize("form", FORMATS)
def test_every_allowed_format_becomes_rgb_of_its_own_size(form: str) -> None:
    picture = decode(EncodedImage(encoded(form)), LIMITS).image
    assert (picture.mode, picture.size) == ("RGB", (60, 40))


@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_a_lossless_format_gives_the_very_pixels(form: str) -> None:
    assert np.array_equal(np.asarray(decode(EncodedImage(encoded(form)), LIMITS).image), np.asarray(GRADIENT))


def test_raw_pixels_are_taken_as_they_are() -> None:
    pixels = np.asarray(GRADIENT)
    picture = decode(RawImage(40, 60, pixels.tobytes()), LIMITS).image
    assert np.array_equal(np.asarray(picture), pixels)


@pytest.mark.parametrize(
    ("height", "width", "length"), [(2, 2, 11), (2, 2, 13), (0, 2, 0), (2, 0, 0), (0, 0, 0), (1, 1, 0)]
)
def test_raw_pixels_of_the_wrong_length_are_refused(height: int, width: int, length: int) -> None:
    with pytest.raises(InvalidImageError) as refused:
        decode(RawImage(height, width, bytes(length)), LIMITS)
    assert refused.value.reason is Reason.RAW_PIXELS_MISMATCH


def test_too_many_raw_pixels_are_refused_by_their_sides_alone() -> None:
    with pytest.raises(InvalidImageError) as refused:
        decode(RawImage(4_000_000_000, 4_000_000_000, b""), LIMITS)
    assert refused.value.reason is Reason.IMAGE_PIXELS_EXCEEDED


def test_no_bytes_are_refused() -> None:
    assert refusal(b"").reason is Reason.EMPTY_IMAGE


@pytest.mark.parametrize("data", [b"hello", b"\x00" * 100, b"GIF", b"GIF88a" + bytes(50), "süß".encode()])
def test_what_is_no_image_is_refused_as_such(data: bytes) -> None:
    assert refusal(data).reason is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"PK\x03\x04" + bytes(30), "ZIP"),
        (b"\x1f\x8b\x08" + bytes(30), "gzip"),
        (b"\x00\x00\x00\x20ftypisom" + bytes(30), "video"),
        (base64.b64encode(files.encoded("JPEG", GRADIENT)), "JPEG in Base64"),
        (base64.b64encode(files.encoded("PNG", GRADIENT)), "PNG in Base64"),
        (b"data:image/png;base64,iVBORw0KGgo", "data URL"),
        (b"https://example.org/cat.jpg", "address"),
        (b"\n<!DOCTYPE html><html><svg/></html>", "web page"),
    ],
)
def test_what_people_send_by_mistake_is_named(data: bytes, name: str) -> None:
    error = refusal(data)
    assert error.reason is Reason.NOT_AN_IMAGE
    assert name in error.message


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encoded("TIFF"), "TIFF"),
        (b"II+\x00\x08\x00" + bytes(30), "BigTIFF"),
        (encoded("ICO"), "ICO"),
        (encoded("PDF"), "PDF"),
        (encoded("EPS"), "EPS"),
        (encoded("PPM"), "PNM"),
        (encoded("DDS"), "DDS"),
        (b"8BPS" + bytes(30), "PSD"),
        (b"qoif" + bytes(30), "QOI"),
        (b"\x76\x2f\x31\x01" + bytes(30), "OpenEXR"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf  <?xml version='1.0'?>\n<!DOCTYPE svg PUBLIC><svg/>", "SVG"),
        (b"<!-- drawn by hand --><svg:svg/>", "SVG"),
        (b"<?xml version='1.0'?><feed/>", "XML"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(30), "HEIC"),
        (b"\x00\x00\x00\x18ftypmsf1" + bytes(30), "HEIF"),
        (b"\x00\x00\x00\x18ftypavif" + bytes(30), "AVIF"),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avif" + bytes(30), "AVIF"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(30), "JPEG 2000"),
        (b"\xff\x4f\xff\x51" + bytes(30), "JPEG 2000"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(30), "JPEG XL"),
        (b"\xff\x0a" + bytes(30), "JPEG XL"),
    ],
)
def test_a_format_that_is_refused_on_purpose_is_named(data: bytes, name: str) -> None:
    error = refusal(data)
    assert error.reason is Reason.UNSUPPORTED_FORMAT
    assert error.message.startswith(name)


def test_too_many_bytes_are_refused_before_they_are_looked_at() -> None:
    assert refusal(b"x" * 200_001).reason is Reason.IMAGE_BYTES_EXCEEDED


@pytest.mark.parametrize("size", [(1001, 1000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_by_the_header_alone(size: tuple[int, int]) -> None:
    assert refusal(png_header(*size)).reason is Reason.IMAGE_PIXELS_EXCEEDED


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_in_half_is_refused_not_half_decoded(form: str) -> None:
    data = encoded(form)
    for share in (0.2, 0.5, 0.8):
        assert refusal(data[: int(len(data) * share)]).reason is Reason.TRUNCATED_IMAGE


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_in_its_header_is_truncated(form: str) -> None:
    data = encoded(form)
    assert refusal(data[:18]).reason is Reason.TRUNCATED_IMAGE


@pytest.mark.parametrize("depth", [0, 3, 255])
def test_a_png_of_no_depth_that_there_is_is_damaged(depth: int) -> None:
    data = bytearray(files.png(2, 1, 1, 0, bytes((0b10000000,)), chunk(b"tRNS", b"\0\1")))
    data[24] = depth
    assert refusal(bytes(data)).reason in {Reason.CORRUPT_IMAGE, Reason.TRUNCATED_IMAGE}


def test_a_png_cut_before_the_end_of_its_pixels_is_refused() -> None:
    whole = files.png(2, 1, 1, 0, bytes((0b10000000,)), chunk(b"tRNS", b"\0\1"))
    for length in range(len(files.PNG) + 1, whole.index(b"IDAT") + 4):
        assert refusal(whole[:length]).reason is Reason.TRUNCATED_IMAGE


def test_a_header_that_our_own_reader_fails_on_costs_that_file_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: bytes) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("glimpse.models.decoding.formats.read", fails)
    assert refusal(encoded("PNG")).reason is Reason.CORRUPT_IMAGE


def test_unreadable_metadata_is_no_reason_to_refuse_a_good_picture() -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        buffer = io.BytesIO()
        GRADIENT.save(buffer, form, exif=b"Exif\x00\x00no TIFF header")
        assert decode(EncodedImage(buffer.getvalue()), LIMITS).image.size == GRADIENT.size


def test_odd_metadata_does_not_keep_a_turned_photo_from_being_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(exif.tobytes())
    # A second tag, ExposureTime, as text with an offset beyond the end: readable by no one, written by some.
    count = struct.unpack_from(">H", data, 14)[0]
    struct.pack_into(">H", data, 14, count + 1)
    data[16 + 12 * count : 16 + 12 * count] = struct.pack(">HHLL", 0x829A, 2, 9, 0xFFFF)
    buffer = io.BytesIO()
    GRADIENT.save(buffer, "JPEG", exif=bytes(data))
    assert decode(EncodedImage(buffer.getvalue()), LIMITS).image.size == (40, 60)


@pytest.mark.parametrize("data", [b"RIFF\x24\x00\x00\x00WAVEfmt ", b"RIFF"])
def test_a_sound_is_no_image(data: bytes) -> None:
    assert refusal(data).reason is Reason.NOT_AN_IMAGE


@settings(max_examples=300, deadline=None)
@given(
    form=st.sampled_from(FORMATS),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=4),
    cut=st.floats(0, 1),
)
def test_a_mutated_file_is_decoded_or_refused_and_nothing_else(
    form: str, edits: list[tuple[float, bytes]], cut: float
) -> None:
    data = bytearray(encoded(form))
    for where, what in edits:
        at = int(where * len(data))
        data[at : at + len(what)] = what
    try:
        picture = decode(EncodedImage(bytes(data[: int(cut * len(data)) + 1])), LIMITS).image
    except InvalidImageError:
        return
    assert picture.mode == "RGB"
    assert picture.width * picture.height <= LIMITS.max_pixels
