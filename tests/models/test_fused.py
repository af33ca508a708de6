"""The fused batch normalisation of training is Keras' own, only faster."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from glimpse.models.train.fused import fuse

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the kernel is TensorFlow's")

X = np.random.default_rng(5).normal(3, 2, (8, 6, 6, 4)).astype(np.float32)


def network(*, scale: bool = True, center: bool = True) -> keras.Model:
    image = keras.Input((6, 6, 4))
    norm = keras.layers.BatchNormalization(scale=scale, center=center, name="stem_bn")
    inner = keras.Model(image, norm(image))
    outer = keras.Input((6, 6, 4))
    return keras.Model(outer, inner(outer))


@pytest.mark.parametrize(("scale", "center"), [(True, True), (False, True), (True, False), (False, False)])
def test_a_training_step_gives_the_same_output_and_the_same_mean(*, scale: bool, center: bool) -> None:
    plain, fused = network(scale=scale, center=center), network(scale=scale, center=center)
    fuse(fused)
    assert np.allclose(plain(X, training=True), fused(X, training=True), atol=1e-5)
    mean, variance = (np.asarray(weight.value) for weight in plain.non_trainable_weights)
    fused_mean, fused_variance = (np.asarray(weight.value) for weight in fused.non_trainable_weights)
    assert np.allclose(mean, fused_mean, atol=1e-6)
    n = 8 * 6 * 6
    unbiased = 0.99 + (variance - 0.99) * n / (n - 1)
    assert np.allclose(unbiased, fused_variance, atol=1e-5)


def test_outside_training_nothing_differs() -> None:
    plain, fused = network(), network()
    fuse(fused)
    assert np.array_equal(plain(X, training=False), fused(X, training=False))


def test_checkpoints_pass_from_one_to_the_other(tmp_path: Path) -> None:
    plain, fused = network(), network()
    fuse(fused)
    fused(X, training=True)
    fused.save_weights(tmp_path / "checkpoint.weights.h5")
    plain.load_weights(tmp_path / "checkpoint.weights.h5")
    for ours, theirs in zip(plain.weights, fused.weights, strict=True):
        assert np.array_equal(np.asarray(ours.value), np.asarray(theirs.value))


@pytest.mark.parametrize("scale", [True, False])
def test_the_moving_statistics_are_right_after_few_steps(*, scale: bool) -> None:
    fused = network(scale=scale)
    optimizer = keras.optimizers.SGD(0.0)
    fuse(fused, optimizer.iterations)
    model = keras.Sequential([fused, keras.layers.GlobalAveragePooling2D()])
    model.compile(optimizer, "mse")
    paths = [weight.path for weight in fused.weights]
    model.fit(np.tile(X, (20, 1, 1, 1)), np.zeros((160, 4)), batch_size=8, verbose=0)
    mean, variance = (np.asarray(weight.value) for weight in fused.non_trainable_weights)
    assert np.allclose(mean, X.mean(axis=(0, 1, 2)), rtol=0.05)
    assert np.allclose(variance, X.var(axis=(0, 1, 2)), rtol=0.1)
    assert [weight.path for weight in fused.weights] == paths


def test_a_frozen_normalisation_keeps_its_statistics() -> None:
    fused = network()
    fuse(fused)
    fused.trainable = False
    before = [np.asarray(weight.value) for weight in fused.weights]
    fused(X, training=True)
    assert all(np.array_equal(old, new) for old, new in zip(before, fused.get_weights(), strict=True))


def dense() -> keras.Model:
    """There is no fused kernel for ``[N, C]``, and none on other backends."""
    features = keras.Input((4,))
    return keras.Model(features, keras.layers.BatchNormalization()(features))


@pytest.mark.parametrize(("total", "expected"), [(20, 0.7), (890, 0.99), (10_000, 0.99)])
def test_without_the_kernel_the_momentum_suits_the_run(total: int, expected: float) -> None:
    model = dense()
    fuse(model, total=total)
    assert model.layers[1].momentum == pytest.approx(expected)


def test_without_the_kernel_the_statistics_are_right_after_few_steps() -> None:
    model, x = dense(), X[:, 0, 0]
    fuse(model, total=20)
    model.compile("sgd", "mse")
    model.fit(np.tile(x, (20, 1)), np.zeros((160, 4)), batch_size=8, shuffle=False, verbose=0)
    mean, variance = (np.asarray(weight.value) for weight in model.non_trainable_weights)
    assert np.allclose(mean, x.mean(axis=0), rtol=0.05)
    assert np.allclose(variance, x.var(axis=0), rtol=0.05)
