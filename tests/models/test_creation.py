"""Names that Keras makes up for the layers of a program are found again in the order in which it makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.families import creation
from glimpse.models.families.resnet import ResNet
from glimpse.models.layouts import Layout
from glimpse.models.weights.errors import WeightsMismatchError
from tests.variations import mostly_in_ci

GROUPS, WIDTHS = 4, (16, 32)


def names(layout: Layout, *ours: str) -> list[str]:
    """The program's names of our layers, several of one layer joined."""
    found = layout.theirs(ours)
    return [" ".join(found[name]) for name in ours]


def test_each_class_is_numbered_by_itself_from_the_stem_to_the_classes() -> None:
    ours = ("classifier_logits", "group10_2_conv", "group2_1_conv", "stem_conv", "stem_bn", "classifier_fc1")
    assert names(creation.layout(), *ours) == [
        "dense_2",
        "conv2d_3",
        "conv2d_2",
        "conv2d_1",
        "batch_normalization_1",
        "dense_1",
    ]


@pytest.mark.parametrize(("projection", "expected"), [("first", (1, 2, 3)), ("last", (3, 1, 2))])
def test_a_projection_is_made_before_or_behind_its_unit(projection: str, expected: tuple[int, ...]) -> None:
    layout = creation.layout(projection=projection)  # type: ignore[arg-type]
    ours = [f"group2_block1_{part}_conv" for part in ("projection", "a", "b")]
    assert names(layout, *ours) == [f"conv2d_{number}" for number in expected]


def test_what_is_between_two_groups_is_made_between_them() -> None:
    dense = ("group1_layer12_a_conv", "transition1_conv", "group2_layer1_a_conv")
    assert names(creation.layout(), *dense) == ["conv2d_1", "conv2d_2", "conv2d_3"]
    residual = ("group1_block3_b_conv", "group2_transition_a_conv", "group2_transition_b_conv", "group2_block1_a_conv")
    assert names(creation.layout(), *residual) == [f"conv2d_{number}" for number in (1, 2, 3, 4)]


def test_a_grouped_layer_is_several_that_are_made_group_by_group() -> None:
    ours = ("group1_block1_a_conv", "group1_block1_b_conv", "group1_block1_c_conv", "group1_block1_projection_conv")
    together = creation.layout(groups=2, grouped=r".*_b_conv")
    assert names(together, *ours) == ["conv2d_1", "conv2d_2 conv2d_3", "conv2d_4", "conv2d_5"]
    in_turn = creation.layout(groups=2, grouped=r".*_[bc]_conv")
    assert names(in_turn, *ours) == ["conv2d_1", "conv2d_2 conv2d_4", "conv2d_3 conv2d_5", "conv2d_6"]


def test_a_separable_convolution_is_one_layer_of_the_program() -> None:
    ours = ("stem_a_conv", "group1_block1_sep1_depthwise", "group1_block1_sep1_conv", "group1_block1_projection_conv")
    assert names(creation.layout(separable=True), *ours) == [
        "conv2d_1",
        "separable_conv2d_1",
        "separable_conv2d_1",
        "conv2d_2",
    ]


def _program() -> keras.Model:
    """A small ResNeXt whose groups are slices by Lambda, as the handbook makes them, and convolutions of their own."""

    def normalised(x: keras.KerasTensor, *, activated: bool) -> keras.KerasTensor:
        x = layers.BatchNormalization()(x)
        return layers.ReLU()(x) if activated else x

    def unit(x: keras.KerasTensor, width: int) -> keras.KerasTensor:
        each = width // 2 // GROUPS
        f = normalised(layers.Conv2D(width // 2, 1)(x), activated=True)
        slices = [layers.Lambda(lambda z, at=at: z[..., at : at + each])(f) for at in range(0, width // 2, each)]
        f = layers.Concatenate()([layers.Conv2D(each, 3, padding="same")(one) for one in slices])
        f = normalised(layers.Conv2D(width, 1)(normalised(f, activated=True)), activated=False)
        kept = x if x.shape[-1] == width else normalised(layers.Conv2D(width, 1)(x), activated=False)
        return layers.ReLU()(layers.Add()([kept, f]))

    image = keras.Input((33, 35, 3))
    x = normalised(layers.Conv2D(8, 7, strides=2, padding="same")(image), activated=True)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = unit(unit(x, WIDTHS[0]), WIDTHS[0])
    x = unit(layers.Conv2D(WIDTHS[1], 1, strides=2)(x), WIDTHS[1])
    x = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, x)


def _ours() -> tuple[ResNet, keras.Model]:
    row = find("resnext50", "handbook")
    assert isinstance(row, ResNet)
    row = replace(row, depths=(2, 1), widths=WIDTHS, stem=(8,), cardinality=GROUPS)
    return row, assemble(row, classes=3, input_shape=(33, 35, 3)).model


# Keras writes its older format with a warning that it is one.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", mostly_in_ci([".keras", ".h5", ".weights.h5"], ".weights.h5"))
def test_a_program_with_lambda_layers_saves_what_the_grouped_network_takes(suffix: str, tmp_path: Path) -> None:
    program = _program()
    rng = np.random.default_rng(5)
    for variable in program.weights:
        value = rng.normal(0, 0.3, variable.shape)
        variable.assign(np.abs(value) + 0.5 if variable.path.endswith("moving_variance") else value)
    path = tmp_path / f"program{suffix}"
    (program.save_weights if suffix == ".weights.h5" else program.save)(path)
    pixels = rng.normal(0, 1, (3, 33, 35, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(program(pixels, training=False))
    assert np.ptp(expected, axis=0).max() > 0.01, "it tells the pictures apart"

    row, model = _ours()
    assert weights.load(model, path, row.layouts()) == creation.NAME
    ours = keras.ops.convert_to_numpy(keras.ops.softmax(model(pixels, training=False)))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_program_with_other_layers_is_refused_by_the_names_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "program.keras"
    _program().save(path)
    row, _ = _ours()
    deeper = replace(row, depths=(2, 2))
    model = assemble(deeper, classes=3, input_shape=(33, 35, 3)).model
    with pytest.raises(WeightsMismatchError, match=r"conv2d_\d+/kernel"):
        weights.load(model, path, deeper.layouts())
