"""The TensorFlow runtime: a frozen graph, whose variables are constants that its optimiser can fold."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


class TensorFlowRuntime:
    """Runs a serving model on the first GPU, or on the CPU."""

    name = "tensorflow"
    precision = "float32"

    def __init__(self, model: keras.Model) -> None:
        """Freeze `model`, uint8 ``[N, H, W, 3]`` -> float32 probabilities ``[N, classes]``."""
        self.device = "gpu:0" if tf.config.list_physical_devices("GPU") else "cpu"
        signature = tf.TensorSpec(model.input_shape, tf.uint8)

        def forward(pixels: Any) -> Any:
            return model(pixels, training=False)

        concrete = tf.function(forward, autograph=False).get_concrete_function(signature)
        self._graph = convert_variables_to_constants_v2(concrete)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities ``[N, classes]`` of uint8 pixels ``[N, H, W, 3]``."""
        # tf.constant copies, so the staging buffer is free when this returns.
        probabilities: NDArray[np.float32] = self._graph(tf.constant(pixels))[0].numpy()
        return probabilities
