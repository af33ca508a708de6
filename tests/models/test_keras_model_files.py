"""A user's saved model gives what `model.predict` gives, or is refused in a line that says why."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from numpy.typing import NDArray

from glimpse.models import score_kinds
from glimpse.models.prestem.recipe import Recipe
from tests.models import keras_makers
from tests.models.keras_makers import (
    CLASSES,
    IMAGE_LAYERS,
    PIXELS,
    PROBABILITIES,
    SIZE,
    loaded,
    model,
    predicted,
    refusal,
    saved,
    served,
    trunk,
)
from tests.variations import mostly_in_ci

pytestmark = pytest.mark.usefixtures("seeded")


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", mostly_in_ci(PROBABILITIES, "softmax layer", "nested", "function", "shared layer"))
def test_probabilities_are_served_as_they_are(name: str, tmp_path: Path) -> None:
    made = PROBABILITIES[name]()
    expected = predicted(made)
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(served(saved(made, tmp_path)), expected, atol=1e-5)


def test_a_temperature_softens_probabilities_through_their_logarithm(tmp_path: Path) -> None:
    made = PROBABILITIES["average"]()
    expected = predicted(made) ** (1 / 2.5)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(served(saved(made, tmp_path), temperature=2.5), expected, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("make", "output"),
    [
        (lambda: model(trunk), "logits"),
        (lambda: model(lambda x: layers.Dropout(0.5)(trunk(x))), "logits"),
        (lambda: model(lambda x: trunk(x, activation="softmax")), "logits"),  # up to which it is served
        (lambda: model(lambda x: ops.softmax(trunk(x))), "probabilities"),
        (lambda: model(lambda x: ops.log_softmax(trunk(x))), "log-probabilities"),
        (lambda: model(lambda x: trunk(x, activation="log_softmax")), "log-probabilities"),
    ],
)
def test_it_is_told_what_the_network_puts_out(make: Callable[[], keras.Model], output: str, tmp_path: Path) -> None:
    made = make()
    path = saved(made, tmp_path)
    assert loaded(path).summary.output == output
    scores_ = predicted(made)
    expected = scores_ if np.allclose(scores_.sum(axis=1), 1, atol=1e-4) else softmax(scores_)
    np.testing.assert_allclose(served(path), expected, atol=1e-5)


def test_percentages_are_served_as_the_probabilities_that_they_are(tmp_path: Path) -> None:
    made = model(lambda x: ops.softmax(trunk(x)) * 100.0)
    np.testing.assert_allclose(served(saved(made, tmp_path)), predicted(made) / 100, atol=1e-5)


def test_logits_that_are_probabilities_for_one_picture_by_chance_stay_logits(tmp_path: Path) -> None:
    # For a black picture the bias is all that there is.
    bias = keras.initializers.Constant([0.1, 0.2, 0.3, 0.4])
    made = model(lambda x: layers.Dense(CLASSES, bias_initializer=bias)(layers.GlobalAveragePooling2D()(x)))
    np.testing.assert_allclose(predicted(made, np.zeros_like(PIXELS)).sum(axis=1), 1, atol=1e-5)
    path = saved(made, tmp_path)
    assert loaded(path).summary.output == "logits"
    np.testing.assert_allclose(served(path), softmax(predicted(made)), atol=1e-5)


def test_logits_between_0_and_1_are_no_sigmoid_s(tmp_path: Path) -> None:
    made = model(
        lambda x: layers.Dense(
            CLASSES, kernel_initializer=keras.initializers.RandomUniform(0, 0.1), bias_initializer="ones"
        )(layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 2550)(x)) * -1.0)
    )
    assert predicted(made).min() > 0.5
    assert loaded(saved(made, tmp_path)).summary.output == "logits"


@pytest.mark.parametrize("last", [layers.Reshape((CLASSES,)), layers.GlobalAveragePooling1D()], ids=lambda x: x.name)
def test_logits_between_0_and_1_stay_logits_behind_what_keeps_them_linear(last: keras.Layer, tmp_path: Path) -> None:
    small = {"kernel_initializer": keras.initializers.RandomUniform(0, 0.1)}

    def forward(x: Any) -> Any:
        x = layers.GlobalAveragePooling2D(keepdims=True)(layers.Rescaling(1 / 2550)(x))
        return last(layers.Reshape((1, CLASSES))(layers.Dense(CLASSES, **small)(x)))

    made = model(forward)
    assert predicted(made).min() > 0
    assert loaded(saved(made, tmp_path)).summary.output == "logits"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: model(lambda x: layers.Reshape((CLASSES,))(trunk(x, activation="sigmoid"))), "Received: sigmoid"),
        (lambda: model(lambda x: trunk(x, activation="sigmoid")), "Received: sigmoid, scores from 0 to 1"),
        (lambda: model(model(lambda x: ops.sigmoid(trunk(x)))), "Received: sigmoid"),
        (lambda: model(lambda x: ops.sigmoid(trunk(x)) * 1.0), "Received: scores from 0 to 1"),
        (lambda: model(lambda x: ops.sigmoid(trunk(x) * 1000.0)), "Received: sigmoid"),  # 0 or 1 each, by chance one 1
        (lambda: model(lambda x: trunk(x, 1, activation="sigmoid")), r"gives a single score.*Received: 4 labels"),
        (lambda: model(lambda x: trunk(x, 1)), r"gives a single score.*Received: 4 labels"),
        (lambda: model(lambda x: trunk(x, activation="tanh")), "Received: tanh"),
        (lambda: model(lambda x: layers.Softmax(axis=0)(trunk(x))), "together with other pictures"),
        (lambda: model(lambda x: trunk(x, 5)), "gives 5 scores, but there are 4 labels"),
        (lambda: model(lambda x: [trunk(x), trunk(x)]), "1 inputs .* and 2 outputs"),
        (lambda: keras.Sequential([keras.Input((SIZE, SIZE, 1)), layers.Flatten(), layers.Dense(4)]), r"16, 16, 1\)"),
        (lambda: keras.Sequential([keras.Input((3, SIZE, SIZE)), layers.Flatten(), layers.Dense(4)]), "channels first"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(4)]), "the recipe produces"),
        (lambda: model(lambda x: layers.Lambda(lambda y: y * 2)(trunk(x))), "not part of Keras: Lambda"),
    ],
)
# Keras warns of a softmax over a single number.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_served_is_refused_in_a_line(make: Callable[[], keras.Model], said: str, tmp_path: Path) -> None:
    text = refusal(saved(make(), tmp_path))
    assert re.search(said, text), text


class Custom(layers.Layer):
    """A layer of somebody's own."""

    def call(self, x: Any) -> Any:
        return x * 2


