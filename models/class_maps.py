"""Where in an image a network's scores come from: class activation maps (Zhou et al., arXiv:1512.04150).

Of a network that ends in global average pooling and one dense layer, the score of a class is the mean, over the
positions of the last feature map, of what that layer gives for the features at each position. These numbers are the
map of the class: exact, and made of what the network computes anyway. Networks whose last convolution gives a map for
each class, which is then averaged (SqueezeNet), have it as it is. For all others there is `server.answers.occlusion`.

The paper leaves the bias of the dense layer out; here each position has it, so that the mean of a map is the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from glimpse.models.map_rows import Head, number_of_maps

_NOTHING = (keras.layers.Dropout, keras.layers.Identity)  # in inference
_SHAPES = (keras.layers.Flatten, keras.layers.Reshape)  # of one number for each channel they change nothing, either
_STEPS = 16  # back from the scores, at the most


@dataclass(frozen=True, slots=True)
class Found:
    """The features of each position, and the layer that makes the scores of their mean."""

    features: keras.KerasTensor  # float32 [N, H, W, C]
    head: keras.layers.Layer | None  # None: the features are the maps of the classes


def find(model: keras.Model) -> Found | None:
    """The last feature map of a network that has class activation maps; None: it has none.

    Args:
        model: a functional network whose first output is its scores, ``[N, classes]``.
    """
    tensor: Any = model.outputs[0]
    classes, head = int(tensor.shape[-1]), None
    for _ in range(_STEPS):
        history = getattr(tensor, "_keras_history", None)  # Keras has no public way back through a graph
        if history is None or isinstance(history.operation, keras.layers.InputLayer | keras.Model):
            return None
        layer, node = history.operation, history.operation._inbound_nodes[history.node_index]  # noqa: SLF001 - the same
        if len(node.input_tensors) != 1:
            return None
        (before,) = node.input_tensors
        if _averages(layer, before):
            return Found(before, head) if head is not None or before.shape[-1] == classes else None
        if head is None and _is_head(layer, classes):
            head = layer
        elif not _passes(layer, before, tensor):
            return None
        tensor = before
    return None


def grid(model: keras.Model) -> tuple[int, int] | None:
    """Rows and columns of a network's class activation maps; None: it has none."""
    found = find(model)
    return None if found is None or not number_of_maps(1, *found.features.shape[1:3]) else found.features.shape[1:3]


def maps(found: Found) -> keras.KerasTensor:
    """The maps of all classes, float32 ``[N, H, W, classes]``. It shares the layers of the network."""
    return found.features if found.head is None else found.head(found.features)


def head(found: Found) -> Head:
    """The numbers that make maps of the features."""
    if found.head is None:
        return Head(None, None)
    kernel, *bias = (np.asarray(each, np.float32) for each in found.head.get_weights())
    return Head(kernel.reshape(kernel.shape[-2:]), bias[0] if bias else None)


def _averages(layer: Any, before: Any) -> bool:
    """Whether it takes the mean over all positions."""
    if len(before.shape) != 4 or None in before.shape[1:] or getattr(layer, "data_format", "") != "channels_last":
        return False
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return True
    whole = tuple(before.shape[1:3])
    return isinstance(layer, keras.layers.AveragePooling2D) and tuple(layer.pool_size) == whole


def _is_head(layer: Any, classes: int) -> bool:
    """Whether it makes the scores of one number for each channel, and could do so at each position."""
    if getattr(layer, "activation", None) is not keras.activations.linear:
        return False
    if isinstance(layer, keras.layers.Dense):
        return bool(layer.units == classes)
    return (
        type(layer) is keras.layers.Conv2D
        and layer.filters == classes
        and layer.groups == 1
        and tuple(layer.kernel_size) == (1, 1) == tuple(layer.strides)
        and layer.data_format == "channels_last"
    )


def _passes(layer: Any, before: Any, after: Any) -> bool:
    """Whether what comes behind it is what was before it, but for the shape."""
    if isinstance(layer, _NOTHING):
        return True
    if isinstance(layer, keras.layers.Activation):
        return layer.activation is keras.activations.linear
    # Of a map with several positions, flattening is no matter of the shape alone.
    ones = [side for side in before.shape[1:] if side != 1]
    return isinstance(layer, _SHAPES) and len(ones) <= 1 and [each for each in after.shape[1:] if each != 1] == ones
