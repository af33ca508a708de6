"""Whole models in the format of Keras 2 serve as newer ones do, or are refused in a line that says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from tests.models import keras_makers
from tests.models.keras_makers import (
    CLASSES,
    PIXELS,
    SIZE,
    model,
    predicted,
    refusal,
    saved,
    served,
    trunk,
)

pytestmark = pytest.mark.usefixtures("seeded")


def _layers(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for layer in config["config"]["layers"]:
        yield layer
        if "layers" in layer["config"]:
            yield from _layers(layer)


def references(owner: dict[str, Any], nodes: list[dict[str, Any]]) -> list[Any]:
    """How Keras 2 says on which layers a layer is called."""
    kinds = {layer["name"]: layer["class_name"] for layer in owner["config"]["layers"]}
    listed = []
    for node in nodes:
        first = node["args"][0]
        histories = [each["config"]["keras_history"] for each in ([first] if isinstance(first, dict) else first)]
        # Of models, Keras 2 counts calls from 1.
        listed.append([[name, call + (kinds[name] in MODELS), tensor, {}] for name, call, tensor in histories])
    return listed


MODELS = ("Functional", "Sequential")
# What Keras 2 writes of a layer beside today's arguments, or in another way.
OLD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "BatchNormalization": {"axis": [3]},
    "DepthwiseConv2D": {"groups": 1, "kernel_initializer": {"class_name": "Zeros", "config": {}}},
    "SeparableConv2D": {"groups": 1, "kernel_initializer": {"class_name": "Zeros", "config": {}}},
    "RandomFlip": {"rng_type": "stateful"},
    "RandomRotation": {"rng_type": "stateful"},
    "RandomZoom": {"rng_type": "stateful"},
    "RandomContrast": {"rng_type": "stateful"},
}


def as_keras_2(path: Path) -> None:
    """Change an ``.h5`` file of today's Keras into what Keras 2 wrote, as far as they differ."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        every = list(_layers(config))
        for owner in (each for each in (config, *every) if each["class_name"] == "Functional"):
            for layer in owner["config"]["layers"]:
                layer["inbound_nodes"] = references(owner, layer["inbound_nodes"])
            for key in ("input_layers", "output_layers"):
                owner["config"][key] = [owner["config"][key]]
        for layer in every:
            values = layer["config"]
            values |= OLD_ARGUMENTS.get(layer["class_name"], {})
            if "batch_shape" in values:
                values["batch_input_shape"] = values.pop("batch_shape")
            if isinstance(values.get("dtype"), dict):
                values["dtype"] = {"class_name": "Policy", "config": {"name": values["dtype"]["config"]["name"]}}
        file.attrs["model_config"] = json.dumps(config)


@pytest.mark.ci
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_a_whole_model_in_the_older_format_serves(*, old: bool, nested: bool, tmp_path: Path) -> None:
    made = keras_makers.tutorial(last=layers.Dense(CLASSES, activation="softmax"), nested=nested)
    path = saved(made, tmp_path, "model.h5")
    if old:
        as_keras_2(path)
    np.testing.assert_allclose(served(path), predicted(made), atol=1e-5)


def test_a_list_of_models_in_the_older_format_serves(tmp_path: Path) -> None:
    base = model(lambda x: layers.BatchNormalization()(layers.Conv2D(6, 3)(x)))
    made = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.Sequential([base, layers.GlobalAveragePooling2D()]),
            keras.Sequential([layers.Dense(9, activation="relu"), layers.Dense(CLASSES, activation="softmax")]),
        ]
    )
    path = saved(made, tmp_path, "model.h5")
    as_keras_2(path)
    np.testing.assert_allclose(served(path), predicted(made), atol=1e-5)


def test_what_an_adapted_layer_has_learnt_is_read_from_the_older_format(tmp_path: Path) -> None:
    normalization = layers.Normalization()
    normalization.adapt(PIXELS.astype(np.float32))
    made = model(lambda x: trunk(normalization(x), activation="softmax"))
    np.testing.assert_allclose(served(saved(made, tmp_path, "model.h5")), predicted(made), atol=1e-5)


@pytest.mark.parametrize("name", ["TFOpLambda", "SlicingOpLambda"])
def test_operations_that_keras_2_kept_as_code_are_refused(name: str, tmp_path: Path) -> None:
    path = saved(model(lambda x: trunk(layers.Identity()(x))), tmp_path, "model.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace(
            '"class_name": "Identity"', f'"class_name": "{name}"'
        )
    assert f"not part of Keras: {name}." in refusal(path)


def test_weights_that_the_older_format_lacks_are_named(tmp_path: Path) -> None:
    path = saved(model(lambda x: layers.Dense(CLASSES, name="top")(layers.Flatten()(x))), tmp_path, "model.h5")
    with h5py.File(path, "r+") as file:
        group = file["model_weights/top"]
        group.attrs["weight_names"] = [name for name in group.attrs["weight_names"] if "bias" not in name]
    assert "lacks weights for layers that it describes, or has them in another shape: top/bias." in refusal(path)


def test_weights_alone_in_the_older_format_are_told_from_a_model(tmp_path: Path) -> None:
    path = saved(model(trunk), tmp_path, "model.h5")
    with h5py.File(path, "r+") as file:
        del file.attrs["model_config"]
    assert "contains weights without a network. Give the architecture" in refusal(path)