class Subclassed(keras.Model):
    """A model of somebody's own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(CLASSES)

    def call(self, x: Any) -> Any:
        return self.dense(ops.mean(x, axis=(1, 2)))


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_layers_with_code_of_their_own_are_named(name: str, tmp_path: Path) -> None:
    path = saved(model(lambda x: trunk(Custom()(layers.Identity()(x)))), tmp_path, name)
    assert refusal(path) == (
        "FILE cannot be loaded in safe mode, which runs no code from a file: it has layers that are not part of Keras: "
        "Custom. Save a model of Keras' own layers, or give the architecture of the library that its weights belong "
        "to, with GLIMPSE_MODEL."
    )


def test_a_model_of_somebody_s_own_class_is_named(tmp_path: Path) -> None:
    made = Subclassed()
    made(np.zeros((1, SIZE, SIZE, 3), np.float32))
    assert "not part of Keras: Subclassed" in refusal(saved(made, tmp_path))


def test_what_keras_says_at_length_is_shortened(tmp_path: Path) -> None:
    path = saved(model(trunk), tmp_path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][2]["config"]["filters"] = -1
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, json.dumps(config) if name == "config.json" else data)
    assert "Invalid value for argument `filters`" in refusal(path)


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"class_name": "Functional"}', b'"text"'])
def test_a_damaged_configuration_is_refused(data: bytes, tmp_path: Path) -> None:
    path = saved(model(trunk), tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", data)
        archive.writestr("metadata.json", "{}")
    refusal(path)


def _quick(name: str) -> Any:
    if name in {"CenterCrop", "RandomFlip"}:
        return name
    quick = {"AutoContrast", "MixUp", "RandAugment", "RandomHue", "Resizing"}
    return pytest.param(name, marks=pytest.mark.ci if name in quick else pytest.mark.slow)


@pytest.mark.parametrize("name", [_quick(name) for name in IMAGE_LAYERS])
def test_a_layer_for_images_does_what_it_does_in_predict(name: str, tmp_path: Path) -> None:
    made = keras_makers.augmented(name)
    path = saved(made, tmp_path)
    np.testing.assert_allclose(served(path), predicted(made), atol=1e-5)
    left_out = {"AutoContrast", "CenterCrop", "Normalization", "Resizing"}
    kinds = {type(layer).__name__ for layer in loaded(path).model.layers}
    assert (name in kinds) == (name in left_out), "what acts in training only is no part of the served graph"


@pytest.mark.parametrize(
    ("nested", "open_inside", "activation"),
    [
        (True, False, "softmax"),
        *mostly_in_ci([(True, True, "linear"), (False, True, "softmax"), (False, False, "linear")]),
    ],
)
def test_networks_as_in_the_tutorials(*, nested: bool, open_inside: bool, activation: str, tmp_path: Path) -> None:
    last = layers.Dense(CLASSES, activation=activation)
    made = keras_makers.tutorial(last=last, nested=nested, open_inside=open_inside)
    path = saved(made, tmp_path)
    scores_ = predicted(made)
    np.testing.assert_allclose(served(path), scores_ if activation == "softmax" else softmax(scores_), atol=1e-5)
    # 8 x 8 positions of 3 * 3 * 3 * 8; of 3 * 3 * 8 and 8 * 12; 4 x 4 of 12 * 12, of 3 * 3 * 12; the dense layer.
    assert loaded(path).summary.multiply_adds == 64 * 216 + 64 * (72 + 96) + 16 * 144 + 16 * 108 + 12 * CLASSES


def test_a_layer_that_is_used_twice_costs_twice(tmp_path: Path) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    twice = layers.Conv2D(3, 3, padding="same")
    made = keras.Model(image, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(twice(twice(image)))))
    assert loaded(saved(made, tmp_path)).summary.multiply_adds == 2 * SIZE * SIZE * 81 + 3 * CLASSES


@pytest.mark.parametrize("dtype", mostly_in_ci(["uint8", "int32", "float16"], "uint8"))
def test_an_input_of_another_dtype_gets_the_pixels_in_it(dtype: str, tmp_path: Path) -> None:
    made = model(lambda x: trunk(x, activation="softmax"), dtype=dtype)
    np.testing.assert_allclose(served(saved(made, tmp_path)), predicted(made), atol=1e-5)


def test_whole_numbers_cannot_be_scaled(tmp_path: Path) -> None:
    path = saved(model(trunk, dtype="uint8"), tmp_path, more="mean = [1, 2, 3]\n")
    assert "Remove mean and std from the recipe" in refusal(path)


@pytest.mark.parametrize("policy", mostly_in_ci(["mixed_float16", "float16", "mixed_bfloat16"], "mixed_float16"))
def test_half_floats_are_known_for_probabilities_all_the_same(policy: str, tmp_path: Path) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        made = model(lambda x: layers.Reshape((CLASSES,))(layers.Softmax()(trunk(layers.RandomFlip()(x)))))
    finally:
        keras.config.set_dtype_policy("float32")
    path = saved(made, tmp_path)
    assert loaded(path).summary.output == "probabilities"
    np.testing.assert_allclose(served(path), predicted(made), atol=2e-2)


def test_a_fixed_batch_and_inputs_and_outputs_with_names_do_not_matter(tmp_path: Path) -> None:
    image = keras.Input((SIZE, SIZE, 3), batch_size=1, name="photo")
    made = keras.Model({"photo": image}, {"scores": trunk(image, activation="softmax")})
    expected = np.concatenate([predicted(made, PIXELS[i : i + 1]) for i in range(len(PIXELS))])
    np.testing.assert_allclose(served(saved(made, tmp_path)), expected, atol=1e-5)


def test_the_pictures_that_are_looked_at_span_the_range_of_pixels() -> None:
    found = score_kinds.pictures(Recipe(height=9, width=7))
    assert found.shape == (6, 9, 7, 3)
    assert (found[0].max(), found[1].min()) == (0, 255)
    assert len({picture.tobytes() for picture in found}) == len(found)
