"""The fused batch normalisation of training is Keras' own, only faster."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from glimpse.models.train.fused import fuse

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the kernel is TensorFlow's")

X = np.random.default_rng(5).normal(3, 2, (8, 6, 6, 4)).astype(np.float32)


def network() -> keras.Model:
    image = keras.Input((6, 6, 4))
    inner = keras.Model(image, keras.layers.BatchNormalization(name="stem_bn")(image))
    outer = keras.Input((6, 6, 4))
    return keras.Model(outer, inner(outer))


def test_a_training_step_gives_the_same_output_and_the_same_mean() -> None:
    plain, fused = network(), network()
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


def test_the_moving_statistics_are_right_after_few_steps() -> None:
    fused = network()
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
