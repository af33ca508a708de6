"""Grouped convolutions for training on a CPU, as dense ones.

TensorFlow has no gradient of a grouped convolution for CPUs, so that Keras leaves such layers to XLA there, whose
gradient takes thirty to a hundred times as long. Here the groups of a layer are put together until they have as many
channels as a convolution computes well, and each such part is a dense convolution whose kernel is zero between its
groups. The function is the same, but for rounding.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from glimpse.models.compiling import jit_compile

# Input channels of a dense convolution, at least: with 16 and with 32 the layers of ResNeXt-50 and SENet-154 took the
# least time on a CPU with AVX2, and with 16 there are more of them to trace.
_WIDE = 32


def divide(model: keras.Model) -> None:
    """Have the grouped convolutions of a model, nested models included, computed so from now on.

    Nothing else of the model changes, neither its weights nor what is saved of it. On a GPU, and on other backends than
    TensorFlow, whose grouped convolutions have gradients, nothing is done.

    Args:
        model: whose layers are called after this, in a graph that is not traced yet.
    """
    if keras.backend.backend() != "tensorflow" or jit_compile():
        return
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            divide(layer)
        elif type(layer) is keras.layers.Conv2D and _suits(layer):
            # Not through Keras' own attributes, which are the layer's state.
            object.__setattr__(layer, "convolution_op", _Dense(layer))


def _suits(layer: keras.layers.Conv2D) -> bool:
    # TensorFlow has no gradient of a dilated convolution for CPUs either.
    return layer.groups > 1 and layer.data_format == "channels_last" and set(layer.dilation_rate) == {1}


class _Dense:
    """The convolution of one layer."""

    def __init__(self, layer: keras.layers.Conv2D) -> None:
        self._groups = layer.groups
        self._strides, self._padding = list(layer.strides), layer.padding.upper()

    def __call__(self, inputs: Any, kernel: Any) -> Any:
        """As Keras' `convolution_op`.

        Args:
            inputs: ``[N, H, W, C]``.
            kernel: ``[height, width, C / groups, filters]``.

        Returns:
            ``[N, H', W', filters]``.
        """
        import tensorflow as tf

        kernel = keras.ops.convert_to_tensor(kernel)
        channels, filters = int(kernel.shape[2]), int(kernel.shape[3]) // self._groups
        together = self._together(channels)
        parts = self._groups // together
        # Made for all parts at once: each operation costs time to trace.
        within = np.tile(np.kron(np.eye(together), np.ones((channels, filters))), parts)
        dense = tf.tile(kernel, [1, 1, together, 1]) * tf.constant(within, kernel.dtype)
        outputs = [
            tf.nn.conv2d(part, weights, self._strides, self._padding)
            for part, weights in zip(tf.split(inputs, parts, axis=-1), tf.split(dense, parts, axis=-1), strict=True)
        ]
        return tf.concat(outputs, axis=-1)

    def _together(self, channels: int) -> int:
        """How many groups of so many input channels are in each dense convolution; a divisor of their number."""
        fitting = (each for each in range(1, self._groups) if self._groups % each == 0 and each * channels >= _WIDE)
        return next(fitting, self._groups)
