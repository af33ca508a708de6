"""Graphs as OpenVINO reads them: made of TensorFlow's, written, and computed in float32 to look at what they give.

What the processes that convert and quantise need of OpenVINO; `server.runtime.openvino` serves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models.messages import short
from glimpse.models.outputs import PROBABILITIES
from glimpse.server.machine import cores
from glimpse.server.runtime import errors_as_unsupported
from glimpse.server.runtime.converted_cache import GRAPH
from glimpse.server.runtime.openvino_library import core, openvino
from glimpse.server.runtime.openvino_requests import indices
from glimpse.server.runtimes import PRECISIONS, REFERENCE


def convert(graph: Any, folder: Path) -> Path:
    """Write a graph of TensorFlow, with float32 weights, as the two files that the runtime reads; the first's path.

    Args:
        graph: a concrete function, as `server.runtime.tensorflow.with_values` makes it. OpenVINO folds its constants by
            itself: freezing it would take longer than the rest, and looking up variables a second.
        folder: for the files.

    Raises:
        UnsupportedNetworkError: OpenVINO has no counterpart for an operation of the network.
        MemoryError: there was not enough.
        OSError: the files cannot be written.
    """
    with errors_as_unsupported("openvino cannot convert this network", _reason):
        # Stated, or every dead end of the graph becomes an output: what a layer computes for training only, for
        # example. They keep the names that they have in the graph's structure.
        converted = openvino.convert_model(graph, output=[each.name for each in graph.structured_outputs.values()])
    return write(converted, folder)


def write(model: openvino.Model, folder: Path) -> Path:
    """Write a serving model as the two files that the runtime reads; the first's path.

    Raises:
        OSError: the files cannot be written.
    """
    try:
        # Half floats would be the default.
        openvino.save_model(model, folder / GRAPH, compress_to_fp16=False)
    except RuntimeError as error:  # it does not say which
        raise OSError(f"the converted network cannot be written to {folder}. Is there room? {error}") from error
    return folder / GRAPH


def errors_of_openvino(what: str) -> contextlib.AbstractContextManager[None]:
    """Whatever OpenVINO raises becomes an `UnsupportedNetworkError` that begins with `what`, or a `MemoryError`."""
    return errors_as_unsupported(what, _reason)


def compiled(model: openvino.Model | Path) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """What a serving model, or a file of one, gives in float32 for a batch, by the names of its outputs.

    Args:
        model: uint8 ``[N, H, W, C]`` -> float32 ``[N, classes]`` each.

    Raises:
        UnsupportedNetworkError: OpenVINO cannot compile it, or, when what is returned is called, compute it.
        MemoryError: there was not enough.
    """
    what = "openvino cannot compute this network"
    with errors_of_openvino(what):
        options = {"INFERENCE_PRECISION_HINT": PRECISIONS[REFERENCE].openvino_hint, **exact()}
        made = core().compile_model(model, "CPU", options)
    places = indices(made)

    def answer(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        with errors_of_openvino(what):
            found = made(pixels)
            return {name: np.array(found[place], np.float32) for name, place in places.items()}

    return answer


def probabilities(graph: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a converted network gives in float32, ``[N, classes]``; for looking at it before it is kept.

    Raises:
        UnsupportedNetworkError: OpenVINO cannot compile or compute it.
        MemoryError: there was not enough.
    """
    return compiled(graph)(pixels)[PROBABILITIES]


def exact() -> dict[str, bool]:
    """What has OpenVINO compute a quantised graph as it says, in float32, where the processor would cut off sums.

    In whole numbers probabilities moved by up to 0.08 there.
    """
    return {"LP_TRANSFORMS_MODE": False} if cores.saturates() else {}


def _reason(error: Exception) -> str:
    """The lines of a long message that name the operations which it lacks; else what it comes to."""
    lines = [line.strip("- ") for line in str(error).splitlines() if line.startswith("-- ")]
    return short(" ".join(lines) or error)
