"""Xception: the handbook's width, PyTorch's pooling, and the names that its published file has from Keras 1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from glimpse.models import weights
from glimpse.models.blocks.pooling import max_pool
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.families.xception import Xception
from glimpse.models.layouts import KERAS, Layout, renaming


def test_the_handbooks_network_with_the_papers_exit_is_smaller_than_it_prints() -> None:
    """With the paper's exit flow, the handbook's network would be smaller than the handbook prints."""
    row = find("xception", "handbook")
    assert isinstance(row, Xception)
    assert assemble(replace(row, exit_width=1536)).model.count_params() == 22_937_744


@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 7), (6, 7)])
def test_centred_pooling_takes_the_largest_value_around_every_second_position(height: int, width: int) -> None:
    """Centred pooling takes the largest value of a window around every second position."""
    pixels = -1 - np.random.default_rng(0).random((2, height, width, 3), np.float32)  # zeros at the border would win
    x = keras.Input(pixels.shape[1:])
    out = keras.ops.convert_to_numpy(keras.Model(x, max_pool(x, border="centred", name="p"))(pixels))
    bordered = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = [
        [bordered[:, i : i + 3, j : j + 3].max(axis=(1, 2)) for j in range(0, width, 2)] for i in range(0, height, 2)
    ]
    np.testing.assert_array_equal(out, np.array(expected).transpose(2, 0, 1, 3))


def test_keras_1_numbered_every_layer_of_a_kind_in_the_order_of_creation() -> None:
    row = find("xception")
    rename = row.layouts()["keras_1"].rename
    named = {rename(layer.name) for layer in assemble(row).model.layers if layer.weights}
    numbers = {"convolution2d": 6, "separableconvolution2d": 34, "batchnormalization": 40, "dense": 1}
    assert named == {f"{kind}_{number}" for kind, count in numbers.items() for number in range(1, count + 1)}
    # The projection of a block is made before its separable convolutions.
    assert rename("group1_block1_projection_bn") == "batchnormalization_3"
    assert rename("group1_block1_sep1_bn") == "batchnormalization_4"
    assert rename("group2_block1_sep1_bn") == "batchnormalization_12"
    assert rename("group3_block1_projection_bn") == "batchnormalization_36"
    assert rename("group2_block1_sep1_conv") == rename("group2_block1_sep1_depthwise") == "separableconvolution2d_7"


def test_a_file_of_keras_1_gives_its_tensors_to_the_layers_of_their_kind(tmp_path: Path) -> None:
    x = keras.Input((5, 5, 2))
    y = keras.layers.Conv2D(3, 3, use_bias=False, name="ours_projection_conv")(x)
    y = keras.layers.BatchNormalization(name="ours_bn")(y)
    y = keras.layers.DepthwiseConv2D(3, use_bias=False, name="ours_sep_depthwise")(y)
    y = keras.layers.Conv2D(4, 1, use_bias=False, name="ours_sep_conv")(y)
    model = keras.Model(x, keras.layers.Dense(5, name="ours_logits")(y))
    rng = np.random.default_rng(0)
    kinds: dict[str, dict[str, tuple[int, ...]]] = {
        "convolution2d_1": {"W": (3, 3, 2, 3)},
        "batchnormalization_1": {"gamma": (3,), "beta": (3,), "running_mean": (3,), "running_std": (3,)},
        "separableconvolution2d_1": {"depthwise_kernel": (3, 3, 3, 1), "pointwise_kernel": (1, 1, 3, 4)},
        "dense_2": {"W": (4, 5), "b": (5,)},
    }
    tensors = {
        f"{layer}_{role}": rng.random(shape, np.float32) for layer, of in kinds.items() for role, shape in of.items()
    }
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in kinds]
        for layer, roles in kinds.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}_{role}:0".encode() for role in roles]
            for role in roles:
                group[f"{layer}_{role}:0"] = tensors[f"{layer}_{role}"]
    rename = renaming(
        ("ours_projection_conv", "convolution2d_1"),
        ("ours_bn", "batchnormalization_1"),
        ("ours_sep_(?:depthwise|conv)", "separableconvolution2d_1"),
        ("ours_logits", "dense_1"),
    )
    layouts = {"keras_1": Layout(naming=KERAS, rename=rename, recounted=("dense",))}
    assert weights.load(model, tmp_path / "old.h5", layouts) == "keras_1"
    ours = [keras.ops.convert_to_numpy(variable) for variable in model.weights]
    for mine, theirs in zip(ours, tensors.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_numbers_that_keras_gave_to_nameless_layers_are_counted_from_1() -> None:
    layout = Layout(naming=KERAS, rename=str, recounted=("conv2d", "dense"))
    names = ["conv2d/kernel", "conv2d_12/kernel", "conv2d_9/kernel", "dense_4/bias", "dense_4/kernel", "block1/kernel"]
    assert layout.canonical(names) == {
        "conv2d_1/kernel": "conv2d/kernel",
        "conv2d_3/kernel": "conv2d_12/kernel",
        "conv2d_2/kernel": "conv2d_9/kernel",
        "dense_1/bias": "dense_4/bias",
        "dense_1/kernel": "dense_4/kernel",
        "block1/kernel": "block1/kernel",
    }
