"""The book's ResNet-34, a list of layers of which some are its own, in every format that Keras writes it in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.families.resnet import ResNet
from glimpse.models.keras_files.reading import read
from glimpse.models.weights.errors import WeightsError

WIDTHS = (4, 8, 12, 16)


class Unit(keras.layers.Layer):
    """Two convolutions and a shortcut, kept in two lists, as the book's residual unit does."""

    def __init__(self, filters: int, strides: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        convolution = {"padding": "same", "use_bias": False}
        self.main_layers = [
            keras.layers.Conv2D(filters, 3, strides, **convolution),
            keras.layers.BatchNormalization(),
            keras.activations.relu,
            keras.layers.Conv2D(filters, 3, **convolution),
            keras.layers.BatchNormalization(),
        ]
        self.skip_layers = []
        if strides > 1:
            self.skip_layers = [
                keras.layers.Conv2D(filters, 1, strides, **convolution),
                keras.layers.BatchNormalization(),
            ]

    def get_config(self) -> dict[str, Any]:
        """Keras' older format asks for one."""
        return {**super().get_config(), "filters": 1, "strides": 1}

    def call(self, inputs: Any) -> Any:
        main = skip = inputs
        for layer in self.main_layers:
            main = layer(main)
        for layer in self.skip_layers:
            skip = layer(skip)
        return keras.activations.relu(main + skip)


@pytest.fixture(scope="module")
def book() -> keras.Model:
    """The book's network with narrow layers and weights that tell every place apart."""
    units = [
        (width, 2 if unit == 0 and group else 1) for group, width in enumerate(WIDTHS) for unit in range(DEPTHS[group])
    ]
    # Its class is called otherwise there; a file names the units by it.
    residual_unit = type("ResidualUnit", (Unit,), {})
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(WIDTHS[0], 7, 2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.MaxPool2D(3, 2, padding="same"),
            *(residual_unit(*unit) for unit in units),
            keras.layers.GlobalAvgPool2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    rng = np.random.default_rng(1)
    for variable in model.weights:
        value = rng.normal(0, 0.3, variable.shape)
        variable.assign(np.abs(value) + 0.5 if variable.path.endswith("moving_variance") else value)
    return model


DEPTHS = (3, 4, 6, 3)


def ours(path: Path) -> NDArray[np.float32]:
    """What the library's network gives with the weights of the file."""
    row = find("resnet34", "geron")
    assert isinstance(row, ResNet)
    assert row.depths == DEPTHS
    row = replace(row, widths=WIDTHS, stem=WIDTHS[:1])
    model = assemble(row, classes=3, input_shape=(32, 32, 3)).model
    weights.load(model, path, row.layouts())
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.softmax(model(pictures()))))


def pictures() -> NDArray[np.float32]:
    return np.random.default_rng(2).normal(0, 1, (4, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "model.h5"])
# Keras writes its older format with a warning that it is one.
@pytest.mark.ci
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_book_s_own_file_goes_into_the_library_s_network(book: keras.Model, name: str, tmp_path: Path) -> None:
    (book.save_weights if name == "model.weights.h5" else book.save)(tmp_path / name)
    expected = keras.ops.convert_to_numpy(book(pictures()))
    assert np.ptp(expected, axis=0).max() > 0.01, "it tells the pictures apart"
    np.testing.assert_allclose(ours(tmp_path / name), expected, atol=1e-5)


def test_without_a_name_for_a_network_its_kernels_tell_where_its_weights_belong(tmp_path: Path) -> None:
    """Without a name for a network, it is told by the sizes of its kernels where its weights belong."""
    made = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(64, 7, 2, padding="same", use_bias=False)])
    for group, width in enumerate((64, 128, 256, 512)):
        for unit in range(DEPTHS[group]):
            made.add(Unit(width, 2 if unit == 0 and group else 1))
    made.add(keras.layers.GlobalAvgPool2D())
    made.add(keras.layers.Dense(3, activation="softmax"))
    made.save(tmp_path / "model.keras")
    with pytest.raises(WeightsError, match=r"Unit\. .* By the sizes of its kernels it is .*resnet34 \(geron\) of 3"):
        read(tmp_path / "model.keras")


def test_names_that_an_older_keras_leaves_out_are_told_by_the_units_places(book: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    book.save_weights(path)
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    expected = keras.ops.convert_to_numpy(book(pictures()))
    np.testing.assert_allclose(ours(path), expected, atol=1e-5)
