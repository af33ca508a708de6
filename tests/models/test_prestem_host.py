"""The pre-stem's host half: what any picture becomes, by Pillow's own calls and by properties that hold for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from glimpse.models.prestem import host
from glimpse.models.prestem.picture import Picture
from glimpse.models.prestem.recipe import Filter, Geometry, Recipe, Smaller

BILINEAR = Image.Resampling.BILINEAR


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image, np.uint8)


def cut_after(image: Image.Image, recipe: Recipe) -> NDArray[np.int64]:
    """What a picture becomes where all of it is resized, across and then down, and its centre is cut out then."""
    width, height = host.resized(image.size, recipe)
    by = Image.Resampling[recipe.filter.upper()]
    whole = image.resize((width, image.height), by).resize((width, height), by)
    left, top = -host.offset(width, recipe.width), -host.offset(height, recipe.height)
    return np.asarray(whole.crop((left, top, left + recipe.width, top + recipe.height))).astype(int)


# --- each geometry


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = noise(32, 32)
    np.testing.assert_array_equal(host.fit(image, Recipe(height=32, width=32)), pixels(image))


@pytest.mark.parametrize("geometry", get_args(Geometry))
def test_a_smaller_image_is_centred_on_the_fill_and_never_enlarged(geometry: Geometry) -> None:
    image = noise(10, 6)
    out = host.fit(image, Recipe(height=16, width=16, geometry=geometry, fill=(9, 8, 7)))
    np.testing.assert_array_equal(out[5:11, 3:13], pixels(image))
    border = np.ones((16, 16), bool)
    border[5:11, 3:13] = False
    assert (out[border] == (9, 8, 7)).all()


@pytest.mark.parametrize(("geometry", "size"), [("crop", (41, 25)), ("squash", (24, 20)), ("letterbox", (24, 14))])
def test_a_smaller_image_is_enlarged_where_the_recipe_says_so(geometry: Geometry, size: tuple[int, int]) -> None:
    image = noise(10, 6)
    recipe = Recipe(height=20, width=24, geometry=geometry, crop_share=0.8, fill=(9, 8, 7), smaller="resize")
    left, top = (24 - size[0]) // 2, (20 - size[1]) // 2
    if geometry == "crop":
        left, top = -8, -2  # half of 17 and half of 5, rounded to even
    expected = Image.new("RGB", (24, 20), (9, 8, 7))
    expected.paste(image.resize(size, BILINEAR), (left, top))
    np.testing.assert_allclose(host.fit(image, recipe).astype(int), pixels(expected), atol=geometry == "crop")


def test_enlarging_a_long_line_takes_no_more_memory_than_its_centre() -> None:
    line = Image.new("RGB", (1, 1_000_000), (10, 20, 30))
    line.paste((200, 100, 50), (0, 500_000, 1, 1_000_000))
    recipe = Recipe(height=224, width=224, crop_share=0.875, smaller="resize", filter="nearest")
    out = host.fit(line, recipe)  # whole, it would be 256 x 256,000,000 pixels
    # 224 rows of 256,000,000 are less than one pixel of the line, on either side of its middle.
    assert (out[:112] == (10, 20, 30)).all()
    assert (out[112:] == (200, 100, 50)).all()


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(20, 60),
    height=st.integers(20, 60),
    recipe=st.builds(
        Recipe,
        height=st.integers(1, 40),
        width=st.integers(1, 40),
        crop_share=st.floats(0.3, 1),
        filter=st.sampled_from(("bilinear", "bicubic", "lanczos")),
        smaller=st.just("resize"),
    ),
)
def test_the_centre_alone_is_resized_as_it_is_within_the_whole(width: int, height: int, recipe: Recipe) -> None:
    image = noise(width, height)
    # Halves may be rounded up in one and down in the other, across and down.
    np.testing.assert_allclose(host.fit(image, recipe).astype(int), cut_after(image, recipe), atol=2)


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (451, 300), (300, 900), (900, 200), (640, 640), (90, 120)])
def test_a_photo_is_resized_as_if_it_were_resized_whole(size: tuple[int, int], name: Filter) -> None:
    photo = Image.fromarray(data.chelsea()).resize(size)
    recipe = Recipe(height=224, width=224, crop_share=0.875, filter=name, smaller="resize")
    differences = np.abs(host.fit(photo, recipe) - cut_after(photo, recipe))
    assert differences.max() <= 1
    assert np.mean(differences > 0) < 0.005


def test_nearest_takes_the_very_pixels_of_the_whole() -> None:
    image = noise(97, 61)
    recipe = Recipe(height=32, width=32, crop_share=0.8, filter="nearest")
    np.testing.assert_array_equal(host.fit(image, recipe), cut_after(image, recipe))


def test_squash_resizes_both_sides() -> None:
    image = noise(100, 60)
    expected = image.resize((32, 24), BILINEAR)
    np.testing.assert_array_equal(host.fit(image, Recipe(height=24, width=32, geometry="squash")), pixels(expected))


def test_a_photo_is_reduced_by_any_factor_in_one_step() -> None:
    """Only of a side longer than any photo's are boxes of pixels averaged first."""
    image = noise(800, 640)
    expected = image.resize((32, 32), BILINEAR)
    np.testing.assert_array_equal(host.fit(image, Recipe(height=32, width=32, geometry="squash")), pixels(expected))


