"""Whole models of Keras made to do harm: files of a few kilobytes that describe what no machine holds, or never ends.

By name, a function that writes the file into a folder and gives its path. Most of them are a configuration alone, for
what it describes is built before a weight is read.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers

from tests.models.keras_makers import CLASSES, SIZE

Maker = Callable[[Path], Path]
_SHAPE = (SIZE, SIZE, 3)


def _numbers(file: Any) -> None:
    group = file.create_group("layers/dense/vars")
    group["0"], group["1"] = np.zeros((3, CLASSES), np.float32), np.zeros(CLASSES, np.float32)


def whole(
    folder: Path,
    config: Any,
    weights: Callable[[Any], None] = _numbers,
    *,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A ``.keras`` file of a configuration, as an object or as its text, and whatever `weights` writes."""
    path = folder / "model.keras"
    with h5py.File(folder / "weights.h5", "w") as file:
        weights(file)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": keras.__version__}))
        archive.write(folder / "weights.h5", "model.weights.h5")
    return path


def sequential(*parts: Any) -> dict[str, Any]:
    """The configuration of a model of layers one after the other, none of which is built."""
    told = [part if isinstance(part, dict) else keras.saving.serialize_keras_object(part) for part in parts]
    first = keras.saving.serialize_keras_object(layers.InputLayer(batch_shape=(None, *_SHAPE)))
    config = {"name": "model", "trainable": True, "layers": [first, *told]}
    return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}


def _of(*parts: Any) -> Maker:
    return lambda folder: whole(folder, sequential(*parts, *_head()))


def _of_class(name: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": name, "config": config, "registered_name": None}


def _head() -> tuple[Any, ...]:
    return layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, activation="softmax", name="dense")


def _old(*parts: Any) -> Maker:
    """The same in the older format."""

    def make(folder: Path) -> Path:
        path = folder / "model.h5"
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps(sequential(*parts))
            group = file.create_group("model_weights")
            group.attrs["layer_names"] = [b"dense"]
            group.create_group("dense").attrs["weight_names"] = [b"dense/kernel:0"]
            group["dense/dense/kernel:0"] = np.zeros((3, CLASSES), np.float32)
        return path

    return make


def _in_models(folder: Path) -> Path:
    """Models in models, each of which calls the one within it ten times: a million layers."""
    image = keras.Input(_SHAPE)
    one = keras.Model(image, layers.Rescaling(1.0)(image))
    config = keras.saving.serialize_keras_object(one)
    for level in range(6):
        image = keras.Input(_SHAPE)
        inner = keras.Model(image, layers.Rescaling(1.0)(image), name="inner")
        x = image
        for _ in range(10):
            x = inner(x)
        outer = keras.saving.serialize_keras_object(keras.Model(image, x, name=f"level{level}"))
        for layer in outer["config"]["layers"]:
            if layer["name"] == "inner":
                layer["config"] = {**config["config"], "name": "inner"}
        config = outer
    return whole(folder, config)


def _large_maps(folder: Path) -> Path:
    """One convolution over a large map, a hundred times: each call is a few bytes and takes seconds."""
    image = keras.Input(_SHAPE)
    x = layers.UpSampling2D(16)(image)
    convolution = layers.Conv2D(3, 301, padding="same", use_bias=False)
    for _ in range(100):
        x = convolution(x)
    for layer in _head():
        x = layer(x)

    def put(file: Any) -> None:
        _numbers(file)
        file.create_dataset("layers/conv2d/vars/0", data=np.zeros((301, 301, 3, 3), "f4"))

    return whole(folder, keras.saving.serialize_keras_object(keras.Model(image, x)), put)


def _weights(put: Callable[[Any], Any]) -> Maker:
    return lambda folder: whole(folder, sequential(*_head()), lambda file: put(file.create_group("layers/dense/vars")))


