"""Weights on disk and the graph that is served: by name, exact, and clear about what does not fit."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from glimpse import models
from glimpse.models import serving, weights
from glimpse.models.builder import Assembly, assemble
from glimpse.models.catalogue import find
from glimpse.models.files import digests
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.weights import WeightsError, WeightsMismatchError
from tests.models.full_disk import files_of
from tests.variations import mostly_in_ci

RECIPE = Recipe(height=8, width=8, mean=(120, 121, 122), std=(60, 61, 62))
PIXELS = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), np.uint8)


def small(seed: int) -> Assembly:
    keras.utils.set_random_seed(seed)
    return assemble(find("se_resnet20"), classes=4, input_shape=(8, 8, 3))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    weights.save(small(1).model, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


# One that is quick to build for each kind of layer: dense behind maps, depthwise, grouped, concatenated.
@pytest.mark.parametrize(
    "name",
    mostly_in_ci(
        ["resnet20", "se_resnet20", "squeezenet1_1", "mobilenet", "mobilenet_v2", "mnist_dnn"],
        "se_resnet20",
        "mobilenet",
        "mnist_dnn",
    ),
)
def test_a_network_gets_its_weights_back(name: str, tmp_path: Path) -> None:
    first, second = (models.build(name, classes=4, input_shape=(64, 64, 3)) for _ in range(2))
    weights.save(first, tmp_path / "w.safetensors")
    assert weights.load(second, tmp_path / "w.safetensors") == "glimpse"
    x = np.random.default_rng(0).normal(0, 1, (2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(first(x)), np.asarray(second(x)))


def test_float16_halves_the_file_and_rounds_once(saved: Path, tmp_path: Path) -> None:
    model = small(1).model
    weights.save(model, tmp_path / "half.safetensors", dtype="float16")
    assert (tmp_path / "half.safetensors").stat().st_size < saved.stat().st_size * 0.55
    again = small(2).model
    weights.load(again, tmp_path / "half.safetensors")
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs).astype(np.float16).astype(np.float32))


def test_a_weight_too_large_for_float16_is_refused_by_name(tmp_path: Path) -> None:
    model = small(1).model
    model.get_layer("classifier_logits").bias.assign([0.0, 7e4, 0.0, 0.0])
    with pytest.raises(ValueError, match="classifier_logits/bias holds numbers that float16 cannot"):
        weights.save(model, tmp_path / "w.safetensors", dtype="float16")


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_numbers_that_are_none_are_refused_and_nothing_is_set(saved: Path, value: float) -> None:
    """A network with one of them may well answer: with the wrong class, each time."""
    tensors: dict[str, np.ndarray] = dict(load_file(saved))
    bias = tensors["classifier_logits/bias"].astype(np.float64)
    bias[2] = value
    save_file({**tensors, "classifier_logits/bias": bias}, saved)
    model = small(2).model
    before = [np.asarray(each) for each in model.weights]
    with pytest.raises(WeightsError, match=r"numbers for classifier_logits/bias that are infinite, none, or too large"):
        weights.load(model, saved)
    assert all((np.asarray(each) == old).all() for each, old in zip(model.weights, before, strict=True))


def test_whole_numbers_in_the_place_of_weights_are_refused(saved: Path) -> None:
    tensors: dict[str, np.ndarray] = dict(load_file(saved))
    tensors["stem_conv/kernel"] = np.ones(tensors["stem_conv/kernel"].shape, np.int8)
    save_file(tensors, saved)
    with pytest.raises(WeightsMismatchError, match="stem_conv/kernel: int8, the network has floats"):
        weights.load(small(2).model, saved)


def test_a_full_disk_leaves_the_weights_that_are_there(saved: Path) -> None:
    before = saved.read_bytes()
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5000)])
    with files_of(10_000), pytest.raises(OSError, match=f"File too large: '{saved}'"):
        weights.save(model, saved)
    assert saved.read_bytes() == before


def test_tensors_are_float32_and_named_after_their_variables(saved: Path) -> None:
    tensors = load_file(saved)
    assert tensors.keys() == {variable.path for variable in small(2).model.weights}
    assert "group1_block1_a_conv/kernel" in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}


def test_equal_weights_give_equal_files(saved: Path, tmp_path: Path) -> None:
    weights.save(small(1).model, tmp_path / "again.safetensors")
    assert digests.digest(tmp_path / "again.safetensors") == digests.digest(saved)


def test_weights_that_do_not_fit_are_listed_by_name_and_change_nothing(saved: Path) -> None:
    tensors = load_file(saved)
    tensors["stem_conv/extra"] = tensors.pop("stem_conv/kernel")
    tensors["classifier_logits/bias"] = np.zeros(5, np.float32)
    save_file(tensors, saved)
    model = small(2).model
    before = [np.asarray(variable) for variable in model.weights]
    with pytest.raises(WeightsMismatchError) as error:
        weights.load(model, saved)
    assert error.value.missing == ["stem_conv/kernel"]
    assert error.value.unexpected == ["stem_conv/extra"]
    assert error.value.misshapen == ["classifier_logits/bias: (5,), the network has (4,) in classifier_logits/bias"]
    assert "missing: stem_conv/kernel; unexpected: stem_conv/extra; misshapen: " in str(error.value)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), value)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="is not a safetensors file"):
        weights.load(small(1).model, tmp_path / "w.safetensors")


def test_serving_is_the_softmax_of_the_network_s_logits_over_the_temperature() -> None:
    """Serving is the softmax of the logits, of the network on scaled pixels, over the temperature."""
    assembly = small(1)
    scaled = (PIXELS.astype(np.float32) - np.array(RECIPE.mean, np.float32)) / np.array(RECIPE.std, np.float32)
    logits = np.asarray(assembly.model(scaled), np.float64) / 1.6
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probabilities = np.asarray(serving.serving_model(assembly, RECIPE, 1.6)(PIXELS))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


def test_the_serving_graph_comes_back_from_a_file_in_safe_mode(tmp_path: Path) -> None:
    model = serving.serving_model(small(1), RECIPE, 1.6)
    model.save(tmp_path / "serving.keras")
    again = keras.saving.load_model(tmp_path / "serving.keras", safe_mode=True)
    np.testing.assert_array_equal(np.asarray(model(PIXELS)), np.asarray(again(PIXELS)))


def test_serving_refuses_a_recipe_of_another_size() -> None:
    with pytest.raises(ValueError, match="the recipe produces"):
        serving.serving_model(small(1), Recipe(height=16, width=16), 1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_serving_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        serving.serving_model(small(1), RECIPE, temperature)


def test_what_is_imported_on_first_use_is_of_the_same_package() -> None:
    """Under another name its errors would be other classes than those that callers catch."""
    assert {weights.load.__module__, weights.save.__module__, weights.likely_networks.__module__} == {
        "glimpse.models.weights.transfer",
        "glimpse.models.weights.native",
        "glimpse.models.weights.identification",
    }
