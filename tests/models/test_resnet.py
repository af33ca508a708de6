"""What the options of residual networks promise, and the units of the seeds' own code."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse import models
from glimpse.models.blocks.residual import Projection, basic_block, bottleneck_block
from glimpse.models.blocks.squeeze_excitation import squeeze_excitation
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.families import resnet, resnext, senet
from glimpse.models.families.residual_layouts import LAYOUTS, Publisher
from glimpse.models.families.resnet import ResNet
from glimpse.models.spec import Convention

ROWS = (*resnet.ROWS, *resnext.ROWS, *senet.ROWS)
Floats = NDArray[np.float32]


def small(name: str, variant: str, **options: Any) -> keras.Model:
    """The row's network with two units in each of two narrow groups, on images of 32 pixels a side."""
    row = find(name, variant, options)
    assert isinstance(row, ResNet)
    widths = (64, 128) if row.cardinality > 1 else (16, 32)
    return assemble(replace(row, depths=(2, 2), widths=widths), classes=10, input_shape=(32, 32, 3)).model


def randomised(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(5)
    for variable in model.weights:
        value = rng.normal(0, 0.3, variable.shape)
        variable.assign(np.abs(value) + 0.5 if variable.path.endswith("moving_variance") else value)
    return model


def image(side: int, channels: int) -> Floats:
    return np.random.default_rng(6).standard_normal((1, side, side, channels), np.float32)


def run(model: keras.Model, x: Floats) -> Floats:
    return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)), np.float32)


def named(model: keras.Model, pattern: str) -> list[keras.Layer]:
    return [layer for layer in model.layers if re.fullmatch(pattern, layer.name)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}-{row.variant}")
def test_the_depth_in_a_name_is_the_depth_of_its_row(row: ResNet) -> None:
    depth = re.search(r"\d+", row.name)
    assert depth is not None
    # The handbook's ResNet-34 leaves out a unit of the first group.
    missing = 2 if (row.name, row.variant) == ("resnet34", "handbook") else 0
    assert row.layers == int(depth[0]) - missing


@pytest.mark.parametrize(
    ("channels", "filters", "stride", "projection", "parameters"),
    [
        (64, 64, 1, Projection(), 74_368),
        (64, 64, 1, Projection(forced=True), 78_784),
        (64, 128, 2, Projection(), 231_296),
        (64, 256, 1, Projection(forced=True), 757_504),
    ],
)
def test_a_basic_unit_with_biases_has_the_question_page_s_parameters(
    channels: int,
    filters: int,
    stride: int,
    projection: Projection,
    parameters: int,
) -> None:
    """A basic unit with biases has the parameters of the question and answer page."""
    x = keras.Input((8, 8, channels))
    y = basic_block(
        x,
        filters,
        stride=stride,
        projection=projection,
        convention=Convention(bias=True, activation="leaky_relu"),
        name="unit",
    )
    assert keras.Model(x, y).count_params() == parameters


def test_units_without_batch_norm_have_the_parameters_of_the_handbooks_snippets() -> None:
    plain = Convention(batch_norm=False)
    x = keras.Input((8, 8, 64))
    assert keras.Model(x, basic_block(x, 64, convention=plain, name="unit")).count_params() == 73_856
    x = keras.Input((8, 8, 256))
    unit = bottleneck_block(x, 256, widths=(64, 64), convention=plain, name="unit")
    assert keras.Model(x, unit).count_params() == 70_016


@pytest.mark.parametrize(("filters", "ratio", "parameters"), [(256, 16, 8464), (272, 16, 9537)])
def test_an_se_block_has_the_parameters_of_two_dense_layers(filters: int, ratio: int, parameters: int) -> None:
    x = keras.Input((4, 4, filters))
    assert keras.Model(x, squeeze_excitation(x, ratio=ratio, name="se")).count_params() == parameters


@pytest.mark.parametrize("unit", ["basic", "bottleneck", "factorized"])
def test_an_se_block_weighs_the_transform_before_it_is_added_to_the_shortcut(unit: str) -> None:
    x = keras.Input((6, 6, 16))
    y = (
        basic_block(x, 16, se_ratio=4, name="unit")
        if unit == "basic"
        else bottleneck_block(x, 16, widths=(8, 8), groups=4, factorized=unit == "factorized", se_ratio=4, name="unit")
    )
    model = randomised(keras.Model(x, y))
    pixels = image(6, 16)
    assert not np.allclose(run(model, pixels), np.maximum(pixels, 0), atol=1e-3)
    expand = model.get_layer("unit_se_expand")
    expand.kernel.assign(np.zeros(expand.kernel.shape))
    expand.bias.assign(np.full(expand.bias.shape, -100.0))  # sigmoid: every channel of the transform is shut
    np.testing.assert_allclose(run(model, pixels), np.maximum(pixels, 0), atol=1e-6)


def test_a_basic_unit_s_last_activation_is_on_the_sum_the_transform_or_both() -> None:
    pixels = image(6, 8)
    outputs = {}
    for activated in ("sum", "transform", "both"):
        x = keras.Input((6, 6, 8))
        model = randomised(keras.Model(x, basic_block(x, 8, activated=activated, name="unit")))
        outputs[activated] = run(model, pixels)
    assert outputs["sum"].min() == 0
    assert (outputs["sum"] < np.maximum(pixels, 0) - 0.1).any()  # a negative transform was added
    assert outputs["transform"].min() < 0
    assert (outputs["transform"] >= pixels).all()  # none was
    np.testing.assert_array_equal(outputs["both"], np.maximum(outputs["transform"], 0))