def test_a_single_pixel_is_an_input_too() -> None:
    assert host.resized((10, 10), Recipe(height=1, width=1)) == (1, 1)
    assert host.resized((10, 25), Recipe(height=1, width=1)) == (1, 2)
    assert host.resized((25, 10), Recipe(height=1, width=1)) == (2, 1)


def test_crop_resizes_the_short_side_and_keeps_the_centre() -> None:
    image = noise(96, 64)
    expected = image.resize((48, 32), BILINEAR).crop((8, 0, 40, 32))
    np.testing.assert_array_equal(host.fit(image, Recipe(height=32, width=32)), pixels(expected))


def test_crop_share_leaves_a_margin_on_the_short_side_too() -> None:
    image = noise(96, 64)
    expected = image.resize((60, 40), BILINEAR).crop((14, 4, 46, 36))
    actual = host.fit(image, Recipe(height=32, width=32, crop_share=0.8))
    np.testing.assert_allclose(actual.astype(int), pixels(expected), atol=1)


def test_letterbox_keeps_everything_between_bars() -> None:
    image = noise(64, 32)
    out = host.fit(image, Recipe(height=32, width=32, geometry="letterbox", fill=(1, 2, 3)))
    np.testing.assert_array_equal(out[8:24], pixels(image.resize((32, 16), BILINEAR)))
    assert (out[:8] == (1, 2, 3)).all()
    assert (out[24:] == (1, 2, 3)).all()


def test_reducing_averages_over_all_pixels_instead_of_picking_some() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    out = host.fit(Image.fromarray(stripes), Recipe(height=8, width=8))
    # Picking pixels would give 0 or 255. At the left and right edge the filter's support is cut off.
    assert out.min() >= 120
    assert out.max() <= 135


@pytest.mark.parametrize(
    ("size", "kept"), [((64, 32), (32, 16)), ((33, 8), (32, 8)), ((8, 65), (4, 32)), ((8, 6), (8, 6))]
)
def test_pad_reduces_what_exceeds_the_input_and_enlarges_nothing(size: tuple[int, int], kept: tuple[int, int]) -> None:
    image = noise(*size)
    out = host.fit(image, Recipe(height=32, width=32, geometry="pad", fill=(1, 2, 3)))
    left, top = (32 - kept[0]) // 2, (32 - kept[1]) // 2
    inside = np.zeros((32, 32), bool)
    inside[top : top + kept[1], left : left + kept[0]] = True
    expected = image if kept == size else image.resize(kept, BILINEAR)
    np.testing.assert_array_equal(out[inside].reshape(*kept[::-1], 3), pixels(expected))
    assert (out[~inside] == (1, 2, 3)).all()


