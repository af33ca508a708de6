"""Reading TFLite files: the constant tensors of a model, and its graph, by which they can be identified.

Quantised tensors are dequantised: scale * (q - zero point), with one scale or one for each output of a kernel. The file
is a FlatBuffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models.weights import limits
from glimpse.models.weights.contents import Contents
from glimpse.models.weights.dtypes import BFLOAT16, numbers, width
from glimpse.models.weights.errors import WeightsError
from glimpse.models.weights.flatbuffer import Buffer, DamagedError, Table
from glimpse.models.weights.graphs import Graph, RepeatedError
from glimpse.models.weights.tflite_graph import Operation, graph_of

MAGIC = b"TFL3"  # at byte 4

Array = NDArray[Any]

# TensorType -> number format.
_FLOATS = {0: "<f4", 1: "<f2", 10: "<f8", 18: BFLOAT16}
_QUANTISED = {2: "<i4", 3: "u1", 4: "<i8", 7: "<i2", 9: "i1"}  # where the tensor says what they stand for
_ARGUMENTS = {
    2: "int32",
    4: "int64",
    5: "text",
    6: "bool",
    12: "uint64",
    15: "uint32",
}  # shapes, paddings and their kind

# Numbers of fields in their tables, from TFLite's schema.
_MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_CODE_OLD, _CODE = 0, 3  # the first is a byte, which is 127 where that does not do
_SUBGRAPH_TENSORS, _SUBGRAPH_OUTPUTS, _SUBGRAPH_OPERATORS = 0, 2, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_QUANTISATION, _TENSOR_SPARSITY = 0, 1, 2, 3, 4, 6
_QUANTISATION_SCALE, _QUANTISATION_ZERO, _QUANTISATION_AXIS = 2, 3, 6
_BUFFER_DATA, _BUFFER_OFFSET = 0, 1
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS, _OPERATOR_OPTIONS = 0, 1, 2, 4
_EDGES = 1_000_000  # inputs of all operations; the largest published models have some ten thousand


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor of a subgraph."""

    name: str
    value: Array | None  # None: not a constant
    argument: bool = False  # whole numbers that stand for nothing else: shapes, axes


def read(data: memoryview, path: Path) -> Contents:
    """The constant tensors with at least one axis that are weights, by name, and the graph of the first subgraph.

    Raises:
        WeightsError: the file is damaged, or has numbers of another kind.
    """
    try:
        model = Buffer(data).table(0)
        buffers = list(model.tables(_MODEL_BUFFERS))
        budget = limits.Budget(len(data))  # several tensors may claim the same buffer
        tensors: dict[str, Array] = {}
        graph: Graph | None = None
        for number, subgraph in enumerate(model.tables(_MODEL_SUBGRAPHS)):
            found: list[_Tensor] = []
            for table in subgraph.tables(_SUBGRAPH_TENSORS):
                tensor = _tensor(table, buffers, path, budget)
                found.append(tensor)
                if tensor.value is None or tensor.argument or not tensor.value.shape:
                    continue
                if tensor.name in tensors:
                    raise WeightsError(f"{path} has two tensors called {tensor.name[:80]!r}. Convert the model again.")
                tensors[tensor.name] = tensor.value
            if number == 0:
                graph = _graph(model, subgraph, found)
    except DamagedError as error:
        raise WeightsError(f"{path} is a damaged TFLite file: it points to {error}. Copy it again.") from error
    except RepeatedError as error:
        raise WeightsError(
            f"{path} uses its tensors more often than any known network does. Convert the model again."
        ) from error
    if not tensors:
        raise WeightsError(f"{path} is a TFLite file without constant tensors. Convert the model again.")
    return Contents(tensors, graph=graph)


