"""Networks that see one channel: their recipe, their pixels, whole Keras models, and training."""

from __future__ import annotations

import io
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from glimpse.models import bundle, evaluate, golden, serving, sources, variations, weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.decoding.decode import decode
from glimpse.models.decoding.limits import OWN_FILES
from glimpse.models.prestem import graph, host
from glimpse.models.prestem.recipe import Filter, Geometry, Recipe
from glimpse.models.train import __main__ as train
from glimpse.models.train.data import read, statistics
from glimpse.models.weights import WeightsError
from tests.models.keras_makers import CLASSES, SIZE, predicted, saved

GRAY = Recipe(height=24, width=20, channels="GRAY", fill=(7,))


def noise(*shape: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


# --- recipe


def test_a_grey_recipe_has_one_number_for_each_channel() -> None:
    recipe = Recipe.from_dict(tomllib.loads("height = 28\nwidth = 28\nchannels = 'GRAY'\nmean = [33]\nstd = [78.5]"))
    assert recipe == Recipe(height=28, width=28, channels="GRAY", fill=(0,), mean=(33.0,), std=(78.5,))
    assert (recipe.shape, recipe.depth) == ((28, 28, 1), 1)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_the_digest_of_a_grey_recipe_never_changes() -> None:
    recipe = Recipe(height=28, width=28, channels="GRAY", mean=(33,), std=(78.5,))
    assert recipe.digest == "sha256:30cc5e967e863ce5b2f05642c93bb7f9179026957dd096e66b0b74bf450badce"
    assert recipe.digest != Recipe(height=28, width=28).digest


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mean = [1, 2, 3]", r"mean must be a list of one number, because channels is GRAY. Received: \[1, 2, 3\]"),
        ("mean = 33", "mean must be a list of one number, because channels is GRAY. Received: 33"),
        ("std = [0]", "std must be a list of one positive number, because channels is GRAY"),
        ("fill = [256]", "fill must be a list of one whole number from 0 to 255, because channels is GRAY"),
        ("fill = []", "fill must be a list of one number"),
    ],
)
def test_a_wrong_number_of_values_is_refused_with_the_cause(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(tomllib.loads(f"height = 28\nwidth = 28\nchannels = 'GRAY'\n{line}"))


# --- pixels


@pytest.mark.parametrize("geometry", get_args(Geometry))
@pytest.mark.parametrize("filter_", get_args(Filter))
@pytest.mark.parametrize("antialias", [True, False])
def test_the_luma_is_taken_before_anything_is_resized(geometry: Geometry, filter_: Filter, *, antialias: bool) -> None:
    """It is Pillow's mode "L", which a grey photograph of the same luma must be equal to in all that follows."""
    recipe = replace(GRAY, geometry=geometry, filter=filter_, antialias=antialias)
    for image in (noise(50, 70, 3), noise(11, 40, 3), noise(24, 20, 3)):
        luma = image.convert("L")
        found = host.fit(image, recipe)
        assert (found.shape, str(found.dtype), found.flags["C_CONTIGUOUS"]) == ((24, 20, 1), "uint8", True)
        np.testing.assert_array_equal(found, host.fit(luma, recipe))
        # A channel is resized as three equal ones are.
        colour = replace(recipe, channels="RGB", fill=(7, 7, 7), mean=(), std=())
        np.testing.assert_array_equal(np.repeat(found, 3, axis=-1), host.fit(luma, colour))


@pytest.mark.parametrize(
    "image",
    [
        noise(24, 20, 3),
        noise(24, 20),
        noise(24, 20, 4),
        noise(24, 20, 2),
        noise(24, 20, 3).quantize(16),
        noise(24, 20).convert("1"),
        Image.fromarray(np.random.default_rng(0).integers(0, 65536, (24, 20), np.uint16)),
    ],
    ids=["RGB", "grey", "RGBA", "grey with alpha", "palette", "bilevel", "16 bits"],
)
def test_a_file_becomes_the_luma_of_what_a_viewer_shows(image: Image.Image) -> None:
    picture = decode(encoded(image), OWN_FILES)
    expected = np.asarray(picture.image.convert("L"))[..., np.newaxis]
    np.testing.assert_array_equal(host.fit(picture, GRAY), expected)


def test_the_luma_is_that_of_itu_r_bt_601() -> None:
    """0.299 red + 0.587 green + 0.114 blue, within Pillow's rounding."""
    image = noise(24, 20, 3)
    expected = np.asarray(image) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(host.fit(image, GRAY)[..., 0] - expected).max() <= 0.51


def test_the_graph_scales_the_one_channel() -> None:
    recipe = Recipe(height=4, width=4, channels="GRAY", mean=(33.0,), std=(78.5,))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1), np.uint8)
    found = keras.ops.convert_to_numpy(graph.scale(keras.ops.convert_to_tensor(pixels), recipe))
    np.testing.assert_allclose(found, (pixels.astype(np.float32) - 33) / 78.5, atol=1e-6)


def test_the_pictures_for_a_comparison_are_grey_as_well() -> None:
    series = variations.series(golden.pictures(bundle.EMBEDDED_DEFAULT), GRAY)
    assert {next(series).shape for _ in range(12)} == {GRAY.shape}