# --- without antialiasing


def without(**fields: Any) -> Recipe:
    return Recipe(antialias=False, **fields)


def test_without_antialiasing_what_lies_between_is_not_seen() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 255
    # Each of 16 pixels is as wide as four; its middle is between the second and the third of them.
    assert (host.fit(Image.fromarray(stripes), without(height=16, width=16)) == 0).all()
    assert host.fit(Image.fromarray(stripes), Recipe(height=16, width=16)).min() > 40


@pytest.mark.parametrize("name", get_args(Filter))
@pytest.mark.parametrize("geometry", ["crop", "squash", "letterbox"])
def test_antialiasing_says_nothing_of_enlarging(name: Filter, geometry: Geometry) -> None:
    image = noise(13, 9)
    fields: dict[str, Any] = {"height": 40, "width": 41, "geometry": geometry, "filter": name, "smaller": "resize"}
    np.testing.assert_array_equal(host.fit(image, without(**fields)), host.fit(image, Recipe(**fields)))


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("geometry", ["crop", "squash"])
def test_a_picture_that_was_reduced_by_a_decoder_is_taken_by_its_box(geometry: Geometry, name: Filter) -> None:
    across, down = np.meshgrid(np.arange(100), np.arange(80))
    ramp = Image.fromarray(np.stack([across, down, across + down], axis=-1).astype(np.uint8))
    recipe = without(height=16, width=16, geometry=geometry, filter=name)
    # Begins 1.5 pixels from the left and ends 2.25 from the bottom; the whole picture was four times as large.
    out = host.fit(Picture(ramp, (394, 311), (1.5, 0, 100, 77.75)), recipe).astype(float)
    width, height = (20, 16) if geometry == "crop" else (16, 16)
    skip = (width - 16) // 2
    x = 1.5 + (np.arange(skip, skip + 16) + 0.5) * 98.5 / width - 0.5
    y = (np.arange(16) + 0.5) * 77.75 / height - 0.5
    # A ramp between its pixels is itself, but for Lanczos, whose weights are not quite those of a line.
    tolerance = 0.51 if name != "lanczos" else 1
    np.testing.assert_allclose(out[..., 0], np.broadcast_to(x, (16, 16)), atol=tolerance)
    np.testing.assert_allclose(out[..., 1], np.broadcast_to(y[:, None], (16, 16)), atol=tolerance)


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
def test_a_large_picture_is_read_in_bands_and_comes_out_the_same(name: Filter, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(301, 203)
    recipe = without(height=60, width=50, filter=name)
    whole = host.fit(image, recipe)
    monkeypatch.setattr("glimpse.models.prestem.resampling._BAND", 2000)
    np.testing.assert_array_equal(host.fit(image, recipe), whole)


def test_only_a_recipe_that_averages_takes_a_picture_that_is_averaged_already() -> None:
    size: dict[str, Any] = {"height": 32, "width": 32}
    assert all(host.may_reduce(Recipe(**size, filter=name)) for name in ("bilinear", "bicubic", "lanczos"))
    assert not host.may_reduce(Recipe(**size, filter="nearest"))
    assert not any(host.may_reduce(without(**size, filter=name)) for name in get_args(Filter))


# --- what it costs


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("geometry", get_args(Geometry))
def test_an_image_of_the_right_size_is_copied_once_and_nothing_else(
    geometry: Geometry, monkeypatch: pytest.MonkeyPatch, *, antialias: bool
) -> None:
    expected = pixels(noise(40, 30))
    # As raw pixels come in.
    image = Image.frombuffer("RGB", (40, 30), expected.tobytes(), "raw", "RGB", 0, 1)
    copies = []
    tobytes = Image.Image.tobytes

    def counted(self: Image.Image, *arguments: Any) -> bytes:
        copies.append(self.size)
        return tobytes(self, *arguments)

    def refuse(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"not needed: {arguments}")

    monkeypatch.setattr(Image.Image, "tobytes", counted)
    for work in ("resize", "crop", "paste", "copy", "convert", "transform"):
        monkeypatch.setattr(Image.Image, work, refuse)
    monkeypatch.setattr(Image, "new", refuse)
    out = host.fit(image, Recipe(height=30, width=40, geometry=geometry, antialias=antialias))
    np.testing.assert_array_equal(out, expected)
    assert copies == [(40, 30)]


def peak_growth() -> Any:
    """A function that tells how many bytes the process has taken at most since now."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("the peak of a process's memory is Linux's to tell")

    def field(name: str) -> int:
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) << 10

    reset.write_text("5")  # the peak begins anew
    begun = field("VmRSS:")
    return lambda: field("VmHWM:") - begun


@pytest.mark.parametrize(
    "recipe", [{"antialias": True}, {"antialias": False}, {"geometry": "squash", "antialias": True}]
)
@pytest.mark.parametrize("size", [(4_000_000, 1), (1, 4_000_000), (1_000_000, 4)])
def test_a_long_line_takes_little_more_memory_than_it_has(size: tuple[int, int], recipe: dict[str, Any]) -> None:
    image = Image.new("RGB", size, (200, 200, 200))
    memory = image.width * image.height * 4
    grown = peak_growth()
    out = host.fit(image, Recipe(height=224, width=224, filter="lanczos", smaller="resize", **recipe))
    # With a weight for each of its pixels and each that they become, it would be twelve times its memory.
    assert grown() < 3 * memory
    assert set(np.unique(out)) <= {199, 200, 201}


# --- any picture

SIDES = st.one_of(st.just(1), st.integers(1, 90))
LONG, THIN = st.integers(1000, 70_000), st.integers(1, 3)
LINES = st.one_of(st.tuples(LONG, THIN), st.tuples(THIN, LONG))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    geometry = draw(st.sampled_from(get_args(Geometry)))
    return Recipe(
        height=draw(st.integers(1, 40)),
        width=draw(st.integers(1, 40)),
        geometry=geometry,
        crop_share=draw(st.floats(0.1, 1)),
        filter=draw(st.sampled_from(get_args(Filter))),
        antialias=draw(st.booleans()),
        smaller="pad" if geometry == "pad" else draw(st.sampled_from(get_args(Smaller))),
    )


@settings(max_examples=200, deadline=None)
@given(size=st.one_of(st.tuples(SIDES, SIDES), LINES), recipe=recipes())
def test_any_image_becomes_uint8_of_the_recipe_s_size(size: tuple[int, int], recipe: Recipe) -> None:
    out = host.fit(Image.new("RGB", size, (200, 200, 200)), recipe)
    assert out.shape == (recipe.height, recipe.width, 3)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    # The grey of the image and the black of the padding, nothing in between: the picture is not smeared.
    assert set(np.unique(out)) <= {0, 199, 200, 201}
    width, height = host.resized(size, recipe)
    assert np.count_nonzero(out[..., 0]) == min(width, recipe.width) * min(height, recipe.height)


@given(size=st.one_of(st.tuples(SIDES, SIDES), LINES), recipe=recipes())
def test_a_recipe_that_pads_enlarges_no_side(size: tuple[int, int], recipe: Recipe) -> None:
    width, height = host.resized(size, recipe)
    assert min(width, height) >= 1
    if recipe.smaller == "pad":
        assert width <= size[0]
        assert height <= size[1]
    if recipe.geometry in {"letterbox", "pad"}:
        assert width <= recipe.width
        assert height <= recipe.height
