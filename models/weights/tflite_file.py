"""TFLite: the constant tensors of a model.

The file is a FlatBuffer: tables of offsets. The reader here knows the five kinds of table that lead to tensors and
checks every offset against the file, which FlatBuffers' own runtime for Python does not do.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.weights.dtypes import BFLOAT16, numbers, width
from models.weights.errors import WeightsError

MAGIC = b"TFL3"  # at byte 4

# TensorType -> number format.
_FLOATS = {0: "<f4", 1: "<f2", 10: "<f8", 18: BFLOAT16}
_ARGUMENTS = {
    2: "int32",
    4: "int64",
    5: "text",
    6: "bool",
    12: "uint64",
    15: "uint32",
}  # shapes, paddings and their kind

# Numbers of fields in their tables, from TFLite's schema.
_MODEL_SUBGRAPHS, _MODEL_BUFFERS = 2, 4
_SUBGRAPH_TENSORS = 0
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_SPARSITY = 0, 1, 2, 3, 6
_BUFFER_DATA, _BUFFER_OFFSET = 0, 1


_TABLES = 200_000  # the largest published models have some ten thousand


class _DamagedError(ValueError):
    """An offset or a length that leads out of the file."""


class _Buffer:
    """The bytes of a file, never read beyond its ends."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        # Many offsets may lead to one table; following them all could take for ever.
        self._tables = _TABLES

    def number(self, form: str, position: int) -> int:
        if not 0 <= position <= len(self._data) - struct.calcsize(form):
            raise _DamagedError(f"byte {position} of {len(self._data)}")
        value: int = struct.unpack_from(form, self._data, position)[0]
        return value

    def slice(self, start: int, size: int) -> memoryview:
        if start + size > len(self._data):
            raise _DamagedError(f"bytes {start} to {start + size} of {len(self._data)}")
        return self._data[start : start + size]

    def table(self, position: int) -> _Table:
        """The table that the offset at `position` leads to."""
        if not self._tables:
            raise _DamagedError(f"more than {_TABLES} tables")
        self._tables -= 1
        return _Table(self, position + self.number("<I", position))


class _Table:
    """A table of a FlatBuffer: optional fields, found through a list of where each is."""

    def __init__(self, buffer: _Buffer, position: int) -> None:
        self._buffer, self._position = buffer, position
        # The table begins with how far before it that list lies.
        self._fields = position - buffer.number("<i", position)
        self._size = buffer.number("<H", self._fields)

    def number(self, field: int, form: str) -> int:
        """A field that is a number; 0 where it is left out."""
        position = self._field(field)
        return self._buffer.number(form, position) if position else 0

    def bytes(self, field: int, item: int = 1) -> memoryview:
        """A field that is a vector of items of so many bytes; empty where it is left out."""
        start, count = self._vector(field)
        return self._buffer.slice(start, count * item)

    def tables(self, field: int) -> Iterator[_Table]:
        """A field that is a vector of tables."""
        start, count = self._vector(field)
        for number in range(count):
            yield self._buffer.table(start + 4 * number)

    def has(self, field: int) -> bool:
        return self._field(field) is not None

    def _vector(self, field: int) -> tuple[int, int]:
        """Where its items begin, and how many there are."""
        position = self._field(field)
        if position is None:
            return 0, 0
        position += self._buffer.number("<I", position)
        return position + 4, self._buffer.number("<I", position)

    def _field(self, field: int) -> int | None:
        entry = 4 + 2 * field
        offset = self._buffer.number("<H", self._fields + entry) if entry + 2 <= self._size else 0
        return self._position + offset if offset else None


def read(file: BinaryIO, path: Path) -> dict[str, NDArray[np.generic]]:
    """The constant floating-point tensors with at least one axis, by name.

    Raises:
        WeightsError: the file is damaged or quantised.
    """
    try:
        tensors = _tensors(_Buffer(file.read()), path)
    except _DamagedError as error:
        raise WeightsError(f"{path} is a damaged TFLite file: it points to {error}. Copy it again.") from error
    if not tensors:
        raise WeightsError(f"{path} is a TFLite file without constant tensors. Convert the model again.")
    return tensors


def _tensors(file: _Buffer, path: Path) -> dict[str, NDArray[np.generic]]:
    model = file.table(0)
    buffers = list(model.tables(_MODEL_BUFFERS))
    tensors: dict[str, NDArray[np.generic]] = {}
    for graph in model.tables(_MODEL_SUBGRAPHS):
        for tensor in graph.tables(_SUBGRAPH_TENSORS):
            index = tensor.number(_TENSOR_BUFFER, "<I")
            if index >= len(buffers):
                raise _DamagedError(f"buffer {index} of {len(buffers)}")
            content = buffers[index].bytes(_BUFFER_DATA)
            kind = tensor.number(_TENSOR_TYPE, "<b")
            shape = tuple(np.frombuffer(tensor.bytes(_TENSOR_SHAPE, 4), "<i4").tolist())
            name = bytes(tensor.bytes(_TENSOR_NAME)).decode(errors="replace")
            if buffers[index].has(_BUFFER_OFFSET):
                raise WeightsError(
                    f"{path} keeps {name!r} behind the model, as files over 2 GiB do. Use a smaller one."
                )
            if not content or kind in _ARGUMENTS or not shape:
                continue
            if kind not in _FLOATS or tensor.has(_TENSOR_SPARSITY):
                raise WeightsError(
                    f"{path} holds {name!r} quantised or sparse (tensor type {kind}); float32, float64, float16 and "
                    "bfloat16 (0, 10, 1, 18) are read. Convert the model without quantisation."
                )
            dtype = _FLOATS[kind]
            if min(shape) < 0 or math.prod(shape) * width(dtype) != len(content):
                raise WeightsError(
                    f"{path} has {len(content)} bytes for {name!r} of shape {shape}. Convert the model again."
                )
            if name in tensors:
                raise WeightsError(f"{path} has two tensors called {name!r}. Convert the model again.")
            tensors[name] = numbers(content, dtype).reshape(shape)
    return tensors