# --- whole Keras models


def dense(shape: tuple[int | None, ...], **options: object) -> keras.Model:
    keras.utils.set_random_seed(1)
    image = keras.Input(shape)
    x = layers.Flatten()(image) if None not in shape else layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, layers.Dense(CLASSES, **options)(layers.Rescaling(1 / 255)(x)))


@pytest.mark.parametrize("shape", [(SIZE, SIZE, 1), (SIZE, SIZE), (None, None, 1)], ids=str)
def test_a_keras_model_of_grey_images_is_loaded_as_it_answers(shape: tuple[int | None, ...], tmp_path: Path) -> None:
    made = dense(shape, activation="softmax")
    pixels = np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE, 1), np.uint8)
    expected = predicted(made, pixels.reshape(3, *(side or SIZE for side in shape)))
    found = sources.resolve(sources.ModelSource(weights=str(saved(made, tmp_path, more="channels = 'GRAY'"))))
    assert found.input_shape == (SIZE, SIZE, 1)
    network = serving.serving_model(serving.load_bundle(found), found.recipe, 1.0)
    np.testing.assert_allclose(network.predict(pixels, verbose=0), expected, atol=1e-6)


def test_a_sequential_model_of_rows_and_columns_is_loaded(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.Input((SIZE, SIZE)), layers.Flatten(), layers.Dense(CLASSES)])
    found = sources.resolve(sources.ModelSource(weights=str(saved(made, tmp_path, more="channels = 'GRAY'"))))
    assert serving.load_bundle(found).model.count_params() == made.count_params()


@pytest.mark.parametrize(
    ("shape", "more", "needed"), [((SIZE, SIZE, 1), "", "GRAY"), ((SIZE, SIZE, 3), "'GRAY'", "RGB")]
)
def test_a_keras_model_of_other_channels_names_the_change(
    shape: tuple[int, ...], more: str, needed: str, tmp_path: Path
) -> None:
    path = saved(dense(shape), tmp_path, more=more and f"channels = {more}")
    found = sources.resolve(sources.ModelSource(weights=str(path)))
    with pytest.raises(WeightsError, match=f"Set channels of the recipe to {needed}"):
        serving.load_bundle(found)


def test_weights_for_one_channel_name_what_the_recipe_lacks(tmp_path: Path) -> None:
    weights.save(assemble(find("mnist_dnn")).model, tmp_path / "weights.safetensors")
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    (tmp_path / "recipe.toml").write_text("height = 28\nwidth = 28\n")
    source = sources.ModelSource(weights=str(tmp_path / "weights.safetensors"), architecture="mnist_dnn")
    with pytest.raises(WeightsError, match=r"designed for images of 1 channel\. Set channels of the recipe to GRAY"):
        serving.load_bundle(sources.resolve(source))


# --- training


def options(data: Path, out: Path, *more: str, architecture: str = "mnist_dnn") -> list[str]:
    schedule = ("--epochs", "2", "--batch-size", "10", "--learning-rate", "0.05", "--hold-out", "6")
    return ["--data", str(data), "--out", str(out), "--architecture", architecture, *schedule, *more]


def test_a_network_for_one_channel_is_trained_in_grayscale(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(options(patches, tmp_path)) == 0
    made = bundle.read(tmp_path / "bundle")
    assert (made.input_shape, made.recipe.channels, len(made.recipe.mean)) == ((28, 28, 1), "GRAY", 1)
    parameters = 784 * 512 + 512 + 512 * 512 + 512 + 512 * 3 + 3
    assert serving.load_bundle(made).model.count_params() == parameters
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "28 x 28 pixels, grayscale" in card
    assert "--channels" not in card
    capsys.readouterr()
    assert evaluate.main(["--bundle", str(made.folder), "--data", str(patches)]) == 0
    assert "images             36" in capsys.readouterr().out


@pytest.mark.ci
def test_any_network_can_be_trained_in_grayscale(patches: Path, tmp_path: Path) -> None:
    more = ("--channels", "1", "--size", "8x8", "--mean", "100", "--std", "50")
    assert train.main(options(patches, tmp_path, *more, architecture="resnet20")) == 0
    made = bundle.read(tmp_path / "bundle")
    assert (made.input_shape, made.recipe.mean, made.recipe.std) == ((8, 8, 1), (100.0,), (50.0,))
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "--channels 1" in card
    assert "--mean 100.0 \\" in card


def test_a_scaling_of_another_number_of_channels_is_refused_at_once(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(options(patches, tmp_path, "--mean", "1", "2", "3")) == 1
    assert "mean must be a list of one number, because channels is GRAY" in capsys.readouterr().err


def test_statistics_of_grey_images_are_those_of_their_luma(patches: Path) -> None:
    images = read(patches, replace(GRAY, height=12, width=12))
    assert images.pixels.shape == (36, 12, 12, 1)
    (mean,), (std,) = statistics(images)
    assert (mean, std) == (round(float(images.pixels.mean()), 1), round(float(images.pixels.std()), 1))
