"""Grouped convolutions are trained as Keras computes them, only faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from glimpse.models.train.grouped import divide

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others have gradients of their own")

X = np.random.default_rng(5).normal(0, 1, (2, 5, 5, 48)).astype(np.float32)


def network(groups: int, **options: Any) -> keras.Model:
    """A grouped convolution in a model within a model, with the same weights each time."""
    keras.utils.set_random_seed(3)
    image = keras.Input((5, 5, 48))
    inner = keras.Model(image, keras.layers.Conv2D(96, 3, groups=groups, name="stage_conv", **options)(image))
    outer = keras.Input((5, 5, 48))
    return keras.Model(outer, inner(outer))


def gradients(model: keras.Model) -> tuple[Any, list[Any]]:
    """What a model makes of X, and the gradients of a loss by X and by its weights."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        x = tf.constant(X)
        tape.watch(x)
        outputs = model(x, training=True)
        loss = tf.reduce_mean(outputs**2)
    return outputs, tape.gradient(loss, [x, *(weight.value for weight in model.trainable_weights)])


@pytest.mark.parametrize(
    ("groups", "options"),
    [
        (12, {"padding": "same"}),
        (3, {"strides": 2, "padding": "same"}),
        pytest.param(48, {"strides": 2}, marks=pytest.mark.ci),
        pytest.param(2, {}, marks=pytest.mark.ci),
    ],
)
def test_outputs_and_gradients_are_those_of_keras(groups: int, options: dict[str, Any]) -> None:
    plain, divided = network(groups, **options), network(groups, **options)
    divide(divided)
    (expected, theirs), (found, ours) = gradients(plain), gradients(divided)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("divided", [False, True])
def test_only_keras_own_way_needs_a_compiler(*, divided: bool) -> None:
    """Should Keras or TensorFlow come to do without, this module can go."""
    import tensorflow as tf

    model = network(12, padding="same")
    if divided:
        divide(model)
    definition = tf.function(lambda x: model(x, training=True)).get_concrete_function(X).graph.as_graph_def()
    compiled = [each.signature.name for each in definition.library.function if "_XlaMustCompile" in each.attr]
    assert bool(compiled) != divided


def test_what_is_saved_is_a_model_of_keras(tmp_path: Path) -> None:
    model = network(12)
    divide(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(again.layers[1].get_layer("stage_conv")) is keras.layers.Conv2D
    np.testing.assert_allclose(again(X), model(X), atol=1e-5)


def test_in_bfloat16_the_kernel_is_that_of_the_policy() -> None:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = network(12)
    finally:
        keras.config.set_dtype_policy(policy)
    divide(model)
    assert model(X, training=True).dtype == "bfloat16"


@pytest.mark.parametrize(("groups", "options"), [(1, {}), (12, {"dilation_rate": 2})])
def test_other_convolutions_stay_as_they_are(groups: int, options: dict[str, Any]) -> None:
    model = network(groups, **options)
    divide(model)
    assert "convolution_op" not in vars(model.layers[1].get_layer("stage_conv"))
