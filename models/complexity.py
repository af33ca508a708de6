"""Multiply-adds: what one image costs in a network, before any hardware."""

from __future__ import annotations

import math

import keras


def multiply_adds(layer: keras.Layer) -> int:
    """Multiplications (each with its addition) of a convolution or dense layer for one image; 0 for other layers.

    Biases, normalisation, activations and pooling are not counted, as in the papers' own figures (He et al.,
    arXiv:1512.03385, table 1).
    """
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        # A kernel is used once at every position of the output. In a grouped convolution it already spans only its
        # group's channels; a depthwise kernel has one number for each channel and position.
        height, width = layer.output.shape[1:3]
        return int(height * width * math.prod(layer.kernel.shape))
    if isinstance(layer, keras.layers.Dense):
        return math.prod(layer.kernel.shape)
    return 0
