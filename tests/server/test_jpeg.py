"""JPEG files that cost more than they show."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from server.decoding import jpeg
from server.decoding.decode import decode
from server.decoding.limits import ImageLimits
from server.domain import EncodedImage
from server.errors import InvalidImageError, Reason

PICTURE = Image.fromarray(np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8))
END = b"\xff\xd9"


def encoded(**options: object) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"restart_marker_blocks": 1}, {"optimize": True}],
)
def test_what_encoders_write_is_not_objected_to(options: dict[str, object]) -> None:
    assert jpeg.objection(encoded(**options)) is None


def test_large_metadata_is_not_objected_to() -> None:
    assert jpeg.objection(encoded(icc_profile=bytes(3_000_000), comment=b"x" * 60_000)) is None


def test_what_follows_the_picture_is_not_looked_at() -> None:
    assert jpeg.objection(encoded() + b"\xff\xda\x00\x02" * 1000) is None


def test_a_picture_refined_without_end_is_objected_to() -> None:
    data = encoded(progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:].removesuffix(END)
    objection = jpeg.objection(data[:last] + scan * 40 + END)
    assert objection is not None
    assert "scans" in objection


def test_segments_without_end_are_objected_to() -> None:
    data = encoded()
    objection = jpeg.objection(data[:2] + b"\xff\xfe\x00\x02" * 5000 + data[2:])
    assert objection is not None
    assert "segments" in objection


@pytest.mark.parametrize("junk", [b"\xff" * 2000, b"\x00" * 2000, b"\xff\x00" * 1000])
def test_padding_without_end_is_objected_to(junk: bytes) -> None:
    data = encoded()
    objection = jpeg.objection(data[:2] + junk + data[2:])
    assert objection is not None
    assert "padding" in objection


@pytest.mark.parametrize(
    "tail", [b"", b"\xff", b"\xff\xc0", b"\xff\xc0\x00", b"\xff\xc0\xff\xff", b"\xff" * 1000 + b"\x00"]
)
def test_a_file_that_ends_anywhere_is_left_to_the_decoder(tail: bytes) -> None:
    assert jpeg.objection(b"\xff\xd8" + tail) is None


def test_a_run_of_fill_bytes_is_passed_once() -> None:
    """Linear: were every byte of the run a new beginning, this would take hours."""
    assert jpeg.objection(b"\xff\xd8" + b"\xff" * 12_000_000 + b"\x00") is None


def test_the_decoder_refuses_what_is_objected_to() -> None:
    data = encoded()
    with pytest.raises(InvalidImageError) as refused:
        decode(
            EncodedImage(data[:2] + b"\xff\xfe\x00\x02" * 5000 + data[2:]),
            ImageLimits(max_bytes=10**6, max_pixels=10**6),
        )
    assert refused.value.reason is Reason.CORRUPT_IMAGE
    assert "segments" in refused.value.message
