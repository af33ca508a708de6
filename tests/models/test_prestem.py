"""The pre-stem: the recipe as a value, in Python and in files, and its graph half against NumPy."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse.models import beside
from glimpse.models.bundle import BundleError
from glimpse.models.prestem import graph
from glimpse.models.prestem.recipe import Channels, Filter, Geometry, Padding, Recipe, Smaller

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
        {"antialias": False},
        {"padding": "zero"},
        {"fill": (1, 0, 0)},
        {"smaller": "resize"},
        {"channels": "BGR"},
        {"mean": (1.0, 0.0, 0.0)},
        {"std": (2.0, 1.0, 1.0)},
    ]
    assert {*changes[0]}.union(*changes) == {field.name for field in dataclasses.fields(Recipe)}
    digests = {dataclasses.replace(recipe, **change).digest for change in changes}
    assert len(digests | {recipe.digest}) == len(changes) + 1


NUMBERS = st.floats(-1e6, 1e6)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    geometry = draw(st.sampled_from(get_args(Geometry)))
    channels = draw(st.sampled_from(get_args(Channels)))
    depth = 1 if channels == "GRAY" else 3
    padding = draw(st.sampled_from(get_args(Padding)))
    return Recipe(
        height=draw(st.integers(1, 9999)),
        width=draw(st.integers(1, 9999)),
        geometry=geometry,
        crop_share=draw(st.floats(0.01, 1)),
        filter=draw(st.sampled_from(get_args(Filter))),
        antialias=draw(st.booleans()),
        fill=draw(st.tuples(*[st.integers(0, 255 if padding == "fill" else 0)] * depth)),
        padding=padding,
        smaller="pad" if geometry == "pad" else draw(st.sampled_from(get_args(Smaller))),
        channels=channels,
        mean=draw(st.tuples(*[NUMBERS] * depth)),
        std=draw(st.tuples(*[st.floats(0.001, 1e6)] * depth)),
    )


@given(recipe=recipes())
def test_a_recipe_comes_back_from_json(recipe: Recipe) -> None:
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert again.digest == recipe.digest


EVERY_FIELD = """
height = 48
width = 32
geometry = "letterbox"
crop_share = 1
filter = "bicubic"
antialias = false
fill = [1, 2, 3]
padding = "fill"
smaller = "resize"
channels = "BGR"
mean = [1.5, 2, 3]
std = [4, 5, 6.5]
"""


def test_every_field_can_be_written_as_toml() -> None:
    values = tomllib.loads(EVERY_FIELD)
    assert values.keys() == {field.name for field in dataclasses.fields(Recipe)}
    assert Recipe.from_dict(values) == Recipe(
        height=48,
        width=32,
        geometry="letterbox",
        filter="bicubic",
        antialias=False,
        fill=(1, 2, 3),
        smaller="resize",
        channels="BGR",
        mean=(1.5, 2, 3),
        std=(4, 5, 6.5),
    )


def test_a_recipe_without_the_fields_that_came_later_means_what_it_always_meant() -> None:
    recipe = Recipe(height=32, width=32, fill=(1, 2, 3))
    values = recipe.to_dict()
    del values["smaller"], values["channels"], values["antialias"], values["padding"]
    assert Recipe.from_dict(values) == recipe


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("height = 0", "height must be a whole number of pixels from 1 to 10,000. Received: 0"),
        ("height = 32.0", "height must be a whole number of pixels from 1 to 10,000. Received: 32.0"),
        ("width = '32'", "width must be a whole number of pixels from 1 to 10,000. Received: '32'"),
        ("width = true", "width must be a whole number of pixels from 1 to 10,000. Received: True"),
        ("geometry = 'stretch'", "geometry must be one of crop, squash, letterbox, pad. Received: 'stretch'"),
        ("geometry = ['crop']", r"geometry must be one of .* Received: \['crop'\]"),
        ("geometry = 'pad'\nsmaller = 'resize'", "geometry pad never enlarges an image, so smaller must be pad"),
        ("padding = 'none'", "padding must be one of fill, zero. Received: 'none'"),
        ("padding = 'zero'\nfill = [0, 0, 1]", "With padding zero, fill has no effect and must be left out"),
        ("filter = 'box'", "filter must be one of nearest, bilinear, bicubic, lanczos. Received: 'box'"),
        ("smaller = 'tile'", "smaller must be one of pad, resize. Received: 'tile'"),
        ("channels = 'GBR'", "channels must be one of RGB, BGR, GRAY. Received: 'GBR'"),
        ("antialias = 'no'", "antialias must be true or false. Received: 'no'"),
        ("antialias = 0", "antialias must be true or false. Received: 0"),
        ("crop_share = 0.0", r"crop_share must be a number from 0.001 to 1. Received: 0.0"),
        ("crop_share = 1.1", r"crop_share must be a number from 0.001 to 1. Received: 1.1"),
        ("crop_share = nan", r"crop_share must be a number from 0.001 to 1. Received: nan"),
        ("crop_share = '7/8'", r"crop_share must be a number from 0.001 to 1. Received: '7/8'"),
        ("fill = [0, 0, 256]", r"fill must be three whole numbers from 0 to 255. Received: \[0, 0, 256\]"),
        ("fill = [0, 0, 0.5]", "fill must be three whole numbers"),
        ("fill = 0", "fill must be three numbers. Received: 0"),
        ("fill = 'red'", "fill must be three numbers. Received: 'red'"),
        ("std = [1, 0, 1]", "std must be three positive numbers"),
        ("std = [1, 1]", "std must be three numbers"),
        ("mean = [1, 2]", "mean must be three numbers"),
        ("mean = [1, 2, nan]", "mean must be three numbers"),
        ("mean = [1, 2, '3']", "mean must be three numbers"),
        ("mean = {red = 1, green = 2, blue = 3}", "mean must be three numbers"),
        ("colour = 'BGR'", "The recipe has no field 'colour'. Its fields are height, width, geometry, "),
    ],
)
def test_a_recipe_file_that_cannot_be_used_is_told_by_its_field(line: str, message: str, tmp_path: Path) -> None:
    given_values = tomllib.loads(line)
    rest = "".join(f"{side} = 32\n" for side in ("height", "width") if side not in given_values)
    path = tmp_path / "recipe.toml"
    path.write_text(rest + line)
    with pytest.raises(BundleError, match=message) as refused:
        beside.read_recipe(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "missing"), [("", "height and width"), ("height = 3", "width"), ("width = 3", "height")]
)
def test_a_recipe_has_at_least_the_input_s_size(text: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"The recipe must give {missing}, the size"):
        Recipe.from_dict(tomllib.loads(text))


@given(recipe=recipes(), name=st.sampled_from(get_args(Geometry)))
def test_another_geometry_changes_nothing_else(recipe: Recipe, name: Geometry) -> None:
    other = recipe.with_geometry(name)
    assert other.geometry == name
    assert other.smaller == ("pad" if name == "pad" else recipe.smaller)
    assert dataclasses.replace(other, geometry=recipe.geometry, smaller=recipe.smaller) == recipe
    assert (other.digest == recipe.digest) == (name == recipe.geometry)


def test_a_geometry_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"one of crop, squash, letterbox, pad\. Received: 'stretch'"):
        Recipe(height=32, width=32).with_geometry("stretch")


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