def _virtual(group: Any) -> None:
    layout = h5py.VirtualLayout((1 << 30,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (1 << 30,))
    group.create_virtual_dataset("0", layout)


def _linked(group: Any) -> None:
    group["0"] = np.zeros((64, 64), np.float32)
    for number in range(1, 1000):
        group[str(number)] = group["0"]


def _many_maps(folder: Path) -> Path:
    """A large map, taken a hundred times: none is too large, and Keras keeps them all until the last."""
    image = keras.Input(_SHAPE)
    x = layers.UpSampling2D(100)(image)
    for _ in range(100):
        x = layers.ReLU()(x)
    for layer in _head():
        x = layer(x)
    return whole(folder, keras.saving.serialize_keras_object(keras.Model(image, x)))


def _attention(folder: Path) -> Path:
    """A sequence of a million places, each of which is compared with each."""
    image = keras.Input(_SHAPE)
    x = layers.Reshape((-1, 3))(layers.UpSampling2D(64)(image))
    x = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(8, 1)(x, x))
    made = keras.Model(image, layers.Dense(CLASSES, name="dense")(x))
    made.save(folder / "saved.keras")
    return folder / "saved.keras"


MODELS: dict[str, Maker] = {
    "a thousand million units": _of(layers.Dense(10**9)),
    "a thousand million filters": _of(layers.Conv2D(10**9, 3)),
    "a kernel as large as a city": _of(layers.Conv2D(8, 30_000, padding="same")),
    "a thousand million filters for each channel": _of(layers.DepthwiseConv2D(3, depth_multiplier=10**9)),
    "a recurrent layer of a million units": _of(layers.Reshape((256, 3)), layers.LSTM(10**6)),
    "units in the older format": _old(layers.Flatten(), layers.Dense(10**9, name="dense")),
    "maps made a hundred thousand times larger": _of(layers.UpSampling2D(100_000)),
    "maps of a thousand million pixels": _of(layers.Resizing(30_000, 30_000)),
    "padding without end": _of(layers.ZeroPadding2D(100_000)),
    "a picture repeated a million times": _of(
        layers.Flatten(), layers.RepeatVector(10**6), layers.Reshape((1000, -1, 3))
    ),
    "steps one after the other": _of(layers.Reshape((768, 1)), layers.SimpleRNN(2, unroll=True)),
    "chains of augmentation without end": _of(layers.AugMix(num_chains=10**8)),
    "models in models": _in_models,
    "small convolutions over large maps": _large_maps,
    "large maps again and again": _many_maps,
    "a million places compared with each other": _attention,
    "a hundred thousand layers": lambda folder: whole(
        folder, sequential(*[keras.saving.serialize_keras_object(layers.ReLU())] * 100_000)
    ),
    "a vocabulary from another file": lambda folder: whole(
        folder,
        sequential({"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/dev/zero"}}),
    ),
    "lists in lists": lambda folder: whole(folder, "[" * 1_000_000),
    "objects in objects": lambda folder: whole(folder, '{"config":' * 5000 + "0" + "}" * 5000),
    "a configuration of empty lists": lambda folder: whole(folder, "[" + "[]," * 4_000_000 + "0]"),
    "a configuration longer than any": lambda folder: whole(folder, json.dumps("x" * (20 << 20))),
    "a compressed archive": lambda folder: whole(
        folder,
        sequential(*_head()),
        lambda file: file.create_dataset("layers/dense/vars/0", data=np.zeros(1 << 24, "f4")),
        compression=zipfile.ZIP_DEFLATED,
    ),
    "compressed numbers": _weights(lambda group: group.create_dataset("0", (1 << 28,), "f4", compression="gzip")),
    "numbers in parts": _weights(lambda group: group.create_dataset("0", (1 << 30,), "f4", chunks=(1 << 20,))),
    "numbers that are stored nowhere": _weights(lambda group: group.create_dataset("0", (1 << 34,), "f4", fillvalue=1)),
    "numbers of another file": _weights(_virtual),
    "numbers under a thousand names": _weights(_linked),
}
