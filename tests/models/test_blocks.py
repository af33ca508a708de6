"""The blocks compute what their papers write, checked against NumPy in float32."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models.blocks.convolution import conv_bn
from glimpse.models.blocks.head import pooled_classifier
from glimpse.models.blocks.residual import basic_block, shortcut
from glimpse.models.blocks.squeeze_excitation import squeeze_excitation

Floats = NDArray[np.float32]


def randomised(model: keras.Model, seed: int = 3) -> dict[str, Floats]:
    """Give every weight a random value, variances positive ones, and return them by path."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.normal(0, 0.5, variable.shape)
        variable.assign(np.abs(value) + 0.1 if variable.path.endswith("moving_variance") else value)
    return {v.path: np.asarray(v.numpy(), np.float32) for v in model.weights}


def convolved(x: Floats, kernel: Floats, stride: int) -> Floats:
    """ "same" convolution as its definition says: all of the padding that is odd lies below and to the right."""
    side = kernel.shape[0]
    n, height, width, _ = x.shape
    out_h, out_w = -(-height // stride), -(-width // stride)
    pad_h = max((out_h - 1) * stride + side - height, 0)
    pad_w = max((out_w - 1) * stride + side - width, 0)
    padded = np.pad(x, ((0, 0), (pad_h // 2, pad_h - pad_h // 2), (pad_w // 2, pad_w - pad_w // 2), (0, 0)))
    out = np.zeros((n, out_h, out_w, kernel.shape[3]), np.float32)
    for i in range(out_h):
        for j in range(out_w):
            window = padded[:, i * stride : i * stride + side, j * stride : j * stride + side]
            out[:, i, j] = np.tensordot(window, kernel, axes=3)
    return out


def conv_bn_reference(x: Floats, weights: dict[str, Floats], name: str, stride: int = 1) -> Floats:
    y = convolved(x, weights[f"{name}_conv/kernel"], stride)
    bn = {part: weights[f"{name}_bn/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")}
    return (y - bn["moving_mean"]) / np.sqrt(bn["moving_variance"] + np.float32(1e-3)) * bn["gamma"] + bn["beta"]


def se_reference(x: Floats, weights: dict[str, Floats], name: str) -> Floats:
    s = x.mean(axis=(1, 2))
    s = np.maximum(s @ weights[f"{name}_reduce/kernel"] + weights[f"{name}_reduce/bias"], 0)
    s = 1 / (1 + np.exp(-(s @ weights[f"{name}_expand/kernel"] + weights[f"{name}_expand/bias"])))
    return x * s[:, None, None, :]


def image(height: int, width: int, channels: int) -> Floats:
    return np.random.default_rng(4).normal(0, 1, (2, height, width, channels)).astype(np.float32)


def run(model: keras.Model, x: Floats) -> Floats:
    return np.asarray(model(x, training=False))


def test_squeeze_excitation_scales_each_channel_by_what_the_whole_map_holds() -> None:
    x = keras.Input((5, 7, 8))
    model = keras.Model(x, squeeze_excitation(x, ratio=4, name="se"))
    weights = randomised(model)
    pixels = image(5, 7, 8)
    assert weights["se_reduce/kernel"].shape == (8, 2)
    np.testing.assert_allclose(run(model, pixels), se_reference(pixels, weights, "se"), rtol=1e-4, atol=1e-5)


def test_squeeze_excitation_keeps_at_least_one_hidden_unit() -> None:
    x = keras.Input((4, 4, 8))
    model = keras.Model(x, squeeze_excitation(x, ratio=16, name="se"))
    assert model.get_layer("se_reduce").units == 1


def test_squeeze_excitation_refuses_a_ratio_below_one() -> None:
    with pytest.raises(ValueError, match=r"at least 1. Received: 0"):
        squeeze_excitation(keras.Input((4, 4, 8)), ratio=0, name="se")


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (1, 2)])
def test_conv_bn_is_a_convolution_then_a_normalisation_then_the_activation(kernel: int, stride: int) -> None:
    x = keras.Input((6, 7, 3))
    model = keras.Model(x, conv_bn(x, 5, kernel=kernel, stride=stride, name="c"))
    weights = randomised(model)
    pixels = image(6, 7, 3)
    expected = np.maximum(conv_bn_reference(pixels, weights, "c", stride), 0)
    np.testing.assert_allclose(run(model, pixels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("se_ratio", [None, 2])
@pytest.mark.parametrize(("channels", "stride"), [(6, 1), (4, 1), (6, 2)])
def test_residual_unit_adds_the_shortcut_to_the_transform(channels: int, stride: int, se_ratio: int | None) -> None:
    x = keras.Input((6, 6, channels))
    model = keras.Model(x, basic_block(x, 6, stride=stride, se_ratio=se_ratio, name="u"))
    weights = randomised(model)
    pixels = image(6, 6, channels)

    f = np.maximum(conv_bn_reference(pixels, weights, "u_a", stride), 0)
    f = conv_bn_reference(f, weights, "u_b")
    if se_ratio is not None:
        f = se_reference(f, weights, "u_se")
    projected = channels != 6 or stride != 1
    kept = conv_bn_reference(pixels, weights, "u_projection", stride) if projected else pixels

    np.testing.assert_allclose(run(model, pixels), np.maximum(kept + f, 0), rtol=1e-3, atol=1e-3)


def test_shortcut_is_the_input_itself_where_the_shapes_agree() -> None:
    x = keras.Input((6, 6, 4))
    assert shortcut(x, 4, stride=1, name="s") is x
    assert shortcut(x, 4, stride=2, name="s").shape == (None, 3, 3, 4)


def test_pooled_classifier_is_a_dense_layer_on_the_mean_over_positions() -> None:
    x = keras.Input((3, 4, 6))
    model = keras.Model(x, pooled_classifier(x, 5, name="head"))
    weights = randomised(model)
    pixels = image(3, 4, 6)
    expected = pixels.mean(axis=(1, 2)) @ weights["head_logits/kernel"] + weights["head_logits/bias"]
    np.testing.assert_allclose(run(model, pixels), expected, rtol=1e-4, atol=1e-5)


def test_logits_are_float32_under_mixed_precision() -> None:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        x = keras.Input((3, 3, 4))
        assert pooled_classifier(x, 5, name="head").dtype == "float32"
    finally:
        keras.config.set_dtype_policy(policy)
