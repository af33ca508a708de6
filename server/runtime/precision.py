"""In which numbers a Keras network computes; OpenVINO chooses by itself and is told in its own file."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from glimpse.server.settings.kinds import Precision


def compute_in(model: keras.Model, precision: Precision) -> None:
    """Let the network inside a serving model compute in bfloat16, where `precision` is that, and else no longer.

    Its weights stay float32 and are rounded as they are used. So do the pre-stem's scaling and the softmax, which
    stand beside the network in the serving model: they cost little, and the probabilities keep their digits.
    """
    for network in model.layers:
        if isinstance(network, keras.Model):
            for layer in _leaves(network):
                if precision == "bfloat16":
                    layer.dtype_policy = "mixed_bfloat16"
                elif layer.dtype_policy.name == "mixed_bfloat16":  # it was tried before
                    layer.dtype_policy = "float32"


def _leaves(network: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer
