"""Reading ONNX files: the initializers, and the graph, by which they can be identified."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models.files import regular_files
from glimpse.models.files.digests import EXTERNAL_DATA_SUFFIXES
from glimpse.models.weights import graphs, limits
from glimpse.models.weights.contents import Contents
from glimpse.models.weights.dtypes import BFLOAT16, numbers, width
from glimpse.models.weights.errors import WeightsError
from glimpse.models.weights.onnx_graph import graph_of

FIRST_FIELD = b"\x08"  # of a ModelProto: ir_version

# TensorProto.DataType -> number format, and the field that holds the numbers where `raw_data` does not.
_DTYPES = {
    1: ("<f4", "float_data"),
    11: ("<f8", "double_data"),
    10: ("<f2", "int32_data"),
    16: (BFLOAT16, "int32_data"),
}
_ARGUMENTS = {6: "int32", 7: "int64", 8: "text", 9: "bool"}  # shapes, axes and their kind
# Whole numbers that stand for others, or that say how arrays are turned.
_INTEGERS = {2: ("u1", "int32_data"), 3: ("i1", "int32_data"), 6: ("<i4", "int32_data"), 7: ("<i8", "int64_data")}
_EXTERNAL = 1  # TensorProto.DataLocation


def beside(path: Path) -> int:
    """The size of the files with external data of a model, in bytes."""
    size = 0
    for ending in EXTERNAL_DATA_SUFFIXES:
        try:
            with regular_files.open_file(path.with_name(path.name + ending)) as file:
                size += file.seek(0, 2)
        except (OSError, ValueError):
            continue
    return size


def read(data: memoryview, path: Path) -> Contents:
    """The floating-point initializers with at least one axis, by name, and the graph.

    Raises:
        WeightsError: the package ``onnx`` is missing, the file is damaged, has numbers of another kind, or keeps
            tensors in a file that is not its own.
    """
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(
            f"{path} seems to be an ONNX file; reading it needs the package onnx: pip install onnx."
        ) from error
    graph = _graph(onnx.ModelProto(), data, path)
    beside = _Beside(path, len(data))
    # What stands for other numbers is made into them where it is used.
    quantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.input}
    tensors: dict[str, NDArray[np.generic]] = {}
    constants: dict[str, NDArray[np.generic]] = {}
    for initializer in graph.initializer:
        name = initializer.name
        if not name or name in constants:
            raise WeightsError(f"{path} has two initializers called {name[:80]!r}. Export the model again.")
        if initializer.data_type in _ARGUMENTS or name in quantised or not initializer.dims:
            if initializer.data_type in _INTEGERS or initializer.data_type in _DTYPES:
                constants[name] = _array(initializer, beside, {**_DTYPES, **_INTEGERS})
            continue
        tensors[name] = constants[name] = _array(initializer, beside, _DTYPES)
    if not tensors and not quantised & constants.keys():
        raise WeightsError(
            f"{path} has no ONNX initializers that are weights. Export the model with its parameters in the file."
        )

    def value(tensor: Any) -> NDArray[np.generic] | None:
        known = {**_DTYPES, **_INTEGERS}
        return _array(tensor, beside, known) if tensor.data_type in known else None

    try:
        return Contents(tensors, graph=graph_of(graph, constants, value))
    except graphs.RepeatedError as error:
        raise WeightsError(
            f"{path} uses its tensors more often than any network does. Export the model again."
        ) from error


def _graph(model: Any, data: memoryview, path: Path) -> Any:
    """The graph of a model, checked against the limits."""
    try:
        model.ParseFromString(data)
    except MemoryError:
        raise
    except Exception as error:  # the errors of protobuf, which has a type of its own for them
        raise WeightsError(f"{path} is neither a known format nor readable as ONNX: {error}. Copy it again.") from error
    graph = model.graph
    if len(graph.initializer) > limits.TENSORS or len(graph.node) > graphs.NODES:
        raise WeightsError(
            f"{path} holds {len(graph.initializer)} initializers and {len(graph.node)} operations; {limits.TENSORS} "
            f"and {graphs.NODES} are read. No network has as many: export the model again."
        )
    return graph


class _Beside:
    """The external data of a model: a file beside it, of which only the needed parts are read."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        # Of all arrays that are made of the model's bytes and the file's beside it.
        self.budget = limits.Budget(size + beside(path))
        self._left: int | None = None  # bytes that tensors may still have: several may claim the same part

    def read(self, named: str, keys: Mapping[str, str]) -> bytes:
        """The external data of a tensor.

        Raises:
            WeightsError: the model refers to another file, or beyond the end of this one.
        """
        location = keys.get("location", "")
        place = self.path.parent / location
        if location not in {self.path.name + ending for ending in EXTERNAL_DATA_SUFFIXES}:
            raise WeightsError(
                f"{named} is kept in another file, which is not opened: {location[:80]!r}. It must lie beside the "
                f"model as {self.path.name}{EXTERNAL_DATA_SUFFIXES[0]}; or save it as one file: "
                "onnx.save(onnx.load(path), path)."
            )
        try:
            offset, length = int(keys.get("offset", "0")), int(keys.get("length", "-1"))
        except ValueError as error:
            raise WeightsError(f"{named} has a place in {place} that is no number. Export the model again.") from error
        try:
            with regular_files.open_file(place) as file:
                size = file.seek(0, 2)
                self._left = size if self._left is None else self._left
                length = size - offset if "length" not in keys else length
                file.seek(min(max(offset, 0), size))
                fits = 0 <= offset <= size and 0 <= length <= min(size - offset, self._left)
                data = file.read(length) if fits else None
        except regular_files.NotARegularFileError as error:
            raise WeightsError(f"{named} is kept in another file, which is none: {error}") from error
        except (OSError, ValueError) as error:  # ValueError: of a name with a zero in it
            reason = getattr(error, "strerror", None) or error
            raise WeightsError(
                f"{named} is kept in {place}, which cannot be read: {reason}. Copy that file, too."
            ) from error
        if data is None:
            raise WeightsError(f"{named} claims more than {place} holds. Copy both files again.")
        self._left -= len(data)
        return data


