"""JPEG files that cost more than they show, or are of a kind that is refused."""

from __future__ import annotations

import struct
from random import Random

import numpy as np
import pytest
from PIL import Image

from glimpse.models.decoding import jpeg
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.decoding.refusals import Kind, RefusedImageError
from glimpse.server.decoding.decode import decode
from glimpse.server.domain import EncodedImage
from glimpse.server.errors import InvalidImageError, Reason
from tests.server.files import encoded as saved

PICTURE = Image.fromarray(np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8))
END = b"\xff\xd9"


def encoded(**options: object) -> bytes:
    return saved("JPEG", PICTURE, **options)


def refusal(data: bytes) -> RefusedImageError:
    with pytest.raises(RefusedImageError) as refused:
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
    assert error.kind is Kind.CORRUPT_IMAGE
    assert "scans" in error.message


@pytest.mark.parametrize("code", [0x02, 0xBF, 0x01, 0xF0, 0xC8, 0xD8])
def test_a_marker_that_the_decoder_may_pass_over_hides_no_scans(code: int) -> None:
    """Where it looks for a restart and finds no marker that there is, libjpeg reads on behind the two bytes.

    Behind its frame no picture has such a marker.
    """
    data = encoded(progressive=True, restart_marker_blocks=1)
    last = data.rindex(b"\xff\xda")
    scans = data[last : -len(END)] * 40
    hidden = bytes((0xFF, code)) + min(len(scans), 65_000).to_bytes(2) + scans
    error = refusal(data[:last] + hidden + data[last:])
    assert error.kind is Kind.CORRUPT_IMAGE
    assert f"a marker {code:02X} behind its frame" in error.message


def test_segments_without_end_are_refused() -> None:
    data = encoded()
    assert "segments" in refusal(data[:2] + b"\xff\xfe\x00\x02" * 5000 + data[2:]).message
    progressive = encoded(progressive=True)
    last = progressive.rindex(b"\xff\xda")
    assert "segments" in refusal(progressive[:last] + b"\xff\xfe\x00\x02" * 5000 + progressive[last:]).message


@pytest.mark.parametrize("junk", [b"\xff" * 2000, b"\x00" * 2000, b"\xff\x00" * 1000, b"\xff" * 12_000_000])
def test_what_stands_between_segments_never_reaches_the_decoder_however_long(junk: bytes) -> None:
    data = encoded()
    tables = data.index(b"\xff\xdb")
    assert jpeg.read(data[:tables] + junk + data[tables:]).data == data


def test_padding_without_end_is_refused_within_the_pixels() -> None:
    assert "padding" in refusal(encoded()[: -len(END)] + b"\xff" * 2000 + END).message
    # What looks like the end of the picture is a comment's.
    comment = b"\xff\xfe\x00\x04" + END
    assert "padding" in refusal(encoded(progressive=True)[: -len(END)] + comment + b"\xff" * 2000 + END).message


@pytest.mark.parametrize(
    "tail", [b"", b"\xff", b"\xff\xc0", b"\xff\xc0\x00", b"\xff\xc0\xff\xff", b"\xff" * 1000 + b"\x00"]
)
def test_a_file_that_ends_in_its_header_is_truncated(tail: bytes) -> None:
    assert refusal(b"\xff\xd8" + tail).kind is Kind.TRUNCATED_IMAGE


@pytest.mark.parametrize(
    ("code", "name"), [(0xC3, "Lossless"), (0xC9, "arithmetic"), (0xC6, "Hierarchical"), (0xF7, "JPEG-LS")]
)
def test_a_kind_that_next_to_nothing_reads_is_refused_by_name(code: int, name: str) -> None:
    error = refusal(encoded().replace(b"\xff\xc0", bytes((0xFF, code)), 1))
    assert error.kind is Kind.UNSUPPORTED_FORMAT
    assert name in error.message


def test_more_than_eight_bits_are_refused_by_name() -> None:
    data = bytearray(encoded())
    data[data.index(b"\xff\xc0") + 4] = 12
    error = refusal(bytes(data))
    assert error.kind is Kind.UNSUPPORTED_FORMAT
    assert "12 bits" in error.message


def test_a_second_frame_is_no_way_around_the_limit() -> None:
    data = encoded()
    at = data.index(b"\xff\xc0")
    frame = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4])]
    huge = frame[:5] + struct.pack(">HH", 60_000, 60_000) + frame[9:]
    for twice in (huge + frame, frame + huge):
        assert refusal(data[:at] + twice + data[at + len(frame) :]).kind is Kind.CORRUPT_IMAGE
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
    assert refusal(data[:at] + rest).kind is Kind.CORRUPT_IMAGE


SHORT_JFIF = b"\xff\xe0\x00\x07JFIF\x00"
SHORT_ADOBE = b"\xff\xee\x00\x0cAdobe\x00\x64\x00\x00\x00"
COMMENT = b"\xff\xfe\x00\x06abcd"


def without_jfif(data: bytes) -> bytes:
    return data[:2] + data[4 + int.from_bytes(data[4:6]) :]


