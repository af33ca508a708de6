"""What is read of a PNG before it is decoded, chunk by chunk."""

from __future__ import annotations

import struct

import pytest

from glimpse.models.decoding import png
from glimpse.models.decoding.refusals import Kind, RefusedImageError
from tests.server import files
from tests.server.files import chunk

END = chunk(b"IEND", b"")
IDAT = chunk(b"IDAT", b"pixels")


def head(depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of 3 x 2 pixels up to the end of its first chunk."""
    return files.PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, depth, colour, 0, 0, 0))


def refusal(data: bytes) -> RefusedImageError:
    with pytest.raises(RefusedImageError) as refused:
        png.read(data)
    return refused.value


def test_a_file_that_holds_only_what_is_needed_is_passed_on_as_it_is() -> None:
    data = head(depth=2, colour=3) + chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"\x00\x80") + IDAT + IDAT + END
    header = png.read(data)
    assert header.data is data
    assert (header.form, header.size, header.orientation, header.cut) == ("PNG", (3, 2), 1, False)


def test_what_is_not_needed_is_left_out_wherever_it_stands() -> None:
    text, time = chunk(b"tEXt", b"a\x00b"), chunk(b"tIME", bytes(7))
    header = png.read(head() + text + text + IDAT + time + IDAT + text + END + b"behind the end")
    assert (header.data, header.cut) == (head() + IDAT + IDAT + END, False)


def test_a_file_that_begins_with_another_chunk_is_refused_by_its_name() -> None:
    error = refusal(files.PNG + chunk(b"teXt", bytes(13)) + head()[8:] + IDAT + END)
    assert error.kind is Kind.UNSUPPORTED_FORMAT
    assert "begins with b'teXt'" in error.message


@pytest.mark.parametrize("middle", [IDAT, chunk(b"tRNS", b"\x00\x05") + IDAT], ids=["plain", "transparent"])
def test_a_file_that_ends_early_is_passed_on_to_where_it_ends_and_known_as_cut(middle: bytes) -> None:
    whole = head(depth=4, colour=0) + middle + END
    read = png.read(whole).data
    assert len(read) == len(whole)
    for length in range(33, len(whole) + 1):
        header = png.read(whole[:length])
        # A chunk counts where its length and kind are there.
        assert header.cut == (length < len(whole) - 4), length
        assert read.startswith(header.data) or whole[:length] == header.data
    for length in range(8, 33):
        assert refusal(whole[:length]).kind is Kind.TRUNCATED_IMAGE


def test_as_many_chunks_are_read_as_may_be_and_no_more() -> None:
    most = head() + IDAT + chunk(b"teXt", b"") * (16_384 - 4) + END
    assert not png.read(most).cut
    one_more = refusal(head() + IDAT + chunk(b"teXt", b"") * (16_384 - 2) + END)
    assert one_more.kind is Kind.CORRUPT_IMAGE
    assert "more than 16384 chunks" in one_more.message


@pytest.mark.parametrize("kind", [b"abCd", b"aBCD", b"zZZZ"])
def test_a_chunk_that_nobody_needs_is_left_out_whatever_it_is(kind: bytes) -> None:
    assert png.read(head() + chunk(kind, b"x") + IDAT + END).data == head() + IDAT + END


@pytest.mark.parametrize("kind", [b"ABCD", b"Abcd", b"ZzZz", b"Idat"])
def test_a_chunk_that_a_decoder_must_know_is_refused_by_name(kind: bytes) -> None:
    error = refusal(head() + chunk(kind, b"x") + IDAT + END)
    assert error.kind is Kind.UNSUPPORTED_FORMAT
    assert repr(kind) in error.message


@pytest.mark.parametrize("kind", [b"\x00bcd", b"A cd", b"A2cd"])
def test_a_chunk_whose_name_is_none_is_left_out(kind: bytes) -> None:
    assert png.read(head() + chunk(kind, b"x") + IDAT + END).data == head() + IDAT + END


def test_the_orientation_is_that_of_its_chunk_and_the_chunk_is_left_out() -> None:
    exif = b"II*\x00\x08\x00\x00\x00\x01\x00" + struct.pack("<HHII", 0x112, 3, 1, 6)
    header = png.read(head() + chunk(b"eXIf", exif) + IDAT + END)
    assert (header.orientation, header.data) == (6, head() + IDAT + END)


def test_two_headers_are_refused_wherever_the_second_stands() -> None:
    for data in (head() + head()[8:] + IDAT + END, head() + IDAT + head()[8:] + END):
        error = refusal(data)
        assert error.kind is Kind.CORRUPT_IMAGE
        assert "two headers" in error.message


def test_only_the_chunk_of_the_transparent_colour_is_taken_for_it() -> None:
    data = head(depth=4, colour=0) + chunk(b"IDAT", b"xy") + END
    assert png.read(data).data is data


@pytest.mark.parametrize(("colour", "length"), [(0, 1), (0, 6), (2, 2), (2, 5), (4, 2), (6, 6)])
def test_a_transparent_colour_of_another_length_is_left_out(colour: int, length: int) -> None:
    wrong = chunk(b"tRNS", bytes(range(1, 1 + length)))
    assert png.read(head(8, colour) + wrong + IDAT + END).data == head(8, colour) + IDAT + END


@pytest.mark.parametrize("length", [0, 3])
def test_transparency_of_more_colours_than_the_palette_or_of_none_is_left_out(length: int) -> None:
    start = head(8, 3) + chunk(b"PLTE", bytes(6))
    assert png.read(start + chunk(b"tRNS", bytes(length)) + IDAT + END).data == start + IDAT + END