def _tensor(table: Table, buffers: list[Table], path: Path, budget: limits.Budget) -> _Tensor:
    """Read a tensor, after counting it against the limit."""
    index = table.number(_TENSOR_BUFFER, "<I")
    if index >= len(buffers):
        raise DamagedError(f"buffer {index} of {len(buffers)}")
    content = buffers[index].bytes(_BUFFER_DATA)
    kind = table.number(_TENSOR_TYPE, "<b")
    sides, letters = table.numbers(_TENSOR_SHAPE, "<i4"), table.bytes(_TENSOR_NAME)
    if len(sides) > limits.AXES or len(letters) > limits.NAME:
        raise DamagedError(f"a tensor of {len(sides)} axes with a name of {len(letters)} bytes")
    shape, name = tuple(sides.tolist()), bytes(letters).decode(errors="replace")
    if buffers[index].has(_BUFFER_OFFSET):
        raise WeightsError(f"{path} keeps {name!r} behind the model, as files over 2 GiB do. Use a smaller one.")
    if not content:
        return _Tensor(name, None)
    quantisation = table.table(_TENSOR_QUANTISATION)
    scale = quantisation.numbers(_QUANTISATION_SCALE, "<f4") if quantisation else np.empty(0, np.float32)
    if kind in _ARGUMENTS and not scale.size:
        plain = {2: "<i4", 4: "<i8"}.get(kind)
        fits = plain and min(shape, default=0) >= 0 and limits.count(shape) * width(plain) == len(content)
        # Others only say by being there that an operation has a constant for this input.
        value = numbers(content, str(plain)).reshape(shape) if fits else np.empty(0, np.int32)
        budget.spend(value.nbytes)
        return _Tensor(name, value, argument=True)
    if (kind not in _FLOATS and not (kind in _QUANTISED and scale.size)) or table.has(_TENSOR_SPARSITY):
        raise WeightsError(
            f"{path} holds {name!r} sparse or as numbers that are not read (tensor type {kind}); float32, float64, "
            "float16 and bfloat16 (0, 10, 1, 18) are read, and int8, uint8, int16 and int32 with their scales. "
            "Convert the model to one of these."
        )
    dtype = _FLOATS[kind] if kind in _FLOATS else _QUANTISED[kind]
    if min(shape, default=0) < 0 or limits.count(shape) * width(dtype) != len(content):
        raise WeightsError(f"{path} has {len(content)} bytes for {name!r} of shape {shape}. Convert the model again.")
    # What is half a float32 in the file, or less, is a whole one once it has been read.
    budget.spend(limits.count(shape) * (width(dtype) if kind in _FLOATS and dtype != BFLOAT16 else 4))
    value = numbers(content, dtype).reshape(shape)
    if kind not in _FLOATS and quantisation is not None:
        return _Tensor(name, _dequantised(value, scale, quantisation, name, path))
    return _Tensor(name, value)


def _dequantised(values: Array, scale: Array, quantisation: Table, name: str, path: Path) -> NDArray[np.float32]:
    """Dequantise a tensor."""
    zero = quantisation.numbers(_QUANTISATION_ZERO, "<i8")
    axis = quantisation.number(_QUANTISATION_AXIS, "<i")
    many = scale.size > 1
    if (many and not (0 <= axis < values.ndim and values.shape[axis] == scale.size)) or zero.size not in {
        0,
        1,
        scale.size,
    }:
        raise WeightsError(
            f"{path} has {scale.size} scales and {zero.size} zero points for {name!r} of shape {values.shape}. "
            "Convert the model again."
        )
    shape = [1] * values.ndim
    if many:
        shape[axis] = scale.size
    meant: NDArray[np.float32] = values.astype(np.float32)
    if zero.any():
        meant -= zero.astype(np.float32).reshape(shape if zero.size > 1 else [1] * values.ndim)
    meant *= scale.reshape(shape)
    return meant


def _graph(model: Table, subgraph: Table, tensors: list[_Tensor]) -> Graph | None:
    codes = [max(code.number(_CODE_OLD, "<b"), code.number(_CODE, "<i")) for code in model.tables(_MODEL_CODES)]
    outputs = subgraph.numbers(_SUBGRAPH_OUTPUTS, "<i4").tolist()
    if not outputs or not all(0 <= output < len(tensors) for output in outputs):
        return None
    return graph_of(_operations(subgraph, codes, len(tensors)), [(t.name, t.value) for t in tensors], outputs[0])


def _operations(subgraph: Table, codes: list[int], tensors: int) -> Iterator[Operation]:
    left = _EDGES
    for operator in subgraph.tables(_SUBGRAPH_OPERATORS):
        index = operator.number(_OPERATOR_CODE, "<I")
        if index >= len(codes):
            raise DamagedError(f"operator code {index} of {len(codes)}")
        inputs = operator.numbers(_OPERATOR_INPUTS, "<i4").tolist()
        outputs = operator.numbers(_OPERATOR_OUTPUTS, "<i4").tolist()
        left -= len(inputs) + len(outputs)
        if left < 0:
            raise DamagedError(f"more than {_EDGES} inputs")
        if not all(-1 <= tensor < tensors for tensor in (*inputs, *outputs)):
            raise DamagedError(f"a tensor beyond {tensors}")
        yield Operation(codes[index], inputs, outputs, operator.table(_OPERATOR_OPTIONS))
