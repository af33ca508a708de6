"""A saved model of the user's own: a `.keras` file with an architecture that the library need not know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras

from models.builder import Assembly
from models.complexity import multiply_adds
from models.spec import StageSummary
from models.weights.errors import WeightsError


def load(path: Path, *, input_shape: tuple[int, int, int], classes: int) -> Assembly:
    """Read a `.keras` file, in Keras' safe mode: no code in it is run.

    Args:
        path: of the file. Its model takes one image ``[N, H, W, 3]`` as floats in 0..255 behind the recipe's scaling,
            and ends in a softmax or in logits ``[N, classes]``.
        input_shape: (height, width, channels) of the images, for a model that leaves its sizes open.
        classes: how many labels there are for it.

    Returns:
        The network up to its logits, as a single stage.

    Raises:
        WeightsError: not such a file, or a model that cannot be served.
    """
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its layers do
        raise WeightsError(
            f"{path} cannot be loaded as a .keras model in safe mode: {error}. It may hold only Keras' own layers."
        ) from error
    if not getattr(model, "inputs", None):
        raise WeightsError(f"{path} must hold a functional or sequential model. Received: {type(model).__name__}")
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.inputs[0].shape) != 4:
        raise WeightsError(
            f"{path} must take one batch of images [N, H, W, 3] and give one batch of scores [N, classes]. "
            f"Received: {[tuple(x.shape) for x in model.inputs]} -> {[tuple(x.shape) for x in model.outputs]}"
        )
    model = _without_softmax(path, _sized(model, input_shape))
    shape = tuple(model.outputs[0].shape[1:])
    if shape != (classes,):
        raise WeightsError(f"{path} gives {shape} scores, its labels are {classes}. Give one label a class, in order.")
    stage = StageSummary(
        "network",
        type(model).__name__.lower(),
        1,
        shape,
        model.count_params(),
        sum(multiply_adds(layer) for layer in _leaves(model)),
    )
    return Assembly("", model, (stage,), {"network": model.outputs[0]})


def _sized(model: keras.Model, shape: tuple[int, int, int]) -> keras.Model:
    """The same network for images of one size, so that what it costs can be told."""
    if None not in model.inputs[0].shape[1:]:
        return model
    sized = keras.models.clone_model(model, input_tensors=keras.Input(shape))
    sized.set_weights(model.get_weights())
    return sized


def _without_softmax(path: Path, model: keras.Model) -> keras.Model:
    """The same network up to its logits: serving's softmax comes behind the temperature."""
    last = model.outputs[0]._keras_history.operation  # noqa: SLF001 - Keras has no public way back through a graph
    if isinstance(last, keras.layers.Softmax):
        return keras.Model(model.inputs, last.input)
    activation = getattr(last, "activation", keras.activations.linear)
    if activation is keras.activations.softmax:
        # Looked up at each call: what is called from here on is linear.
        last.activation = keras.activations.linear
    elif activation is not keras.activations.linear:
        raise WeightsError(
            f"{path} must end in a softmax or in logits. Received: {activation.__name__}, in layer {last.name!r}"
        )
    return model


def _leaves(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer
