"""Where a network's embedding is: the numbers for an image that the last layer makes the class scores of.

The embedding is the input of the last layer with weights for the classes, a dense layer or a convolution:

- behind global average pooling (most networks here), the mean of each feature map;
- behind hidden dense layers (VGG and others), what the last of them gives;
- of a convolution whose scores are averaged over the positions (SqueezeNet), the mean of its input over the positions;
- of a dense layer that reads a flattened map, that map, flattened, unless it has more than `MOST_FEATURES` numbers.
"""

from __future__ import annotations

from typing import Any

import keras

from glimpse.models.errors import BundleError
from glimpse.models.outputs import MOST_FEATURES

_WITH_WEIGHTS = (keras.layers.Dense, keras.layers.Conv2D)
_POOLED = {4: keras.layers.GlobalAveragePooling2D, 3: keras.layers.GlobalAveragePooling1D}
_STEPS = 32  # back from the scores, at the most: an activation, a pooling and a change of shape are three


def classifier_input(model: keras.Model) -> keras.KerasTensor | None:
    """What the last layer with weights reads, ``[N, D]``, ``[N, T, D]`` or ``[N, H, W, D]``; None: it is not found.

    Maps that a convolution reads with their channels first come with these behind.

    Args:
        model: a functional network whose first output is its scores, ``[N, classes]``.
    """
    tensor = model.outputs[0]
    for _ in range(_STEPS):
        history = getattr(tensor, "_keras_history", None)  # Keras has no public way back through a graph
        if history is None or isinstance(history.operation, keras.layers.InputLayer | keras.Model):
            return None
        node = history.operation._inbound_nodes[history.node_index]  # noqa: SLF001 - the same
        if len(node.input_tensors) != 1:
            return None
        (before,) = node.input_tensors
        if isinstance(history.operation, _WITH_WEIGHTS):
            if getattr(history.operation, "data_format", "") == "channels_first" and len(before.shape) == 4:
                before = keras.layers.Permute((2, 3, 1), name="channels_behind")(before)
            size = before.shape[-1] if len(before.shape) in {2, *_POOLED} else None
            return before if size is not None and size <= MOST_FEATURES else None
        tensor = before
    return None


def size(model: keras.Model) -> int:
    """How many numbers the embedding of an image has; 0: none is found."""
    found = classifier_input(model)
    return 0 if found is None else int(found.shape[-1])


def embedding(model: keras.Model) -> keras.KerasTensor | None:
    """The embedding within a network, ``[N, D]``; None: none is found. It shares the layers of `model`."""
    found: Any = classifier_input(model)
    if found is not None and len(found.shape) in _POOLED:
        found = _POOLED[len(found.shape)](data_format="channels_last", name="embedding_pool")(found)
    return found


def inner_map(model: keras.Model, layer: str) -> keras.KerasTensor:
    """What an inner layer gives, ``[N, H, W, C]``.

    Args:
        model: a functional network.
        layer: the name of one of its layers.

    Raises:
        BundleError: the network has no such layer, or it gives no maps.
    """
    try:
        found = model.get_layer(layer).output
    except (ValueError, AttributeError) as error:  # there is none of that name, or it is called several times
        raise BundleError(
            f"The score of novelty is that of the layer {layer}, which the network does not have. Calibrate the bundle "
            "again with python -m glimpse.models calibrate."
        ) from error
    if not isinstance(found, keras.KerasTensor) or len(found.shape) != 4:
        raise BundleError(f"The score of novelty needs a layer that gives maps, and {layer} gives none.")
    return found


def statistics(maps: keras.KerasTensor) -> keras.KerasTensor:
    """Means and mean squares of the channels of maps ``[N, H, W, C]``, in float32: ``[N, 2 C]``, means first."""

    def mean(tensor: Any, name: str) -> Any:
        return keras.layers.GlobalAveragePooling2D(data_format="channels_last", dtype="float32", name=name)(tensor)

    squares = keras.layers.Multiply(dtype="float32", name="squares")([maps, maps])
    both = [mean(maps, "channel_means"), mean(squares, "channel_mean_squares")]
    return keras.layers.Concatenate(dtype="float32", name="channel_statistics")(both)


def inner_layer(model: keras.Model) -> str:
    """The last layer before the resolution is reduced for the last time: the end of the last stage but one.

    Args:
        model: a functional network.

    Returns:
        The name of a layer with an output ``[N, H, W, C]``; empty: the network has maps of one size only.
    """
    sizes = [
        (layer.name, tuple(layer.output.shape[1:3]))
        for layer in model.layers
        if isinstance(getattr(layer, "output", None), keras.KerasTensor) and len(layer.output.shape) == 4
    ]
    # Single numbers in the form of maps are no resolution: those of squeeze-and-excitation, or behind the pooling.
    maps = [(name, size) for name, size in sizes if None not in size and min(size) > 1]
    if not maps:
        return ""
    last = maps[-1][1]
    return next((name for name, size in reversed(maps) if size[0] > last[0]), "")
