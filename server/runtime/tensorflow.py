"""The TensorFlow runtime: a frozen graph on the CPU, XLA on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from glimpse.models.outputs import FEATURE_STATISTICS, INNER, Outputs
from glimpse.models.serving import by_name, without
from glimpse.server.machine import cores
from glimpse.server.runtime import OneStream, stated
from glimpse.server.runtime.precision import compute_in
from glimpse.server.runtimes import Precision
from glimpse.server.settings.kinds import PrecisionChoice


class TensorFlowRuntime(OneStream):
    """Runs a serving model on the first GPU, or on the CPU."""

    name = "tensorflow"

    def __init__(self, model: keras.Model, precision: PrecisionChoice = "auto") -> None:
        """Compile `model`, uint8 ``[N, H, W, C]`` -> its named outputs, float32.

        Args:
            model: as `models.serving` makes it; bfloat16 is set in its layers.
            precision: ``auto`` is bfloat16 on a GPU that multiplies in it, and float32 elsewhere.
        """
        limit_threads()
        gpu = _gpu()
        self.device = "gpu:0" if gpu else "cpu"
        self.precision = self.resolve(precision)
        compute_in(model, self.precision)
        self.outputs = self._named(model)
        # Those of `INNER` are the last, so that the others have the same places without them.
        self._index = {name: index for index, name in enumerate(model.output_names)}
        if gpu:
            # Else a GPU rounds the factors of every float32 product to 10 bits.
            tf.config.experimental.enable_tensor_float_32_execution(False)  # noqa: FBT003 - TensorFlow's own signature
            # What XLA computes is what is asked for: with the feature map, or statistics, only where they are.
            self._graph, self._with_inner = compiled(without(model, *INNER)), compiled(model)
        else:
            # XLA is several times slower than this on a CPU. The feature map is computed anyway, statistics are not.
            self._with_inner = self._graph = freeze(model)
            if FEATURE_STATISTICS in model.output_names:
                self._graph = freeze(without(model, *INNER))

    @classmethod
    def resolve(cls, precision: PrecisionChoice) -> Precision:
        """In which precision it computes when told `precision`: ``auto`` is the fastest that the device has."""
        if precision != "auto":
            return stated(precision, cls.name)
        gpu = _gpu()
        return "bfloat16" if gpu and _multiplies_bfloat16(gpu) else "float32"

    @classmethod
    def processor(cls) -> str:
        """What computes; on equal ones the answers are equal."""
        gpu = _gpu()
        if gpu is None:
            return super().processor()
        return str(tf.config.experimental.get_device_details(gpu).get("device_name", "gpu"))

    def _compute(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        # tf.constant copies, so the staging buffer is free when this returns.
        found = (self._with_inner if outputs & INNER else self._graph)(tf.constant(pixels))
        return {name: found[self._index[name]].numpy() for name in outputs}

    def out_of_memory(self, error: Exception) -> bool:
        """Whether `error` says that the batch does not fit."""
        return isinstance(error, tf.errors.ResourceExhaustedError) or super().out_of_memory(error)


def limit_threads() -> None:
    """Use no more threads than there are cores for this process.

    TensorFlow counts the cores that the scheduler allows, but knows of no quota.
    """
    threads = cores.available()
    # It takes the number before its first operation only; after that this process has run a network already.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def freeze(model: keras.Model) -> Any:
    """The model's graph with its variables as constants, which its optimiser can fold: pixels -> its outputs."""
    return convert_variables_to_constants_v2(trace(model))


def trace(model: keras.Model) -> Any:
    """The model's graph: pixels -> its outputs, in the order of the model's."""
    return _traceable(model).get_concrete_function()


def with_values(model: keras.Model) -> Any:
    """The model's graph with the variables' values in their place: pixels -> its outputs by name.

    A value is found where it is used; who reads a graph with variables looks through all of them for each use of one.
    """
    # On a CPU these share the memory of the variables.
    values = [(variable, tf.convert_to_tensor(variable.value)) for variable in model.variables]

    with_them = partial(keras.StatelessScope, state_mapping=values)
    return _traceable(model, with_them, named=True).get_concrete_function()


def compiled(model: keras.Model) -> Any:
    """The model by XLA, once for each batch size: pixels -> its outputs."""
    return _traceable(model, jit_compile=True)


def _traceable(
    model: keras.Model, scope: Callable[[], Any] = contextlib.nullcontext, *, named: bool = False, **options: Any
) -> Any:
    def forward(pixels: Any) -> Any:
        with scope():
            found = by_name(model, model(pixels, training=False))
        # A frozen graph gives up the names, and orders what had some by them.
        return found if named else [*found.values()]

    signature = [tf.TensorSpec(model.input_shape, tf.uint8)]
    return tf.function(forward, input_signature=signature, autograph=False, **options)


def _gpu() -> Any:
    """The first GPU; None where there is none."""
    return next(iter(tf.config.list_physical_devices("GPU")), None)


def _multiplies_bfloat16(gpu: Any) -> bool:
    """Ampere, compute capability 8.0, was the first to."""
    capability: tuple[int, int] = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
    return capability >= (8, 0)
