"""Build a network whose weights are loaded next, without drawing random ones first.

Drawing them costs more than reading the right ones: on a GPU, JAX compiles a program for each shape of a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models.each_weight import each_weight

_ZEROS = (  # what begins like these begins with zeros instead
    keras.initializers.Orthogonal,
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
    keras.initializers.VarianceScaling,  # of which Glorot's and He's are kinds
    keras.initializers.Zeros,
)


@contextmanager
def weights_to_come() -> Iterator[None]:
    """Have the layers that are built inside begin with zeros where they would begin with random weights.

    Weights that begin with zeros or ones still do, for a file need not hold those of every normalisation.
    """
    with each_weight(_begins):
        yield


def _begins(layer: keras.layers.Layer, shape: Any, initializer: Any) -> Any:  # noqa: ARG001 - how hooks are called
    chosen = keras.initializers.get(initializer)
    if chosen is None or isinstance(chosen, _ZEROS):
        return _in_memory(np.zeros)
    return _in_memory(np.ones) if isinstance(chosen, keras.initializers.Ones) else initializer


def _in_memory(fill: Callable[..., NDArray[Any]]) -> Callable[..., NDArray[Any]]:
    """An initialiser that fills the host's memory, for which nothing has to be compiled."""

    def initialise(shape: tuple[int, ...], dtype: Any = None) -> NDArray[Any]:
        return fill(shape, keras.backend.standardize_dtype(dtype))

    return initialise
