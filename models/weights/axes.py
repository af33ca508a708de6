"""Transposing a tensor of a file to the order of axes that Keras uses."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray


def to_keras_order(
    tensor: NDArray[np.generic], layer: keras.Layer, variable: keras.Variable, order: str
) -> NDArray[np.generic]:
    """The tensor with its axes in the order of `variable`; unchanged where its shape does not allow that.

    It keeps its dtype: many tensors may share their data, and only those that are used are worth a copy.
    """
    value = tensor
    shape = tuple(variable.shape)
    if not variable.name.endswith("kernel") or order == "HWIO":
        return _squeezed(_gathered(value, layer), shape)
    if isinstance(layer, keras.layers.DepthwiseConv2D) and value.ndim == 4:
        # [C * multiplier, 1, H, W] or [1, H, W, C * multiplier] -> [H, W, C, multiplier]
        value = value.transpose(2, 3, 0, 1) if order == "OIHW" else value.transpose(1, 2, 3, 0)
        return value.reshape(shape) if value.size == np.prod(shape) else value
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0) if order == "OIHW" else value.transpose(1, 2, 3, 0)
        if value.shape[:3] == _flattened(layer):
            # A convolution over the whole of the maps (timm's VGG) is a dense layer behind them flattened.
            return value.reshape(-1, value.shape[-1])
    elif value.ndim == 2:
        value = value.T
        if order == "OIHW" and (maps := _flattened(layer)) and value.shape[0] == np.prod(maps):
            # PyTorch flattens a map channels first: its input unit is (c, y, x), ours (y, x, c).
            height, width, channels = maps
            value = value.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(value.shape)
    return _squeezed(value, shape)


def without_background(value: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """A classifier's tensor without its first class, where it has one class more than the network."""
    return _squeezed(value[..., 1:], shape) if value.ndim and value.shape[-1] == shape[-1] + 1 else value


def _gathered(value: NDArray[np.generic], layer: keras.Layer) -> NDArray[np.generic]:
    """A grouped convolution's kernel from the depthwise one as which Keras Applications write it.

    There each of the G * I channels has O outputs of its own, those of a group to be added up:
    [H, W, G * I, O] -> [H, W, I, G * O].
    """
    groups = layer.groups if isinstance(layer, keras.layers.Conv2D) else 1
    if groups == 1 or value.ndim != 4 or value.shape[2] != layer.kernel.shape[2] * groups:
        return value
    height, width, channels, outputs = value.shape
    split = value.reshape(height, width, groups, channels // groups, outputs)
    return split.transpose(0, 1, 3, 2, 4).reshape(height, width, channels // groups, groups * outputs)


def _squeezed(value: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """A 1x1 convolution and a dense layer hold the same matrix: [1, 1, I, O] as [I, O], and the other way round."""
    ones = (1, 1)
    if {value.ndim, len(shape)} == {2, 4} and (*ones, *value.shape)[-4:] == (*ones, *shape)[-4:]:
        return value.reshape(shape)
    return value


def _flattened(layer: keras.Layer) -> tuple[int, ...] | None:
    """(height, width, channels) of the maps that a dense layer sees flattened, None for any other."""
    if not isinstance(layer, keras.layers.Dense):
        return None
    producer = layer.input._keras_history.operation  # noqa: SLF001 - Keras has no public way back through a graph
    return tuple(producer.input.shape[1:]) if isinstance(producer, keras.layers.Flatten) else None
