"""Padding that is 0 in the network's input, whatever the scaling is: behind it, as layers of a network pad."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
from keras import layers
from numpy.typing import NDArray
from PIL import Image

from glimpse.models import bundle, golden, random_weights, serving, sources, variations
from glimpse.models.catalogue import find
from glimpse.models.prestem import graph, host
from glimpse.models.prestem.recipe import Channels, Geometry, Recipe
from glimpse.models.train import __main__ as train
from glimpse.models.train.data import Batches, LabelledImages, read, statistics
from tests.models.keras_makers import CLASSES, SIZE, saved

# ImageNet's, of which no pixel of whole numbers is the mean.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
ZERO = Recipe(height=16, width=20, geometry="pad", padding="zero", mean=MEAN, std=STD)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def seen(image: Image.Image, recipe: Recipe) -> NDArray[np.float32]:
    """What a network sees: float32 ``[H, W, C]``."""
    pixels = host.fit(image, recipe)
    assert (pixels.shape, pixels.flags["C_CONTIGUOUS"]) == (recipe.pixels_shape, True)
    scaled = graph.scale(keras.ops.convert_to_tensor(pixels[np.newaxis]), recipe)
    found: NDArray[np.float32] = keras.ops.convert_to_numpy(scaled)[0]
    return found


def grey(recipe: Recipe) -> Recipe:
    return replace(recipe, channels="GRAY", fill=(), mean=MEAN[:1], std=STD[:1])


def test_224_pixels_become_230_as_by_a_layer_that_pads_with_zero() -> None:
    """The handbook's pre-stem: `ZeroPadding2D(3)` on the scaled pixels."""
    image = noise(224, 224)
    recipe = replace(ZERO, height=230, width=230)
    scaled = seen(image, replace(recipe, height=224, width=224, padding="fill"))
    expected = keras.ops.convert_to_numpy(layers.ZeroPadding2D(3)(scaled[np.newaxis]))[0]
    np.testing.assert_array_equal(seen(image, recipe), expected)


@pytest.mark.parametrize("geometry", get_args(Geometry))
@pytest.mark.parametrize("channels", get_args(Channels))
@pytest.mark.parametrize("size", [(10, 6), (30, 6), (12, 40), (20, 16), (60, 50)], ids=str)
def test_padding_is_exactly_0_and_the_picture_is_what_it_was(
    geometry: Geometry, channels: Channels, size: tuple[int, int]
) -> None:
    recipe = replace(ZERO, geometry=geometry, channels=channels, **_scaling(channels))
    image = noise(*size)
    found, filled = seen(image, recipe), seen(image, replace(recipe, padding="fill"))
    # Of a white picture, everything that is not padding is more than 0.
    padding = seen(Image.new("RGB", size, "white"), recipe)[..., 0] == 0
    assert padding.any() == any(
        ours < theirs for ours, theirs in zip(host.resized(size, recipe), (20, 16), strict=True)
    )
    assert (found[padding] == 0).all()
    np.testing.assert_array_equal(found[~padding], filled[~padding])


def _scaling(channels: Channels) -> dict[str, Any]:
    return {"fill": (), "mean": MEAN[:1], "std": STD[:1]} if channels == "GRAY" else {}


def test_a_recipe_that_pads_with_pixels_has_no_mask() -> None:
    """Its batches are as small as ever."""
    recipe = replace(ZERO, padding="fill")
    assert recipe.pixels_shape == recipe.shape == host.fit(noise(4, 4), recipe).shape == (16, 20, 3)
    assert (ZERO.pixels_shape, grey(ZERO).pixels_shape, ZERO.shape) == ((16, 20, 4), (16, 20, 2), (16, 20, 3))


def test_a_whole_picture_has_a_mask_without_a_gap() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 20, 3), np.uint8)
    found = host.whole(pixels, ZERO)
    np.testing.assert_array_equal(found[..., :3], pixels)
    assert (found[..., 3] == 1).all()
    assert host.whole(pixels, replace(ZERO, padding="fill")) is pixels


