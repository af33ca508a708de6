"""Multiply-adds: what one image costs in a network, before any hardware."""

from __future__ import annotations

import math

import keras

# Biases, normalisation, activations and pooling are not counted, as in the papers' own figures (He et al.,
# arXiv:1512.03385, table 1).
_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)


def multiply_adds(layer: keras.Layer, output_shape: tuple[int | None, ...] | None = None) -> int:
    """Multiplications (each with its addition) of a convolution or dense layer for one image; 0 for other layers.

    Args:
        layer: that has been called.
        output_shape: what it puts out at the place that is asked about, ``[N, ...]``; None: at its only place.

    Returns:
        The number; 0 also where the size of the output is known only once there is an image.
    """
    if isinstance(layer, _CONVOLUTIONS):
        shape = layer.output.shape if output_shape is None else output_shape
        height, width = shape[2:4] if layer.data_format == "channels_first" else shape[1:3]
        if height is None or width is None:
            return 0
        # A kernel is used once at every position of the output. In a grouped convolution it already spans only its
        # group's channels; a depthwise kernel has one number for each channel and position.
        separable = isinstance(layer, keras.layers.SeparableConv2D)
        kernels = [layer.depthwise_kernel, layer.pointwise_kernel] if separable else [layer.kernel]
        return int(height * width * sum(math.prod(kernel.shape) for kernel in kernels))
    if isinstance(layer, keras.layers.Dense):
        return math.prod(layer.kernel.shape)
    return 0
