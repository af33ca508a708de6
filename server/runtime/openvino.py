"""The OpenVINO runtime: TensorFlow's graph, converted when the server starts, on a CPU."""

from __future__ import annotations

import sys
import threading

import keras
import numpy as np
from numpy.typing import NDArray

from server import cores
from server.runtime import UnsupportedNetworkError
from server.runtime.tensorflow import limit_threads, trace
from server.settings import Precision

# Merely importing openvino reports to Google Analytics, and so does each conversion, unless the user of the account has
# opted out. A server tells nobody: without this package openvino reports nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is Python's word for "not there"

import openvino  # noqa: E402 - not before the line above


class OpenVINORuntime:
    """Runs a serving model on the CPU; Keras builds it on TensorFlow."""

    name = "openvino"
    device = "cpu"

    def __init__(self, model: keras.Model, precision: Precision = "auto") -> None:
        """Convert and compile `model`, uint8 ``[N, H, W, 3]`` -> float32 probabilities ``[N, classes]``.

        Args:
            model: as `models.serving` makes it.
            precision: ``auto`` is bfloat16 where the processor has instructions for it, else float32.

        Raises:
            ValueError: bfloat16 is asked for, and the processor does not have it.
            UnsupportedNetworkError: OpenVINO has no counterpart for an operation of the network.
        """
        limit_threads()
        core = openvino.Core()
        has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and not has_bfloat16:
            raise ValueError(
                f"This processor ({core.get_property('CPU', 'FULL_DEVICE_NAME').strip()}) cannot compute in bfloat16 "
                "with openvino. Set GLIMPSE_PRECISION to auto or float32."
            )
        half = has_bfloat16 and precision != "float32"
        self.precision = "bfloat16" if half else "float32"
        options = {
            # Left to itself, OpenVINO takes bfloat16 where it can, and tells nobody.
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            # One stream, all cores for one batch: the batcher computes one at a time.
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": cores.available(),
            # Decoding and gRPC run on the same cores. A thread that is pinned beside them waits; another one moves.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            # A copy of the weights, so that TensorFlow's can go. OpenVINO folds constants by itself, and freezing the
            # graph for it would take longer than the rest of the conversion.
            converted = openvino.convert_model(trace(model), share_weights=False)
            self._request = core.compile_model(converted, "CPU", options).create_infer_request()
        except Exception as error:  # what it raises depends on which of its parts refuses
            raise UnsupportedNetworkError(f"openvino cannot compute this network. {_reason(error)}") from error
        self._one_at_a_time = threading.Lock()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities ``[N, classes]`` of uint8 pixels ``[N, H, W, 3]``."""
        with self._one_at_a_time:
            self._request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(pixels), shared_memory=True))
            self._request.infer()
            # A copy, for the request writes its next answer to the same place.
            return self._request.get_output_tensor().data.copy()


def _reason(error: Exception) -> str:
    """The lines of a long message that name the operations which it lacks; else the message."""
    lines = [line.strip("- ") for line in str(error).splitlines() if line.startswith("-- ")]
    return " ".join(lines) or str(error)
