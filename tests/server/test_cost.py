"""What decoding is predicted to cost: what the decoder then makes, and no less than it takes."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glimpse.models.decoding import formats, gif, png
from glimpse.models.decoding.cost import EXPENSIVE_WORK, MULTIPLE, Cost, pixels, predict
from glimpse.models.decoding.decode import decode
from glimpse.models.decoding.header import Header
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.decoding.refusals import Kind, RefusedImageError
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.decoding.prepare import cost
from glimpse.server.domain import EncodedImage, RawImage
from tests.server.hostile import bombs, libraries, scan_bombs
from tests.server.hostile.mutants import mutant
from tests.server.hostile.seeds import chunk, picture, saved, seeds
from tests.variations import mostly_in_ci

LIMITS = ImageLimits(max_bytes=12 << 20, max_pixels=25_000_000, max_jpeg_pixels=100_000_000, reducing_gap=2.0)
RECIPE = Recipe(height=224, width=224, geometry="crop")
TARGET = partial(host.resized, recipe=RECIPE)
LEAST = 10_000
needs_libraries = pytest.mark.skipif(
    libraries.bundled("libpng16") is None or libraries.bundled("libwebpdemux") is None,
    reason="Pillow has no libpng and libwebp of its own here",
)


def read(data: bytes) -> Header | None:
    """The header that the decoder goes by, of a file that it would go on with; None where it refuses the file."""
    try:
        header = formats.read(data)
    except RefusedImageError:
        return None
    except Exception:  # noqa: BLE001 - the decoder calls it damaged
        return None
    width, height = header.size
    within = 0 < width <= 65_535 and 0 < height <= 65_535 and width * height <= LIMITS.max_pixels
    return header if within else None


def uncertain(cost: Cost) -> bool:
    return cost.pixels == 0 and cost.expensive


@pytest.mark.parametrize("name", seeds())
def test_what_encoders_write_is_told_by_its_first_bytes(name: str) -> None:
    data = seeds()[name]
    header = read(data)
    found = predict(data, LIMITS, TARGET)
    if header is None:
        assert (found.work, found.expensive) == (LEAST, False)
    else:
        width, height = header.size
        assert (found.pixels, found.expensive) == (width * height, False)


@pytest.mark.parametrize("count", [*mostly_in_ci([1000, 3000], 1000), pytest.param(60_000, marks=pytest.mark.slow)])
def test_the_prediction_and_the_decoder_read_the_same_size(count: int) -> None:
    """Or the prediction says that it cannot tell, and counts the most there is."""
    rng, told = Random(count), 0
    for _ in range(count):
        broken = mutant(rng)
        header, found = read(broken.data), predict(broken.data, LIMITS)
        if header is None:
            continue
        width, height = header.size
        assert found.pixels == width * height or uncertain(found), broken
        told += found.pixels > 0
    assert told > count // 3


@settings(max_examples=500, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.tuples(
            st.sampled_from(
                (b"\xff\xd8\xff", png.MAGIC, *gif.MAGIC, b"BM", b"RIFF\x00\x00\x00\x00WEBP", b"\x28\0\0\0")
            ),
            st.binary(max_size=200),
        ).map(b"".join),
        st.tuples(st.sampled_from(list(seeds().values())), st.integers(0, 400)).map(lambda cut: cut[0][: cut[1]]),
    )
)
def test_any_bytes_have_a_cost(data: bytes) -> None:
    for target in (None, TARGET):
        found = predict(data, LIMITS, target)
        assert found.work >= LEAST
        assert found.memory >= len(data)
        assert found.pixels >= 0
    header = read(data)
    assert header is None or found.pixels == header.size[0] * header.size[1] or uncertain(found)


@needs_libraries
def test_libpng_and_libwebp_read_the_sizes_and_kinds_that_the_cost_goes_by() -> None:
    rng, known = Random(7), 0
    files = [(name.split()[0], data) for name, data in seeds().items()]
    files += [(broken.name.split()[0], broken.data) for broken in (mutant(rng) for _ in range(4000))]
    for form, data in files:
        if form not in {"PNG", "WEBP"} or (header := read(data)) is None or header.form != form:
            continue
        found = predict(data, LIMITS)
        if form == "PNG":
            for file in (data, header.data):
                assert libraries.png_size(file) in {None, header.size}
        elif (theirs := libraries.webp(data)) is not None and not uncertain(found):
            assert theirs.canvas == header.size
            # A lossless picture costs 24 bytes a pixel, a lossy one 22.
            each = (found.memory - len(data)) // found.pixels
            assert each == (24 if theirs.lossless else 22), data.hex()
            known += 1
    assert known > 100


WEBP = bombs.one_colour_webp(5000, 5000)
ALL = LIMITS.max_pixels


@pytest.mark.parametrize(
    ("data", "least"),
    [
        (WEBP, 25_000_000),
        (bombs.zeros(5000, 5000, 16, 6), 25_000_000),
        (scan_bombs.refined(5000, 5000, 32), 75_000_000),
        (bombs.apart(bombs.jpeg(5000, 5000, subsampling=0)), EXPENSIVE_WORK),
    ],
    ids=["a WebP of 36 bytes", "a PNG of 16 bits", "a JPEG of 32 scans", "a JPEG with a scan for each component"],
)
def test_a_small_file_of_many_pixels_costs_what_they_do_and_is_expensive(data: bytes, least: int) -> None:
    found = predict(data, LIMITS, TARGET)
    assert found.pixels == ALL
    assert found.work >= least
    assert found.expensive


def test_a_phone_s_photo_is_not_expensive_where_it_is_decoded_reduced() -> None:
    photo = bombs.jpeg(4000, 6000)
    photo = photo[:-2] + bytes(8_000_000) + photo[-2:]
    assert not predict(photo, LIMITS, TARGET).expensive
    assert predict(photo, LIMITS).expensive
    assert predict(photo, LIMITS, TARGET).work < predict(photo, LIMITS).work
    # One of 96 million pixels may be decoded at a reduced scale alone.
    large = bombs.jpeg(8000, 12_000)
    assert predict(large, LIMITS).work == LEAST
    assert LEAST < predict(large, LIMITS, TARGET).work < EXPENSIVE_WORK


def test_what_is_refused_costs_next_to_nothing() -> None:
    files = [make() for name, (make, why) in bombs.REFUSED_BOMBS.items() if why == bombs.PIXELS]
    for data in (*files, b"", b"no image", bytes(LIMITS.max_bytes + 1), b"II*\x00" + bytes(99)):
        found = predict(data, LIMITS, TARGET)
        assert (found.work, found.expensive) == (LEAST, False)


@pytest.mark.parametrize(
    "data",
    [
        bombs._in_jpeg(b"\xff\xfe\x00\x02" * 500),
        bombs._in_jpeg(b"\xff\xfe\x00\x02" + bytes(100_000)),
        bombs._in_gif(b"!\xf9\x04\0\0\0\0\0" * 500),
    ],
    ids=["segments", "bytes between segments", "extensions"],
)
def test_what_cannot_be_told_in_a_moment_counts_as_the_most_there_is(data: bytes) -> None:
    assert read(data) is not None
    found = predict(data, LIMITS, TARGET)
    assert uncertain(found)
    assert found.work > LIMITS.max_pixels
    assert found.memory > 20 * LIMITS.max_pixels


class Watched(bytes):
    """Bytes that know how far they were searched."""

    furthest = 0

    def count(self, *arguments: Any) -> int:
        self.furthest = max(self.furthest, arguments[-1])
        return super().count(*arguments)


def test_a_long_file_is_searched_no_further_than_a_short_one() -> None:
    for name, data in seeds().items():
        longer = Watched(data + bytes(5_000_000))
        assert predict(longer, LIMITS).pixels == predict(data, LIMITS).pixels, name
        assert longer.furthest < 100_000


def test_raw_pixels_cost_their_resizing() -> None:
    found = cost(RawImage(1000, 2000, b""), RECIPE, LIMITS)
    assert found == pixels(2000, 1000)
    assert found.pixels == 2_000_000
    assert 0 < found.work < found.pixels
    assert pixels(-5, 3).work == LEAST
    assert cost(EncodedImage(WEBP), RECIPE, LIMITS) == predict(WEBP, LIMITS, TARGET)


def seconds(data: bytes, target: Callable[[tuple[int, int]], tuple[int, int]] | None) -> float:
    """CPU time of a decode and a resize, the least of three."""
    took = []
    for _ in range(3):
        begun = time.thread_time()
        try:
            host.fit(decode(data, LIMITS, target), RECIPE)
        except RefusedImageError as error:
            assert error.kind is not Kind.IMAGE_PIXELS_EXCEEDED  # noqa: PT017 - a refusal costs as well
        took.append(time.thread_time() - begun)
    return min(took)


def flat(form: str, mode: str = "RGB", **options: object) -> bytes:
    return saved(picture(1000, 1000, mode), form, **options)


COSTLY: dict[str, Callable[[], bytes]] = {
    "JPEG, refined 32 times": lambda: scan_bombs.refined(1000, 1000, 32),
    "JPEG, refined 10 times behind 20 kB": lambda: (
        scan_bombs.head(1000, 1000)
        + scan_bombs.segment(0xFE, bytes(20_000))
        + b"".join(scan_bombs.refinement(1000, 1000, number) for number in range(32))
        + scan_bombs.END
    ),
    "JPEG, a scan for each component": lambda: bombs.apart(bombs.jpeg(1000, 1000, subsampling=0)),
    "JPEG, no coefficients": lambda: bombs.jpeg(1000, 1000),
    "JPEG": lambda: flat("JPEG", quality=100, subsampling=0),
    "JPEG, CMYK": lambda: flat("JPEG", "CMYK", quality=100),
    "JPEG, progressive": lambda: flat("JPEG", progressive=True, quality=95),
    "JPEG, progressive, CMYK": lambda: flat("JPEG", "CMYK", progressive=True),
    "PNG, 16 bits": lambda: bombs.zeros(1000, 1000, 16, 6),
    "PNG, a transparent colour": lambda: bombs.zeros(1000, 1000, 8, 2, chunk(b"tRNS", bytes(6))),
    "PNG, a bit": lambda: bombs.zeros(1000, 1000, 1, 0),
    "PNG": lambda: flat("PNG"),
    "PNG, transparent": lambda: flat("PNG", "RGBA"),
    "GIF": lambda: flat("GIF", "L"),
    "GIF, a point on a large screen": lambda: bombs._gif((1000, 1000), (1, 1)),
    "BMP": lambda: flat("BMP", "RGBA"),
    "WebP, one colour": lambda: bombs.one_colour_webp(1000, 1000),
    "WebP, lossy": lambda: flat("WEBP", quality=100, method=0),
    "WebP, transparent": lambda: flat("WEBP", "RGBA", method=0),
    "WebP, lossless": lambda: flat("WEBP", lossless=True, method=0),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", COSTLY)
def test_no_file_takes_more_than_a_multiple_of_what_was_predicted(name: str) -> None:
    """CPU time beside that of an ordinary photo, measured here and now; a machine that others use may take thrice."""
    ordinary = saved(picture(1000, 1000, noise=0.02), "JPEG", quality=85)
    unit = seconds(ordinary, None) / predict(ordinary, LIMITS).work
    for target in (None, TARGET):
        data = COSTLY[name]()
        assert seconds(data, target) < 3 * MULTIPLE * unit * predict(data, LIMITS, target).work + 0.05


def nothing(size: int) -> bytes:
    """Data of deflate (RFC 1951): so many bytes of blocks that hold nothing, each with codes of its own."""
    # Codes of one bit for 1 and 18, by which 257 lengths are told: 256 times 0, and a bit for the end of a block.
    bits = "0" + "01" + "00000" + "00000" + "0111" + "000" * 2 + "100" + "000" * 14 + "100"
    bits += "1" + "1111111" + "1" + "1101011" + "0" + "0" + "0"
    block = int((bits * 8)[::-1], 2).to_bytes(len(bits), "little")
    return block * (size // len(block))


def png_of_nothing(side: int, size: int) -> bytes:
    rows = bytes(side * (side + 1))
    packer = zlib.compressobj(wbits=-15)
    data = b"\x78\x9c" + nothing(size) + packer.compress(rows) + packer.flush() + struct.pack(">L", zlib.adler32(rows))
    return png.MAGIC + chunk(b"IHDR", struct.pack(">LLBBBBB", side, side, 8, 0, 0, 0, 0)) + chunk(b"IDAT", data)


def test_a_png_that_is_longer_than_its_rows_pays_for_what_that_may_be() -> None:
    """Blocks of nothing are read at a twentieth of the speed of pixels."""
    whole = png_of_nothing(8, 1 << 20) + chunk(b"IEND", b"")
    assert decode(whole, LIMITS).size == (8, 8)
    assert predict(png_of_nothing(8, 4 << 20), LIMITS).expensive
    assert predict(png_of_nothing(8, 1 << 20), LIMITS).work > 5 * (1 << 20)
    metadata = png_of_nothing(8, 0) + chunk(b"tEXt", bytes(50_000))
    assert predict(metadata, LIMITS).work < 100_000


def test_a_lossless_webp_that_may_have_thousands_of_tables_is_left_to_a_process() -> None:
    photo = picture(600, 600, noise=0.5)
    assert predict(saved(photo, "WEBP", lossless=True), LIMITS).expensive
    assert not predict(saved(photo, "WEBP"), LIMITS).expensive
    assert not predict(saved(picture(300, 300, noise=0.5), "WEBP", lossless=True), LIMITS).expensive
    assert not predict(saved(Image.new("RGB", (600, 600)), "WEBP", lossless=True), LIMITS).expensive
    photo.putalpha(picture(600, 600, "L", noise=0.5))
    assert predict(saved(photo, "WEBP"), LIMITS).expensive, "an alpha channel is packed as a lossless picture is"


def test_a_line_of_pixels_costs_its_blocks() -> None:
    line, block = predict(bombs.jpeg(65_500, 1), LIMITS), predict(bombs.jpeg(65_500, 8), LIMITS)
    assert line.pixels == 65_500
    assert line.work == pytest.approx(block.work, rel=0.01)


def test_gaps_between_segments_are_searched_no_further_together_than_one() -> None:
    comment = b"\xff\xfe\x00\x02"
    gap = b"\0" + b"\xff" * 4000 + b"\0" + comment
    few, many = bombs._in_jpeg(comment + gap), bombs._in_jpeg(comment + gap * 3)
    assert read(few) == read(many)
    assert predict(few, LIMITS).pixels > 0
    assert uncertain(predict(many, LIMITS))


def test_a_png_whose_pixels_come_in_thousands_of_pieces_is_refused() -> None:
    parts = [chunk(b"IDAT", b"")] * 3000
    data = png.MAGIC + chunk(b"IHDR", struct.pack(">LLBBBBB", 8, 8, 8, 0, 0, 0, 0)) + b"".join(parts)
    with pytest.raises(RefusedImageError, match="chunks of almost no bytes"):
        png.read(data)
    assert png.read(data[: 33 + 12 * 2000]).size == (8, 8)


def test_blanks_in_front_are_not_looked_through_by_the_megabyte() -> None:
    for blanks, what in ((900, "web page"), (2000, "they start with")):
        with pytest.raises(RefusedImageError) as caught:
            formats.read(b" " * blanks + b"<html>")
        assert what in caught.value.message
