"""JPEG files that cost more than they show, or are of a kind that is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from server.decoding import jpeg
from server.decoding.decode import decode
from server.decoding.limits import ImageLimits
from server.domain import EncodedImage
from server.errors import InvalidImageError, Reason
from tests.server.files import encoded as saved

PICTURE = Image.fromarray(np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8))
END = b"\xff\xd9"


def encoded(**options: object) -> bytes:
    return saved("JPEG", PICTURE, **options)


def refusal(data: bytes) -> InvalidImageError:
    with pytest.raises(InvalidImageError) as refused:
        jpeg.read(data)
    return refused.value


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"restart_marker_blocks": 1}, {"optimize": True}],
)
def test_what_encoders_write_is_read(options: dict[str, object]) -> None:
    header = jpeg.read(encoded(**options))
    assert (header.form, header.size, header.orientation) == ("JPEG", (64, 64), 1)
    assert header.streamed == ("progressive" not in options)


def test_metadata_is_left_out_and_what_tells_the_colours_is_not() -> None:
    plain = encoded()
    data = encoded(icc_profile=bytes(3_000_000), comment=b"x" * 60_000, exif=b"Exif\x00\x00" + bytes(60_000))
    # The JFIF segment says nothing but the density.
    assert jpeg.read(data).data == plain
    cmyk = saved("JPEG", PICTURE.convert("CMYK"), comment=b"x")
    assert b"Adobe" in jpeg.read(cmyk).data


def test_a_segment_may_end_as_a_marker_begins() -> None:
    data = encoded()
    segment = b"\xff\xe2\x00\x05ab\xff"
    assert jpeg.read(data[:2] + segment + data[2:]).data == data


def test_what_follows_the_picture_is_not_looked_at() -> None:
    for options in ({}, {"progressive": True}):
        jpeg.read(encoded(**options) + b"\xff\xda\x00\x02" * 1000)
        jpeg.read(encoded(**options) + b"\xff" * 5000)


def test_a_picture_refined_without_end_is_refused() -> None:
    data = encoded(progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last : -len(END)]
    jpeg.read(data[:last] + scan * 10 + END)
    error = refusal(data[:last] + scan * 40 + END)
    assert error.reason is Reason.CORRUPT_IMAGE
    assert "scans" in error.message


def test_segments_without_end_are_refused() -> None:
    data = encoded()
    assert "segments" in refusal(data[:2] + b"\xff\xfe\x00\x02" * 5000 + data[2:]).message
    progressive = encoded(progressive=True)
    last = progressive.rindex(b"\xff\xda")
    assert "segments" in refusal(progressive[:last] + b"\xff\xfe\x00\x02" * 5000 + progressive[last:]).message


@pytest.mark.parametrize("junk", [b"\xff" * 2000, b"\x00" * 2000, b"\xff\x00" * 1000, b"\xff" * 12_000_000])
def test_padding_without_end_is_refused(junk: bytes) -> None:
    data = encoded()
    assert "padding" in refusal(data[:2] + junk + data[2:]).message
    assert "padding" in refusal(data[: -len(END)] + b"\xff" * 2000 + END).message


@pytest.mark.parametrize(
    "tail", [b"", b"\xff", b"\xff\xc0", b"\xff\xc0\x00", b"\xff\xc0\xff\xff", b"\xff" * 1000 + b"\x00"]
)
def test_a_file_that_ends_in_its_header_is_truncated(tail: bytes) -> None:
    assert refusal(b"\xff\xd8" + tail).reason is Reason.TRUNCATED_IMAGE


@pytest.mark.parametrize(
    ("code", "name"), [(0xC3, "Lossless"), (0xC9, "arithmetic"), (0xC6, "Hierarchical"), (0xF7, "JPEG-LS")]
)
def test_a_kind_that_next_to_nothing_reads_is_refused_by_name(code: int, name: str) -> None:
    error = refusal(encoded().replace(b"\xff\xc0", bytes((0xFF, code)), 1))
    assert error.reason is Reason.UNSUPPORTED_FORMAT
    assert name in error.message


def test_more_than_eight_bits_are_refused_by_name() -> None:
    data = bytearray(encoded())
    data[data.index(b"\xff\xc0") + 4] = 12
    error = refusal(bytes(data))
    assert error.reason is Reason.UNSUPPORTED_FORMAT
    assert "12 bits" in error.message


def test_a_second_frame_is_no_way_around_the_limit() -> None:
    data = encoded()
    at = data.index(b"\xff\xc0")
    frame = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4])]
    huge = frame[:5] + struct.pack(">HH", 60_000, 60_000) + frame[9:]
    for twice in (huge + frame, frame + huge):
        assert refusal(data[:at] + twice + data[at + len(frame) :]).reason is Reason.CORRUPT_IMAGE
    # Within a segment that has no meaning, and whose length Pillow does not believe.
    hidden = b"\xff\xf0" + struct.pack(">H", 2 + len(huge)) + huge
    with pytest.raises(InvalidImageError) as refused:
        decode(EncodedImage(data[:at] + hidden + data[at:]), ImageLimits(max_bytes=10**6, max_pixels=10**6))
    assert refused.value.reason is Reason.CORRUPT_IMAGE


@pytest.mark.parametrize("missing", [b"\xff\xc0", b"\xff\xda"])
def test_a_file_without_a_picture_is_refused(missing: bytes) -> None:
    data = encoded()
    at = data.index(missing)
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
    rest = data[end:] if missing == b"\xff\xc0" else END
    assert refusal(data[:at] + rest).reason is Reason.CORRUPT_IMAGE
