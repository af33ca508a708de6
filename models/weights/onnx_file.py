"""ONNX: the initializers of the graph."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.weights.dtypes import BFLOAT16, numbers, width
from models.weights.errors import WeightsError

FIRST_FIELD = b"\x08"  # of a ModelProto: ir_version

# TensorProto.DataType -> number format, and the field that holds the numbers where `raw_data` does not.
_DTYPES = {
    1: ("<f4", "float_data"),
    11: ("<f8", "double_data"),
    10: ("<f2", "int32_data"),
    16: (BFLOAT16, "int32_data"),
}
_ARGUMENTS = {6: "int32", 7: "int64", 8: "text", 9: "bool"}  # shapes, axes and their kind


def read(file: BinaryIO, path: Path) -> dict[str, NDArray[np.generic]]:
    """The floating-point initializers with at least one axis, by name.

    Raises:
        WeightsError: the package ``onnx`` is missing, the file is damaged, quantised, or keeps tensors in other files.
    """
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(f"{path} seems to be ONNX, which needs a package: pip install onnx.") from error
    try:
        graph = onnx.load_model_from_string(file.read()).graph
    except Exception as error:  # the errors of protobuf, which has a type of its own for them
        raise WeightsError(f"{path} is neither a known format nor readable as ONNX: {error}. Copy it again.") from error
    tensors: dict[str, NDArray[np.generic]] = {}
    for initializer in graph.initializer:
        if initializer.data_type in _ARGUMENTS or not initializer.dims:
            continue
        if not initializer.name or initializer.name in tensors:
            raise WeightsError(f"{path} has two initializers called {initializer.name!r}. Export the model again.")
        tensors[initializer.name] = _array(initializer, path)
    if not tensors:
        raise WeightsError(
            f"{path} has no ONNX initializers that are weights. Export the model with its parameters in the file."
        )
    return tensors


def _array(tensor: Any, path: Path) -> NDArray[np.generic]:
    named = f"{path}: initializer {tensor.name!r}"
    if tensor.data_location or tensor.external_data:
        raise WeightsError(
            f"{named} is kept in another file, which is not opened. Save the model as one file: "
            "onnx.save(onnx.load(path), path), without save_as_external_data."
        )
    if tensor.data_type not in _DTYPES:
        raise WeightsError(
            f"{named} has data type {tensor.data_type}; float32, float64, float16 and bfloat16 (1, 11, 10, 16) are "
            "read. Export the model without quantisation."
        )
    dtype, typed = _DTYPES[tensor.data_type]
    data = tensor.raw_data
    if not data:
        values = np.array(getattr(tensor, typed))
        # Sixteen bits of a number lie in an int32.
        data = (values.astype("<u2") if typed == "int32_data" else values.astype(dtype)).tobytes()
    shape = tuple(tensor.dims)
    if min(shape) < 0 or math.prod(shape) * width(dtype) != len(data):
        raise WeightsError(f"{named} has {len(data)} bytes for the shape {shape} of {dtype}. Export the model again.")
    return numbers(data, dtype).reshape(shape)
