"""A network whose weights are loaded next is built without drawing random ones."""

from __future__ import annotations

import threading

import keras
import numpy as np

from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.weights_to_come import weights_to_come


def test_random_weights_are_zeros_until_they_are_loaded() -> None:
    with weights_to_come():
        model = assemble(find("se_resnet20", "cifar"), classes=3, input_shape=(8, 8, 3)).model
    kernels = [weight for weight in model.weights if "kernel" in weight.path]
    assert kernels
    assert not any(np.any(weight.numpy()) for weight in kernels)


def test_what_a_file_may_lack_begins_as_ever() -> None:
    """Weights files of other makers leave out scales and statistics of a normalisation that change nothing."""
    row = find("se_resnet20", "cifar")
    with weights_to_come():
        found = assemble(row, classes=3, input_shape=(8, 8, 3)).model
    expected = assemble(row, classes=3, input_shape=(8, 8, 3)).model
    for one, other in zip(found.weights, expected.weights, strict=True):
        assert one.path.split("/")[-1] == other.path.split("/")[-1]
        if "kernel" not in one.path:
            np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_networks_that_are_built_later_begin_at_random() -> None:
    with weights_to_come():
        keras.layers.Dense(2).build((None, 3))
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    assert np.any(np.asarray(layer.kernel))


def test_networks_that_another_thread_builds_meanwhile_begin_at_random() -> None:
    layer = keras.layers.Dense(2)
    with weights_to_come():
        building = threading.Thread(target=layer.build, args=((None, 3),))
        building.start()
        building.join()
    assert np.any(np.asarray(layer.kernel))