def test_the_pictures_for_a_comparison_have_the_mask() -> None:
    series = variations.series(golden.pictures(bundle.EMBEDDED_DEFAULT), ZERO)
    assert {next(series).shape for _ in range(12)} == {(16, 20, 4)}


def test_a_served_network_sees_the_zeros(tmp_path: Path) -> None:
    """A Keras file, whose recipe says so: the sum of what it sees is that of the scaled pixels alone."""
    keras.utils.set_random_seed(1)
    image = keras.Input((SIZE, SIZE, 3))
    made = keras.Model(image, layers.Dense(CLASSES)(layers.Flatten()(image)))
    path = saved(made, tmp_path, more=f"geometry = 'pad'\npadding = 'zero'\nmean = {list(MEAN)}\nstd = {list(STD)}")
    found = sources.resolve(sources.ModelSource(weights=str(path)))
    assert found.input_shape == (SIZE, SIZE, 3)
    photo = noise(9, 5)
    network = serving.logits_model(serving.load_bundle(found), found.recipe)
    ours = serving.logits(network, host.fit(photo, found.recipe)[np.newaxis])
    theirs = made.predict(seen(photo, found.recipe)[np.newaxis], verbose=0)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# --- the handbook's networks


def test_the_handbooks_networks_pad_with_zero_and_others_do_not() -> None:
    for name, variant, padding in (
        ("mnist_dnn", "handbook", "zero"),
        ("resnet50", "handbook", "zero"),
        ("resnet50", "torchvision", "fill"),
        ("resnet20", "cifar", "fill"),
    ):
        row = find(name, variant)
        assert (row.padding, random_weights.recipe(row).padding) == (padding, padding)


def options(data: Path, out: Path, *more: str) -> list[str]:
    schedule = ("--epochs", "1", "--batch-size", "10", "--learning-rate", "0.05", "--hold-out", "6")
    return ["--data", str(data), "--out", str(out), "--architecture", "basic_cnn", "--size", "16x16", *schedule, *more]


def test_training_pads_the_handbooks_networks_with_zero(patches: Path, tmp_path: Path) -> None:
    """The images have 12 x 12 pixels, and the network sees 16 x 16."""
    assert train.main(options(patches, tmp_path, "--channels", "3", "--cutout", "0.3")) == 0
    made = bundle.read(tmp_path / "bundle")
    assert (made.recipe.padding, made.input_shape) == ("zero", (16, 16, 3))
    images = read(patches, made.recipe)
    assert images.pixels.shape == (36, 16, 16, 4)
    assert (images.pixels[..., 3].sum(axis=(1, 2)) == 144).all()
    inside = images.pixels[:, 2:14, 2:14, :3]
    mean, std = statistics(images)
    assert mean == tuple(np.round(inside.mean(axis=(0, 1, 2)), 1).tolist())
    assert std == tuple(np.round(inside.std(axis=(0, 1, 2)), 1).tolist())
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "--padding" not in card


@pytest.mark.ci
def test_training_pads_with_pixels_where_it_is_told_to(patches: Path, tmp_path: Path) -> None:
    assert train.main(options(patches, tmp_path, "--padding", "fill")) == 0
    assert bundle.read(tmp_path / "bundle").recipe.padding == "fill"
    assert "--padding fill" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    # A run that was begun before there was a choice has none in its plan, and goes on.
    assert "padding" not in json.loads((tmp_path / "plan.json").read_text())["recipe"]


def test_what_cutout_blanks_is_padding() -> None:
    pixels = np.full((4, 16, 16, 4), 200, np.uint8)
    pixels[..., 3] = 1
    images = LabelledImages(pixels, np.zeros(4, np.int64), ("a",))
    batches = Batches(images, batch_size=4, seed=0, epoch=0, fill=replace(ZERO, width=16).blank, cutout=0.5)
    batch, _ = batches[0]
    blanked = batch[..., 3] == 0
    assert blanked.any()
    assert (batch[blanked] == 0).all()
    assert (batch[~blanked] == (200, 200, 200, 1)).all()
