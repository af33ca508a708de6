"""How often a JPEG's coefficients are gone through: our count, made from its markers, beside that of libjpeg itself."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimpse.models.decoding import jpeg
from glimpse.models.decoding.header import Header
from glimpse.models.decoding.refusals import Kind, RefusedImageError
from tests.server.hostile import libjpeg, scan_bombs
from tests.server.hostile.bytewise import BYTEWISE
from tests.server.hostile.jpeg_lies import jpeg_lie
from tests.server.hostile.libjpeg import Reader
from tests.server.hostile.seeds import seeds
from tests.variations import mostly_in_ci

needs_libjpeg = pytest.mark.skipif(libjpeg.library() is None, reason="Pillow has no libjpeg of its own here")
JPEGS = [data for name, data in seeds().items() if name.startswith("JPEG")]
# Segments that may follow the frame, and restarts; all else is refused.
ALLOWED = {0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0), *range(0xD0, 0xD8)}
OTHERS = sorted(set(range(1, 0xFF)) - ALLOWED - {0xD9})
TAILS = (b"\xff\x02\x00\x04ab", b"\xff\xd8\xff\xe0", bytes(99), JPEGS[0], b"\xff" * 5000, b"\xff\xda" * 99)
SIZE = 96  # pixels of a side


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with libjpeg.reader() as reader:
        yield reader


def read(data: bytes) -> Header | None:
    try:
        return jpeg.read(data)
    except RefusedImageError:
        return None


def check(reader: Reader, data: bytes) -> bool:
    """Compare both readings of a file; whether it is read at all."""
    header = read(data)
    if header is None:
        return False
    # What is decoded, and what was sent.
    for file in (header.data, data):
        found = reader.read(file)
        if found is None:
            continue
        assert (found.width, found.height) == header.size, file.hex()
        assert found.scans <= header.scans <= jpeg.MAX_SCANS, file.hex()
        if found.whole:
            assert found.scans == header.scans, file.hex()
        if header.streamed:
            assert not found.progressive, file.hex()
            assert found.scans <= 1 or not found.whole, file.hex()  # it refuses a second one
    return True


@needs_libjpeg
def test_our_reading_of_files_as_encoders_write_them_is_libjpegs(reader: Reader) -> None:
    assert all(check(reader, data) for data in JPEGS)
    assert {data.scans for data in map(jpeg.read, JPEGS)} == {1, 6, 10, 18}


@st.composite
def insertions(draw: st.DrawFn) -> bytes:
    """A piece of a JPEG that may hide others from one reader or another."""
    code = draw(st.integers(0, 255))
    body: bytes = draw(
        st.one_of(
            st.binary(max_size=12),
            st.integers(0, 20).map(lambda number: scan_bombs.refinement(SIZE, SIZE, number)),
            st.integers(1, 3).map(lambda number: scan_bombs.refinement(SIZE, SIZE, number) * 40),
            st.just(scan_bombs.END),
            st.just(scan_bombs.head(SIZE, SIZE)[2:]),
            st.integers(0, 9).map(lambda number: scan_bombs.segment(0xDD, number.to_bytes(2))),
            st.integers(0, 255).map(lambda number: bytes((0xFF, number))),
        )
    )
    length = len(body) + 2 + draw(st.sampled_from((0, 0, 0, 0, -1, 1, 2, -2, -len(body), 60_000)))
    fill = b"\xff" * draw(st.sampled_from((1, 1, 1, 2, 5)))
    if draw(st.booleans()):
        return fill + bytes((code,)) + body
    return fill + bytes((code,)) + max(0, min(length, 65_535)).to_bytes(2) + body


@st.composite
def assembled(draw: st.DrawFn) -> bytes:
    """A JPEG of several scans, or of one, with pieces between and within them."""
    whole = draw(
        st.sampled_from(
            (
                *JPEGS,
                *(scan_bombs.hidden(SIZE, SIZE, 3, b"\xff\xe5", restart=restart) for restart in (0, 1, 3)),
                scan_bombs.refined(SIZE, SIZE, 12),
                scan_bombs.head(SIZE, SIZE, restart=2) + scan_bombs.refinement(SIZE, SIZE, 1) * 9 + scan_bombs.END,
                scan_bombs.head(SIZE, SIZE, frame=0xC0) + scan_bombs.refinement(SIZE, SIZE, 1) * 9 + scan_bombs.END,
            )
        )
    )
    for piece in draw(st.lists(insertions(), min_size=1, max_size=4)):
        marks = [at for at in range(2, len(whole)) if whole[at] == 0xFF]
        near = draw(st.sampled_from(marks)) if marks else len(whole)
        at = min(len(whole), near + draw(st.sampled_from((0, 0, 0, 1, 2, 4, 12, 17))))
        whole = whole[:at] + piece + whole[at:]
    return whole


@needs_libjpeg
@pytest.mark.parametrize("examples", mostly_in_ci([150, 500], 150))
def test_no_arrangement_of_segments_has_scans_that_we_do_not_count(reader: Reader, examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(assembled())
    def arranged(data: bytes) -> None:
        check(reader, data)

    arranged()


@needs_libjpeg
@pytest.mark.parametrize("count", [*mostly_in_ci([150, 600], 150), pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_broken_file_has_scans_that_we_do_not_count(reader: Reader, count: int) -> None:
    rng, known = Random(count), 0
    for _ in range(count):
        data = rng.choice(JPEGS)
        if rng.random() < 0.6:
            data = jpeg_lie(rng, data)
        for _ in range(rng.choice((0, 1, 1, 2))):
            data = rng.choice(BYTEWISE)(rng, data)
        known += jpeg.is_jpeg(data) and check(reader, data)
    assert known > count // 4


@pytest.mark.parametrize("code", OTHERS)
def test_a_marker_that_no_picture_has_behind_its_frame_is_refused(code: int) -> None:
    marker = bytes((0xFF, code))
    for restart in (0, 1):
        head, scan = scan_bombs.head(SIZE, SIZE, restart=restart), scan_bombs.refinement(SIZE, SIZE, 1)
        length = (len(scan) + 2).to_bytes(2)
        arranged = {
            "between header segments": (marker + length + scan, scan),
            "behind a scan": (scan + marker + length, scan),
            "within a scan": (scan[:-1] + marker, scan[-1:] + scan),
            "behind fill bytes": (scan + b"\xff\xff\xff" + marker + length, scan),
            "behind a segment": (scan + b"\xff\xe1\x00\x02" + marker, scan),
            "at the very end": (scan + scan + marker, b""),
        }
        for where, (before, after) in arranged.items():
            good = before.replace(marker, b"") + after
            assert jpeg.read(head + good + scan_bombs.END).size == (SIZE, SIZE), where
            with pytest.raises(RefusedImageError) as refused:
                jpeg.read(head + before + after + scan_bombs.END)
            assert refused.value.kind in {Kind.CORRUPT_IMAGE, Kind.UNSUPPORTED_FORMAT}, where


def test_what_follows_the_end_of_a_picture_may_be_anything() -> None:
    """Cameras append previews and further pictures, and programs their own data."""
    for data in (*JPEGS, scan_bombs.refined(SIZE, SIZE, 12)):
        expected = jpeg.read(data)
        for tail in TAILS:
            assert jpeg.read(data + tail).scans == expected.scans


@needs_libjpeg
def test_scans_hidden_where_libjpeg_looks_for_a_restart_are_there(reader: Reader) -> None:
    """Why such markers are refused: libjpeg goes through all of these, and a reader of segments sees one or two."""
    found = reader.read(scan_bombs.hidden(SIZE, SIZE, 100, b"\xff\x02"))
    assert found is not None
    assert found.scans == 100
    skipped = reader.read(scan_bombs.hidden(SIZE, SIZE, 100, b"\xff\xe2"))
    assert skipped is not None
    assert skipped.scans == 1


@needs_libjpeg
def test_a_picture_of_one_scan_that_does_not_hold_all_is_not_streamed(reader: Reader) -> None:
    head = scan_bombs.head(SIZE, SIZE, frame=0xC0)
    one = scan_bombs.segment(0xDA, b"\x01\x01\x00\x00\x3f\x00") + b"\xff\x00"
    lying = scan_bombs.segment(0xDA, b"\x03\x01\x00\x00\x3f\x00") + b"\xff\x00"
    twice = head.replace(b"\x02\x11\x00", b"\x01\x11\x00", 1)
    for data in (head + one, head + lying, twice + one, head + one + one):
        header = jpeg.read(data + scan_bombs.END)
        found = reader.read(data + scan_bombs.END)
        assert found is None or (found.scans <= header.scans)
        # One that claims to hold all and does not is refused by libjpeg before it makes anything.
        assert not header.streamed or found is None or not found.whole
