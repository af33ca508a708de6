"""In which numbers a Keras network computes; OpenVINO chooses by itself and is told in its own file."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from glimpse.server.runtimes import PRECISIONS, REFERENCE, Precision

_REDUCED = {row.keras_policy for row in PRECISIONS.values() if row.name != REFERENCE}


def compute_in(model: keras.Model, precision: Precision) -> None:
    """Let the network inside a serving model compute in `precision`, whatever it was tried in before.

    Its weights stay float32 and are rounded as they are used. So do the pre-stem's scaling and the softmax, which
    stand beside the network in the serving model: they cost little, and the probabilities keep their digits.
    """
    for network in model.layers:
        if isinstance(network, keras.Model):
            for layer in all_layers(network):
                if isinstance(layer, keras.Model):
                    continue
                # In the reference only what was tried in another before; what else a model's maker chose stays.
                if precision != REFERENCE or layer.dtype_policy.name in _REDUCED:
                    layer.dtype_policy = PRECISIONS[precision].keras_policy


def all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """A model and all layers of it and of the models within it."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)
        else:
            yield layer