def test_every_group_of_a_resnext_unit_sees_its_own_channels() -> None:
    x = keras.Input((5, 5, 16))
    unit = randomised(keras.Model(x, bottleneck_block(x, 32, widths=(16, 16), groups=4, factorized=True, name="unit")))
    inside = keras.Model(unit.get_layer("unit_a_act").output, unit.get_layer("unit_c_bn").output)
    before = image(5, 16)
    for group in range(4):
        after = before.copy()
        after[..., 4 * group : 4 * group + 4] += 1
        changed = np.abs(run(inside, after) - run(inside, before)).max(axis=(0, 1, 2)) > 1e-6
        # Eight of the 32 outputs belong to each group.
        assert changed.tolist() == [8 * group <= channel < 8 * group + 8 for channel in range(32)]


@pytest.mark.parametrize(("name", "variant"), [("resnet18", "torchvision"), ("se_resnet50", "timm")])
def test_a_leaky_relu_takes_the_place_of_every_relu(name: str, variant: str) -> None:
    model = small(name, variant, activation="leaky_relu")
    activations = named(model, ".*_act")
    assert len(activations) == len(named(small(name, variant), ".*_act")) > 8
    assert {type(layer) for layer in activations} == {keras.layers.LeakyReLU}
    # What `LeakyReLU()` is in Keras.
    assert {layer.negative_slope for layer in activations} == {0.3}
    assert not [layer for layer in model.layers if isinstance(layer, keras.layers.Activation | keras.layers.ReLU)]


def test_without_batch_norm_every_convolution_has_a_bias() -> None:
    model = small("resnet50", "torchvision", batch_norm=False)
    assert not named(model, ".*_bn")
    assert len(named(model, ".*_conv")) == 1 + 4 * 3 + 2
    assert all(layer.use_bias for layer in named(model, ".*_conv"))


def test_shortcuts_are_projected_where_shapes_differ_or_in_every_unit() -> None:
    def projections(**options: Any) -> list[str]:
        return [layer.name for layer in named(small("resnet34", "geron", **options), ".*_projection_conv")]

    assert projections() == ["group1_block1_projection_conv", "group2_block1_projection_conv"]
    assert projections(projection="forced") == [
        f"group{group}_block{unit}_projection_conv" for group in (1, 2) for unit in (1, 2)
    ]


@pytest.mark.parametrize(("option", "strides"), [("1x1", ((2, 2), (1, 1))), ("3x3", ((1, 1), (2, 2)))])
@pytest.mark.parametrize("name", ["resnet50", "resnext50"])
def test_a_bottleneck_takes_its_stride_in_the_1x1_or_in_the_3x3(
    name: str, option: str, strides: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    model = small(name, "torchvision", stride_on=option)
    assert tuple(model.get_layer(f"group2_block1_{part}_conv").strides for part in "ab") == strides
    assert model.get_layer("group2_block2_add").output.shape[1:3] == (4, 4)


def test_the_handbooks_resnet34_can_be_built_as_its_text_says() -> None:
    row = find("resnet34", "handbook")
    assert isinstance(row, ResNet)
    narrow = replace(row, depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    printed, described = assemble(narrow), assemble(replace(narrow, transition="pair"))
    assert [stage.output_shape[0] for stage in printed.stages[1:5]] == [56, 14, 4, 1]
    assert [stage.output_shape[0] for stage in described.stages[1:5]] == [56, 28, 14, 7]
    # So a count of parameters cannot tell which of them was meant.
    assert printed.model.count_params() == described.model.count_params()


def test_an_se_ratio_makes_any_residual_network_its_se_variant() -> None:
    def weights(model: keras.Model) -> dict[str, tuple[int, ...]]:
        return {variable.path: tuple(variable.shape) for variable in model.weights}

    assert weights(models.build("resnet20", se_ratio=8)) == weights(models.build("se_resnet20"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"projection": "never"}, r"projection must be one of \('shape', 'forced'\). Received: 'never'"),
        ("resnet18", {"activation": "swish"}, r"activation must be one of .*'leaky_relu'.* Received: 'swish'"),
        ("resnet18", {"stride_on": "1x1"}, r"resnet18 has no 1x1 convolution.* Leave stride_on='3x3'"),
        ("resnet50", {"factorized": True}, r"resnet50 has no groups.* Leave factorized=False"),
        ("resnet20", {"se_ratio": 0}, r"se_ratio must be a whole number from 1 on, or null. Received: 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_can(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build(name, **options)


@pytest.mark.parametrize(
    ("publisher", "ours", "theirs"),
    [
        ("keras", "stem_conv", "conv1_conv"),
        ("keras", "group1_block1_projection_bn", "conv2_block1_0_bn"),
        ("keras", "group4_block3_c_conv", "conv5_block3_3_conv"),
        ("keras", "classifier_logits", "predictions"),
        ("torchvision", "stem_bn", "bn1"),
        ("torchvision", "group2_block1_projection_conv", "layer2.0.downsample.0"),
        ("torchvision", "group3_block23_b_bn", "layer3.22.bn2"),
        ("torchvision", "classifier_logits", "fc"),
        ("timm", "group1_block2_se_reduce", "layer1.1.se.fc1"),
        ("timm_legacy", "stem_conv", "layer0.conv1"),
        ("timm_legacy", "stem_c_bn", "layer0.bn3"),
        ("timm_legacy", "group4_block1_se_expand", "layer4.0.se_module.fc2"),
        ("timm_legacy", "classifier_logits", "last_linear"),
    ],
)
def test_layers_are_called_what_their_publisher_calls_them(publisher: Publisher, ours: str, theirs: str) -> None:
    (layout,) = LAYOUTS[publisher].values()
    assert layout.rename(ours) == theirs
