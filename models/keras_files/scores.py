"""How a Keras network ends: in a softmax, in logits or in something else, and how it is taken up to its logits."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from glimpse.models.keras_files.inlined import Flat
from glimpse.models.score_kinds import SUMS

_LEAST = float(np.finfo(np.float32).tiny)  # the logarithm of 0 is not to be had
# Layers whose last step is their activation, and operations that are one.
_ACTIVATED = (
    keras.layers.Activation,
    keras.layers.Conv2D,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.SeparableConv2D,
)
# What keeps a network's last numbers as they are, and what takes their mean, which is linear.
_RESHAPING = (keras.layers.Flatten, keras.layers.Permute, keras.layers.Reshape)
_AVERAGING = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D)
_OPERATIONS = {"Sigmoid": "sigmoid", "HardSigmoid": "hard_sigmoid", "Tanh": "tanh"}


def activation(model: keras.Model) -> str:
    """What the last operation of a flat network applies; ``linear`` of a dense layer without, empty: not known.

    What only gives the numbers another shape is no operation here.
    """
    return _applied(_before(model, _RESHAPING))


def is_linear(model: keras.Model) -> bool:
    """Whether a flat network plainly ends in numbers of any size, or in means of such."""
    return _applied(_before(model, (*_RESHAPING, *_AVERAGING))) == "linear"


def _applied(last: keras.Operation) -> str:
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    if isinstance(last, _ACTIVATED):
        return str(getattr(last.activation, "__name__", "linear" if last.activation is None else ""))
    return _OPERATIONS.get(type(last).__name__, "")


def without_softmax(flat: Flat) -> keras.Model | None:
    """A network up to its logits, where a softmax over the classes is plainly the last that it does; else None.

    A layer that has it as its activation becomes linear.
    """
    model, (last, node) = flat.model, _made(flat.model.outputs[0])
    if isinstance(last, keras.layers.Softmax):
        masked = len(node.input_tensors) > 1
        return None if masked or last.axis not in (-1, 1) else keras.Model(model.inputs, node.input_tensors[0])
    # A layer that is called at another place, too, has to keep its softmax there.
    if _applied(last) != "softmax" or last.activation is not keras.activations.softmax or flat.calls[id(last)] != 1:
        return None
    # Looked up at each call: what is called from here on is linear.
    last.activation = keras.activations.linear
    return model


def without_sigmoid(flat: Flat) -> keras.Model | None:
    """A network up to its logits, where a sigmoid of each score is plainly the last that it does; else None.

    A layer that has it as its activation becomes linear.
    """
    model, (last, node) = flat.model, _made(flat.model.outputs[0])
    if type(last).__name__ == "Sigmoid" and len(node.input_tensors) == 1:
        return keras.Model(model.inputs, node.input_tensors[0], name=model.name)
    alone = isinstance(last, _ACTIVATED) and flat.calls[id(last)] == 1
    if not alone or last.activation is not keras.activations.sigmoid:
        return None
    if isinstance(last, keras.layers.Activation):
        return keras.Model(model.inputs, node.input_tensors[0], name=model.name)
    last.activation = keras.activations.linear  # looked up at each call
    return model


def log_odds(model: keras.Model) -> keras.Model:
    """A network that gives numbers from 0 to 1, each for itself, up to the logits whose sigmoids they are."""
    shares = keras.ops.cast(model.outputs[0], "float32")
    yes, no = (keras.ops.log(keras.ops.maximum(each, _LEAST)) for each in (shares, 1 - shares))
    return keras.Model(model.inputs, yes - no, name=model.name)


def logarithm(model: keras.Model) -> keras.Model:
    """A network that gives probabilities or percentages, up to their logarithms: logits whose softmax they are."""
    probabilities = keras.ops.cast(model.outputs[0], "float32")
    return keras.Model(model.inputs, keras.ops.log(keras.ops.maximum(probabilities, _LEAST)), name=model.name)


def _before(model: keras.Model, passed: tuple[type, ...]) -> keras.Operation:
    """The last operation of a flat network that is none of those."""
    last, node = _made(model.outputs[0])
    while isinstance(last, passed) and len(node.input_tensors) == 1:
        last, node = _made(node.input_tensors[0])
    return last


def _made(tensor: keras.KerasTensor) -> tuple[keras.Operation, Any]:
    """What made a tensor: the operation, and its call."""
    history = tensor._keras_history  # noqa: SLF001 - Keras has no public way back through a graph
    return history.operation, history.operation._inbound_nodes[history.node_index]  # noqa: SLF001


def half(model: keras.Model) -> str:
    """The half floats that any of the layers computes in, ``float16`` or ``bfloat16``; empty: none does."""
    for layer in model.layers:
        found = half(layer) if isinstance(layer, keras.Model) else str(layer.compute_dtype)
        if found in SUMS:
            return found
    return ""
