"""The pre-stem: the recipe as a value, its host half against Pillow, its graph half against NumPy."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from models.prestem import graph, host
from models.prestem.recipe import Geometry, Recipe

BILINEAR = Image.Resampling.BILINEAR


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image, np.uint8)


# --- recipe


def test_the_digest_of_a_recipe_never_changes() -> None:
    recipe = Recipe(height=32, width=32, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))
    assert recipe.digest == "sha256:56020b5ec79da749156d26ddbba33a01f38d8d4221422a1e9e86f2c1da4223fb"


def test_recipes_have_equal_digests_exactly_when_they_are_equal() -> None:
    recipe = Recipe(height=32, width=32)
    assert Recipe(height=32, width=32, mean=(0, 0, 0), std=(1, 1, 1), crop_share=1).digest == recipe.digest
    changes: list[dict[str, Any]] = [
        {"height": 33},
        {"width": 33},
        {"geometry": "squash"},
        {"crop_share": 0.9},
        {"filter": "lanczos"},
        {"fill": (1, 0, 0)},
        {"smaller": "resize"},
        {"channels": "BGR"},
        {"mean": (1.0, 0.0, 0.0)},
        {"std": (2.0, 1.0, 1.0)},
    ]
    assert {*changes[0]}.union(*changes) == {field.name for field in dataclasses.fields(Recipe)}
    digests = {dataclasses.replace(recipe, **change).digest for change in changes}
    assert len(digests | {recipe.digest}) == len(changes) + 1


def test_a_recipe_comes_back_from_its_dictionary() -> None:
    recipe = Recipe(
        height=48,
        width=32,
        geometry="letterbox",
        fill=(1, 2, 3),
        smaller="resize",
        channels="BGR",
        mean=(1.5, 2, 3),
        std=(4, 5, 6),
    )
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_recipe_without_the_fields_that_came_later_means_what_it_always_meant() -> None:
    recipe = Recipe(height=32, width=32, fill=(1, 2, 3))
    values = recipe.to_dict()
    del values["smaller"], values["channels"]
    assert Recipe.from_dict(values) == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 0}, "must be positive. Received: 0x32"),
        ({"geometry": "stretch"}, "one of crop, squash, letterbox. Received: 'stretch'"),
        ({"filter": "box"}, "one of nearest, bilinear, bicubic, lanczos. Received: 'box'"),
        ({"smaller": "tile"}, "one of pad, resize. Received: 'tile'"),
        ({"channels": "GBR"}, "one of RGB, BGR. Received: 'GBR'"),
        ({"crop_share": 0.0}, r"in \(0, 1\]. Received: 0.0"),
        ({"crop_share": 1.1}, r"in \(0, 1\]. Received: 1.1"),
        ({"fill": (0, 0, 256)}, r"0..255. Received: \(0, 0, 256\)"),
        ({"std": (1, 0, 1)}, "std positive"),
        ({"mean": (1, 2)}, "three numbers"),
        ({"mean": (1, 2, float("nan"))}, "three numbers"),
        ({"colour": "BGR"}, "Not a pre-stem recipe: .*colour"),
        ({"height": None}, "Not a pre-stem recipe"),
    ],
)
def test_a_recipe_refuses_values_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict({"height": 32, "width": 32, **values})


# --- host half: to_rgb


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = noise(6, 4)
    # How a camera that was held in each of the eight ways stores the same scene.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](pixels(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(file, "PNG", exif=exif)
    with Image.open(file) as image:
        np.testing.assert_array_equal(pixels(host.to_rgb(image)), pixels(upright))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (1, 1), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("RGBA", (1, 1), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("LA", (1, 1), (0, 0)), (255, 255, 255)),
        (Image.new("L", (1, 1), 77), (77, 77, 77)),
        (Image.new("1", (1, 1), 1), (255, 255, 255)),
        (Image.new("CMYK", (1, 1), (255, 0, 0, 0)), (0, 255, 255)),
        (Image.fromarray(np.full((1, 1), 0x80FF, np.uint16)), (128, 128, 128)),
    ],
    ids=["transparent", "opaque", "transparent grey", "grey", "1 bit", "CMYK", "16 bit"],
)
def test_every_kind_of_pixel_becomes_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    assert host.to_rgb(image).getpixel((0, 0)) == expected


# --- host half: fit


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = noise(32, 32)
    np.testing.assert_array_equal(host.fit(image, Recipe(height=32, width=32)), pixels(image))


@pytest.mark.parametrize("geometry", ["crop", "squash", "letterbox"])
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
    np.testing.assert_array_equal(host.fit(image, recipe), pixels(expected))


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
        smaller=st.just("resize"),
    ),
)
def test_what_is_too_large_to_be_enlarged_whole_shows_the_same(width: int, height: int, recipe: Recipe) -> None:
    ramp = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    image = Image.fromarray(ramp).convert("RGB")
    with pytest.MonkeyPatch.context() as patch:
        whole = host.fit(image, recipe)
        patch.setattr(host, "_LARGE", 0)
        cut = host.fit(image, recipe)
    # Halves may be rounded up in one and down in the other, across and down.
    np.testing.assert_allclose(cut.astype(int), whole.astype(int), atol=2)


def test_squash_resizes_both_sides() -> None:
    image = noise(100, 60)
    expected = image.resize((32, 24), BILINEAR)
    np.testing.assert_array_equal(host.fit(image, Recipe(height=24, width=32, geometry="squash")), pixels(expected))


def test_crop_resizes_the_short_side_and_keeps_the_centre() -> None:
    image = noise(96, 64)
    expected = image.resize((48, 32), BILINEAR).crop((8, 0, 40, 32))
    np.testing.assert_array_equal(host.fit(image, Recipe(height=32, width=32)), pixels(expected))


def test_crop_share_leaves_a_margin_on_the_short_side_too() -> None:
    image = noise(96, 64)
    expected = image.resize((60, 40), BILINEAR).crop((14, 4, 46, 36))
    np.testing.assert_array_equal(host.fit(image, Recipe(height=32, width=32, crop_share=0.8)), pixels(expected))


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


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    recipe=st.builds(
        Recipe,
        height=st.integers(1, 40),
        width=st.integers(1, 40),
        geometry=st.sampled_from(["crop", "squash", "letterbox"]),
        crop_share=st.floats(0.1, 1),
        filter=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
        smaller=st.sampled_from(["pad", "resize"]),
    ),
)
def test_any_image_becomes_uint8_of_the_recipe_s_size(width: int, height: int, recipe: Recipe) -> None:
    out = host.fit(Image.new("RGB", (width, height), (200, 200, 200)), recipe)
    assert out.shape == (recipe.height, recipe.width, 3)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    # The grey of the image and the black of the padding, nothing in between: the picture is not smeared.
    assert set(np.unique(out)) <= {0, 199, 200, 201}


# --- graph half


def test_the_graph_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    recipe = Recipe(height=4, width=5, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))
    x = keras.Input((4, 5, 3), dtype="uint8")
    model = keras.Model(x, graph.scale(x, recipe))
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    expected = (image.astype(np.float32) - np.array(recipe.mean, np.float32)) / np.array(recipe.std, np.float32)
    np.testing.assert_allclose(np.asarray(model(image)), expected, rtol=1e-5, atol=1e-5)


def test_a_network_that_wants_bgr_gets_it_with_the_mean_in_that_order() -> None:
    recipe = Recipe(height=2, width=2, channels="BGR", mean=(103.939, 116.779, 123.68), std=(1, 2, 4))
    x = keras.Input((2, 2, 3), dtype="uint8")
    model = keras.Model(x, graph.scale(x, recipe))
    image = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3), np.uint8)
    expected = (image[..., ::-1] - np.array(recipe.mean, np.float32)) / np.array(recipe.std, np.float32)
    np.testing.assert_allclose(np.asarray(model(image)), expected, rtol=1e-5, atol=1e-5)


def test_a_graph_that_turns_channels_round_reloads_in_safe_mode(tmp_path: Path) -> None:
    x = keras.Input((2, 2, 3), dtype="uint8")
    model = keras.Model(x, graph.scale(x, Recipe(height=2, width=2, channels="BGR")))
    model.save(tmp_path / "scale.keras")
    again = keras.saving.load_model(tmp_path / "scale.keras", safe_mode=True)
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(np.asarray(again(image)), np.asarray(model(image)))