@pytest.mark.parametrize(
    "inserted",
    [
        COMMENT + b"\x00\x00",
        COMMENT + b"\x00",
        b"\x00",
        b"\xff\xe1\x00\x0eExif\x00\x00II*\x00\x08\x00" + b"\x00\x00\x00",
        COMMENT + b"\xff\xff\xff",
        b"\xff\x00" * 9,
        SHORT_JFIF,
        SHORT_ADOBE,
        b"\xff\xd0\xff\xd7",
        b"\xff\xdc\x00\x04\x00\x40",
        COMMENT + b"any bytes" * 1000,
    ],
    ids=[
        "zeros behind a comment",
        "one zero behind a comment",
        "a zero in front",
        "zeros behind EXIF data",
        "fill bytes",
        "escaped fill bytes",
        "a JFIF of five bytes",
        "an Adobe of ten bytes",
        "markers without a length",
        "a number of lines in the header",
        "junk of any length",
    ],
)
def test_stray_bytes_between_segments_change_no_pixel(inserted: bytes) -> None:
    limits = ImageLimits(max_bytes=10**6, max_pixels=10**6)
    for data in (encoded(), without_jfif(encoded()), encoded(progressive=True)):
        expected = np.asarray(decode(EncodedImage(data), limits).image)
        for at in (2, data.index(b"\xff\xdb"), data.index(b"\xff\xc4")):
            shown = np.asarray(decode(EncodedImage(data[:at] + inserted + data[at:]), limits).image)
            np.testing.assert_array_equal(shown, expected)


def test_what_only_begins_like_a_jpeg_is_no_image() -> None:
    for data in (b"\xff\xd8", b"\xff\xd8 and then some text", b"\xff\xd8" + bytes(100) + encoded()[2:]):
        with pytest.raises(InvalidImageError) as refused:
            decode(EncodedImage(data), ImageLimits(max_bytes=10**6, max_pixels=10**6))
        assert refused.value.reason is Reason.NOT_AN_IMAGE


class Broken:
    """JPEG files with something put in between segments or within scans."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._whole = [
            encoded(),
            encoded(progressive=True),
            encoded(restart_marker_blocks=2),
            encoded(progressive=True, restart_marker_blocks=3),
            encoded(comment=b"x" * 9, exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
        ]

    def file(self) -> bytes:
        rng = self._rng
        data = rng.choice(self._whole)
        for _ in range(rng.choice((1, 1, 2))):
            heads, scan = self._segments(data)
            at = rng.choice(heads) if heads and rng.random() < 0.7 else rng.randrange(scan, len(data))
            data = data[:at] + self._piece() + data[at:]
        return data

    @staticmethod
    def _segments(data: bytes) -> tuple[list[int], int]:
        """Where segments of the header begin, and where the first scan does."""
        found, at = [], 2
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
            found.append(at)
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
        return found, min(at, len(data) - 1)

    def _piece(self) -> bytes:
        rng = self._rng
        frame = b"\xff\xc0\x00\x11\x08\x00\x09\x00\x09\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
        body = rng.choice((b"", b"abc", frame, b"\xff\xda\x00\x0c", END, b"\xff"))
        code = rng.choice((0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xDC, 0xF0, 0xC8, 0x02, 0x7F, 0xCC, 0xDD, rng.randrange(256)))
        length = len(body) + 2 + rng.choice((0, 0, 0, -1, 1, -2))
        return rng.choice(
            (
                rng.randbytes(rng.randrange(1, 9)),
                b"\xff" * rng.randrange(1, 9),
                b"\xff\x00" * rng.randrange(1, 4),
                bytes((0xFF, rng.randrange(256))),
                bytes((0xFF, code)) + length.to_bytes(2) + body,
                SHORT_JFIF,
                SHORT_ADOBE,
                b"\x00\x00",
            )
        )


@pytest.mark.parametrize("seed", range(8))
def test_our_reading_of_a_file_and_that_of_libjpeg_agree(seed: int) -> None:
    """`Image.frombytes` gives the file to libjpeg as it is, without Pillow's own look at its header."""
    limits = ImageLimits(max_bytes=10**6, max_pixels=10**6)
    broken, agreed = Broken(seed), 0
    for _ in range(150):
        data = broken.file()
        try:
            ours = np.asarray(decode(EncodedImage(data), limits).image)
        except InvalidImageError as error:
            # What is refused by name is refused on purpose, and so is a marker that no encoder writes there.
            on_purpose = "accepted" in error.message or "marker" in error.message
            if not on_purpose and jpeg.is_jpeg(data):
                with pytest.raises(ValueError, match="image data"):
                    Image.frombytes("RGB", (64, 64), data, "jpeg", "RGB", "")
            continue
        height, width = ours.shape[:2]
        theirs = Image.frombytes("RGB", (width, height), data, "jpeg", "RGB", "")
        np.testing.assert_array_equal(ours, np.asarray(theirs), data.hex())
        agreed += 1
    assert agreed > 50
