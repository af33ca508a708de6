"""What the handbook's layers do otherwise than the papers', as options of blocks and networks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse import models
from glimpse.models import inception_spec
from glimpse.models.blocks.convolution import conv_bn
from glimpse.models.blocks.fire import fire
from glimpse.models.blocks.head import dense_layers
from glimpse.models.blocks.inception import chain, inception
from glimpse.models.blocks.residual import bottleneck_block
from glimpse.models.catalogue import find, rows
from glimpse.models.spec import PLAIN, Activated, Convention, Normalised

Floats = NDArray[np.float32]


def randomised(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(3)
    for variable in model.weights:
        value = rng.normal(0, 0.5, variable.shape)
        variable.assign(np.abs(value) + 0.1 if variable.path.endswith("moving_variance") else value)
    return model


def image(*shape: int) -> Floats:
    return np.random.default_rng(4).normal(0, 1, (2, *shape)).astype(np.float32)


def run(model: keras.Model, x: Floats, layer: str | None = None) -> Floats:
    if layer is not None:
        model = keras.Model(model.input, model.get_layer(layer).output)
    return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)))


def relu(x: Floats) -> Floats:
    return np.maximum(x, 0)


def normalised(model: keras.Model, layer: str, x: Floats) -> Floats:
    norm = model.get_layer(layer)
    gamma, beta, mean, variance = (np.asarray(keras.ops.convert_to_numpy(v)) for v in norm.weights)
    return (x - mean) / np.sqrt(variance + np.float32(norm.epsilon)) * gamma + beta


@pytest.mark.parametrize("squeeze", [2, 3])
def test_a_fire_module_with_a_bypass_adds_its_input_where_the_channels_agree(squeeze: int) -> None:
    x = keras.Input((5, 7, 16))
    model = randomised(keras.Model(x, fire(x, squeeze, bypass=True, convention=PLAIN, name="fire")))
    pixels = image(5, 7, 16)
    transformed = run(model, pixels, "fire_concat")
    expected = transformed + pixels if squeeze == 2 else transformed
    np.testing.assert_allclose(run(model, pixels), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_identity_links_are_around_the_modules_of_the_paper_and_have_no_weights(name: str) -> None:
    """Around fire modules 3, 5, 7 and 9 (section 6, figure 2)."""
    linked, plain = models.build(name, bypass=True), models.build(name)
    added = [layer.name.split("_")[1] for layer in linked.layers if isinstance(layer, keras.layers.Add)]
    assert added == ["fire3", "fire5", "fire7", "fire9"]
    assert [v.path for v in linked.weights] == [v.path for v in plain.weights]


@pytest.mark.parametrize("activated", ["sum", "transform", "both"])
def test_a_bottleneck_s_last_activation_is_on_the_sum_the_transform_or_both(activated: Activated) -> None:
    x = keras.Input((6, 6, 16))
    unit = bottleneck_block(x, 16, widths=(4, 4), activated=activated, convention=PLAIN, name="unit")
    model = randomised(keras.Model(x, unit))
    pixels = image(6, 6, 16)
    f = run(model, pixels, "unit_c_conv")
    expected = {
        "sum": relu(pixels + f),
        "transform": pixels + relu(f),
        "both": relu(pixels + relu(f)),
    }[activated]
    np.testing.assert_allclose(run(model, pixels), expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_may_stand_behind_the_activation_of_a_convolution() -> None:
    x = keras.Input((5, 7, 3))
    model = randomised(keras.Model(x, conv_bn(x, 4, kernel=3, convention=PLAIN.normalised("after"), name="one")))
    pixels = image(5, 7, 3)
    expected = normalised(model, "one_bn", relu(run(model, pixels, "one_conv")))
    np.testing.assert_allclose(run(model, pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["none", "before", "after"])
def test_batch_norm_may_stand_before_or_behind_the_activation_of_a_dense_layer(where: Normalised) -> None:
    x = keras.Input((6,))
    model = randomised(keras.Model(x, dense_layers(x, [5], convention=PLAIN.normalised(where), name="one")))
    values = image(6)
    z = run(model, values, "one_fc1")
    expected = (
        relu(z)
        if where == "none"
        else normalised(model, "one_fc1_bn", relu(z))
        if where == "after"
        else relu(normalised(model, "one_fc1_bn", z))
    )
    np.testing.assert_allclose(run(model, values), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "layers"), [("basic_cnn", 2), ("mnist_dnn", 2), ("vgg16", 15)])
def test_networks_without_batch_norm_may_have_one_of_every_hidden_layer(name: str, layers: int) -> None:
    row = find(name, "handbook", {"batch_norm": "after"})
    with keras.StatelessScope():
        model = models.build(name, variant="handbook", batch_norm="after", classes=2, input_shape=_small(row.shape))
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == layers
    for norm in norms:
        before = norm.input._keras_history.operation
        assert isinstance(before, keras.layers.Activation), norm.name


def _small(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return min(shape[0], 32), min(shape[1], 32), shape[2]


@pytest.mark.parametrize("table", ["naive", "v1", "v2"])
def test_a_module_as_printed_is_linear_and_puts_the_pool_first(table: str) -> None:
    make = getattr(inception_spec, table)
    x = keras.Input((6, 6, 8))
    ours = randomised(
        keras.Model(x, inception(x, make(pool_first=True), convention=inception_spec.AS_PRINTED, name="group1"))
    )
    pixels = image(6, 6, 8)
    whole = run(ours, pixels)
    assert not any(isinstance(layer, keras.layers.Activation) for layer in ours.layers)
    pool = "group1_pool_pool" if table == "naive" else "group1_pool_2_conv"
    first = run(ours, pixels, pool)
    np.testing.assert_array_equal(whole[..., : first.shape[-1]], first)
    np.testing.assert_array_equal(whole[..., first.shape[-1] :][..., :64], run(ours, pixels, "group1_1x1_conv"))


@pytest.mark.parametrize(("name", "stem"), [("inception_v3", "handbook"), ("inception_v4", "handbook_as_coded")])
def test_the_activation_of_an_inception_stem_is_an_option(name: str, stem: str) -> None:
    shape = (75, 75, 3)
    with keras.StatelessScope():  # draws no weights, which nobody looks at
        built = {
            activation: models.build(name, input_shape=shape, classes=2, stem=stem, stem_activation=activation)
            for activation in ("relu", "linear")
        }
    activated = {
        activation: [
            layer.name
            for layer in network.layers
            if layer.name.startswith("stem") and isinstance(layer, keras.layers.Activation)
        ]
        for activation, network in built.items()
    }
    assert len(activated["relu"]) >= 6
    assert activated["linear"] == []


def test_a_stem_as_printed_has_the_weights_of_the_activated_one() -> None:
    def paths(convention: Convention) -> list[str]:
        x = keras.Input((33, 33, 3))
        model = keras.Model(x, chain(x, inception_spec.HANDBOOK_V3_STEM, convention=convention, name="stem"))
        return [variable.path for variable in model.weights]

    assert paths(inception_spec.AS_PRINTED) == paths(Convention(batch_norm=False))


def test_with_the_sigmoid_ending_probabilities_are_sigmoids_over_their_sum() -> None:
    """With the sigmoid ending, the probabilities are sigmoids divided by their sum."""
    model = randomised(models.build("mnist_dnn", ending="sigmoid"))
    pixels = image(28, 28, 1) / np.float32(50)
    sigmoids = 1 / (1 + np.exp(-run(model, pixels, "classifier_logits").astype(np.float64)))
    logits = run(model, pixels)
    np.testing.assert_allclose(np.exp(logits), sigmoids, rtol=1e-4)
    served = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    np.testing.assert_allclose(served, sigmoids / sigmoids.sum(axis=1, keepdims=True), rtol=1e-4)


_SEEDS = [row for row in rows() if row.variant in {"handbook", "geron"}]


@pytest.mark.ci
@pytest.mark.parametrize("row", _SEEDS, ids=[f"{row.name}-{row.variant}" for row in _SEEDS])
def test_kernels_of_the_handbooks_and_the_books_rows_are_drawn_as_theirs(row: Any) -> None:
    """Glorot's uniform: where they name none it is Keras' default. The modules behind a stem are not theirs."""
    with keras.StatelessScope():
        model = models.build(row.name, variant=row.variant, classes=2, input_shape=_small_for(row))
    drawn = {
        layer.name: layer.depthwise_initializer
        if isinstance(layer, keras.layers.DepthwiseConv2D)
        else layer.kernel_initializer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D | keras.layers.Dense)
        and (layer.name.startswith("stem") or not row.name.startswith("inception"))
        and getattr(layer, "groups", 1) == 1
    }
    assert {name: type(one).__name__ for name, one in drawn.items()} == dict.fromkeys(drawn, "GlorotUniform")


def _small_for(row: Any) -> tuple[int, int, int]:
    return (75, 75, 3) if row.name.startswith(("inception", "xception", "densenet")) else _small(row.shape)


def test_a_grouped_kernel_is_drawn_as_the_separate_convolutions_it_stands_for() -> None:
    glorot = Convention(initializer="glorot_uniform")
    x = keras.Input((4, 4, 64))
    grouped = keras.Model(x, conv_bn(x, 64, kernel=3, groups=16, convention=glorot, name="one"))
    kernel = keras.ops.convert_to_numpy(grouped.get_layer("one_conv").kernel)
    limit = np.sqrt(6 / (9 * 4 + 9 * 4))  # of a convolution from 4 channels to 4
    assert 0.97 * limit < np.abs(kernel).max() <= limit


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("vgg16", "batch_norm"),
        ("mnist_dnn", "batch_norm"),
        ("mnist_dnn", "ending"),
        ("basic_cnn", "batch_norm"),
        ("resnet50", "activated"),
        ("inception_v3", "stem_activation"),
        ("inception_v4", "stem_activation"),
    ],
)
def test_a_choice_that_nobody_offers_is_refused_with_those_there_are(name: str, option: str) -> None:
    with pytest.raises(ValueError, match=r"one of \(.*\)\. Received: 'everywhere'"):
        find(name, None, {option: "everywhere"})
