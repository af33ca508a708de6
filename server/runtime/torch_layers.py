"""Layers as PyTorch is to compute them once nothing learns any more: batch normalisation is part of the convolution.

Keras computes a batch normalisation in float32 with three passes over all activations and casts before and behind them:
on a GPU that takes longer than the convolutions. At inference it is y = scale * x + offset for each channel, with
scale = gamma / sqrt(variance + epsilon) and offset = beta - mean * scale (Ioffe and Szegedy, arXiv:1502.03167, section
3.1, algorithm 2), and a convolution before it takes the scale into its kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import torch

from glimpse.server.runtime.precision import all_layers

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


@contextmanager
def for_inference(model: keras.Model) -> Iterator[int]:
    """Let the layers of `model` compute like that inside, which is for recording them; their variables do not change.

    Gives the number of batch normalisations that became part of the convolution before them. The others are computed
    in one pass, in the numbers that the layer computes in. The answers are those of the layers, but for rounding.
    """
    changed: list[keras.layers.Layer] = []

    def compute(layer: keras.layers.Layer, call: Callable[..., Any]) -> None:
        layer.call = call
        changed.append(layer)

    folded = _foldable(model)
    try:
        for normalisation in all_layers(model):
            if not _plain(normalisation):
                continue
            scale, offset = _scale_and_offset(normalisation)
            if (convolution := folded.get(id(normalisation))) is not None:
                compute(convolution, _folded(convolution, scale, offset))
                compute(normalisation, _identity)
            else:
                compute(normalisation, _affine(normalisation, scale, offset))
        yield len(folded)
    finally:
        for layer in changed:
            del layer.call


def _foldable(model: keras.Model) -> dict[int, Any]:
    """The convolutions that nothing but a batch normalisation behind them reads, by the id of that normalisation."""
    found: dict[int, Any] = {}
    for network in all_layers(model):
        by_depth = getattr(network, "_nodes_by_depth", {})  # of a functional model
        if not by_depth:
            continue
        nodes = [node for level in by_depth.values() for node in level]
        calls = Counter(id(node.operation) for node in nodes)
        reads = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
        reads.update(id(tensor) for tensor in keras.tree.flatten(network.outputs))
        made = {id(tensor): node.operation for node in nodes for tensor in node.output_tensors}
        for node in nodes:
            if not _plain(node.operation) or len(node.input_tensors) != 1:
                continue
            read = node.input_tensors[0]
            before: Any = made.get(id(read))
            once = calls[id(node.operation)] == calls[id(before)] == reads[id(read)] == 1
            if once and type(before) in _CONVOLUTIONS and before.activation is keras.activations.linear:
                found[id(node.operation)] = before
    return found


def _plain(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a batch normalisation over the channels, which come last."""
    return type(layer) is keras.layers.BatchNormalization and layer.axis in (-1, 3)


def _scale_and_offset(layer: keras.layers.BatchNormalization) -> tuple[torch.Tensor, torch.Tensor]:
    """What a batch normalisation multiplies each channel by and adds to it: float32 ``[C]`` each."""
    scale = (_value(layer.moving_variance) + layer.epsilon).rsqrt()
    if layer.scale:
        scale = scale * _value(layer.gamma)
    offset = -_value(layer.moving_mean) * scale
    return scale, offset + _value(layer.beta) if layer.center else offset


def _folded(layer: Any, scale: torch.Tensor, offset: torch.Tensor) -> Callable[..., Any]:
    """A convolution and the batch normalisation behind it as a convolution with a bias."""
    numbers = _numbers(layer)
    kernel = _value(layer.kernel)  # [H, W, C, filters], or [H, W, C, multiplier] of a depthwise one
    if layer.use_bias:
        offset = offset + _value(layer.bias) * scale
    bias = offset.to(numbers)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        weights = (kernel * scale.reshape(kernel.shape[-2:])).to(numbers)
        convolve = _depthwise(layer)
    else:
        # In memory as PyTorch's channels_last wants it, [filters, H, W, C]; else each batch would copy it first.
        weights = (kernel * scale).to(numbers).permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
        convolve = layer.convolution_op

    def call(inputs: Any) -> Any:
        return convolve(inputs, weights).add_(bias)

    return call


def _depthwise(layer: keras.layers.DepthwiseConv2D) -> Callable[[Any, Any], Any]:
    def convolve(inputs: Any, kernel: Any) -> Any:
        return keras.ops.depthwise_conv(
            inputs,
            kernel,
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )

    return convolve


def _affine(layer: keras.layers.Layer, scale: torch.Tensor, offset: torch.Tensor) -> Callable[..., Any]:
    numbers = _numbers(layer)
    scale, offset = scale.to(numbers), offset.to(numbers)

    def call(inputs: Any, **_: Any) -> Any:
        return torch.addcmul(offset, inputs, scale)

    return call


def _identity(inputs: Any, **_: Any) -> Any:
    return inputs


def _value(variable: Any) -> torch.Tensor:
    return variable.value.detach().to(torch.float32)


def _numbers(layer: keras.layers.Layer) -> torch.dtype:
    found: torch.dtype = getattr(torch, layer.compute_dtype)
    return found