def _array(tensor: Any, beside: _Beside, known: Mapping[int, tuple[str, str]]) -> NDArray[np.generic]:
    named = f"{beside.path}: initializer {tensor.name[:80]!r}"
    if tensor.data_type not in known:
        raise WeightsError(
            f"{named} has data type {tensor.data_type}; float32, float64, float16 and bfloat16 (1, 11, 10, 16) are "
            "read, and whole numbers behind a DequantizeLinear. Export the model without quantisation."
        )
    dtype, typed = known[tensor.data_type]
    shape = tuple(tensor.dims) if len(tensor.dims) <= limits.AXES else ()
    count = limits.count(shape) if min(shape, default=0) >= 0 else -1
    if len(tensor.dims) > limits.AXES:
        raise WeightsError(f"{named} has {len(tensor.dims)} axes. Export the model again.")
    if tensor.data_location == _EXTERNAL or tensor.external_data:
        data = beside.read(named, {entry.key: entry.value for entry in tensor.external_data})
    else:
        data = tensor.raw_data
    if not data:
        field = getattr(tensor, typed)
        values = np.array(field) if len(field) == count else np.empty(0)
        # Sixteen bits of a number lie in an int32.
        half = dtype in {BFLOAT16, "<f2"}
        data = (values.astype("<u2") if half else values.astype(dtype)).tobytes()
    if count * width(dtype) != len(data):
        raise WeightsError(f"{named} has {len(data)} bytes for the shape {shape} of {dtype}. Export the model again.")
    # What is half a float32 in the file becomes a whole one.
    beside.budget.spend(count * max(4, width(dtype)))
    return numbers(data, dtype).reshape(shape)
