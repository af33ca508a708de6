"""The response of the process that reads a weights file: its format, and checks of what was received.

A response has three parts: the data of arrays that are not stored in the file as they are, one after the other; a JSON
object; and the length of that object, eight bytes, little-endian. The object describes each array by the place of its
data, ``file`` or ``here``, and its offset, dtype, shape and strides in bytes. Nothing in a response is executed.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from glimpse.models.weights import limits
from glimpse.models.weights.contents import Contents, SavedModel
from glimpse.models.weights.graphs import Graph, Node

Array = NDArray[Any]

_LENGTH = struct.Struct("<Q")
_ALIGNED = 64  # bytes at a multiple of which an array begins
_NEAR = 1 << 16  # bytes between two parts of a file that are read at once
# The fields of an operation that are plain values, and those that are arrays.
_PLAIN = ("kind", "operation", "name", "depthwise", "activated", "order")
_ARRAYS = ("kernel", "bias", "scale", "shift")
_KINDS = {"conv", "dense", "affine", "join", "linear", "other", "shape"}


class MalformedError(ValueError):
    """The response is malformed."""


# --- in the process that reads


class ResponseWriter:
    """Writes one response.

    Args:
        out: where to, from its beginning.
        data: the file that is read; arrays that are parts of it are told by their places.
        most: bytes of all arrays that are not.
    """

    def __init__(self, out: BinaryIO, data: Any, most: int) -> None:
        self._out, self._left, self._position = out, most, 0
        self._start, self._size = 0, 0
        if data is not None and len(data):
            self._start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
            self._size = len(data)
        self._arrays: list[tuple[Any, ...]] = []
        self._known: dict[tuple[Any, ...], int] = {}
        self._kept: list[Array] = []  # so that no two arrays are ever at one place

    def contents(self, found: Contents) -> None:
        """Respond with the contents of a file."""
        sets = [
            {"place": one.place, "tensors": [[name, self._array(value)] for name, value in one.tensors.items()]}
            for one in (found, *found.others)
        ]
        graph = None if found.graph is None else self._graph(found.graph)
        self._end({"sets": sets, "graph": graph, "epsilons": dict(found.epsilons), "arrays": self._arrays})

    def model(self, found: SavedModel) -> None:
        """Respond with the description of the model in a file."""
        values = {"config": found.config, "old": found.old, "hdf5": found.hdf5, "numbers": found.numbers}
        self._end({"model": values})

    def error(self, message: str) -> None:
        """Respond that the file cannot be read; array data that was written before is ignored."""
        self._end({"error": message})

    def _end(self, values: dict[str, Any]) -> None:
        told = json.dumps(values, separators=(",", ":")).encode()
        if len(told) > limits.ANSWER:
            raise limits.TooLargeError("names and operations without end")
        self._out.write(told + _LENGTH.pack(len(told)))
        self._out.flush()

    def _graph(self, graph: Graph) -> dict[str, Any]:
        numbers: dict[str, int] = {}  # of values, whose names say nothing

        def number(name: str) -> int:
            return numbers.setdefault(name, len(numbers))

        nodes = []
        for node in graph.nodes:
            told = {field: getattr(node, field) for field in _PLAIN}
            arrays = {field: self._array(value) for field in _ARRAYS if (value := getattr(node, field)) is not None}
            inputs, output = [number(name) for name in node.inputs], number(node.output)
            nodes.append({**told, **arrays, "inputs": inputs, "output": output, "stride": list(node.stride)})
        return {"nodes": nodes, "output": number(graph.output), "order": graph.order}

    def _array(self, value: Array) -> int:
        place: int = value.__array_interface__["data"][0]
        key = (place, value.dtype.str, value.shape, value.strides)
        if key in self._known:
            return self._known[key]
        inside = self._start <= place and place + max(1, value.nbytes) <= self._start + self._size
        if inside:
            where, offset, strides = "file", place - self._start, value.strides
        else:
            where, offset, strides = self._written(value)
            self._kept.append(value)
        self._known[key] = len(self._arrays)
        self._arrays.append((where, offset, value.dtype.str, value.shape, strides))
        return self._known[key]

    def _written(self, value: Array) -> tuple[str, int, tuple[int, ...]]:
        self._left -= value.nbytes
        if self._left < 0:
            raise limits.TooLargeError("tensors that are together many times as large as the file")
        plain = np.ascontiguousarray(value).reshape(value.shape)
        padding = -self._position % _ALIGNED
        self._out.write(bytes(padding))
        self._out.write(plain.reshape(-1).view(np.uint8).data if plain.size else b"")
        offset = self._position + padding
        self._position = offset + plain.nbytes
        return "here", offset, plain.strides


# --- in the process that requested it


def read(data: memoryview, file: BinaryIO, size: int) -> Contents | SavedModel | str:
    """Read a response; a string is the reason why the file cannot be read.

    Args:
        data: the response.
        file: the file that was read, in which arrays may lie.
        size: bytes of that.

    Raises:
        MalformedError: the response is malformed, or refers to data beyond its end or the end of the file.
    """
    try:
        start, end = _json(data)
        values = json.loads(bytes(data[start:end]))
        if "error" in values:
            return str(values["error"])
        if "model" in values:
            return _model(values["model"])
        arrays = _arrays(values["arrays"], data[:start], file, size)
        return _contents(values, arrays)
    except MalformedError:
        raise
    except (ValueError, LookupError, TypeError, RecursionError, struct.error) as error:
        raise MalformedError(f"{type(error).__name__}: {error}"[:200]) from error


def _json(data: memoryview) -> tuple[int, int]:
    (length,) = _LENGTH.unpack(data[-_LENGTH.size :])
    end = len(data) - _LENGTH.size
    if not 0 < length <= min(end, limits.ANSWER):
        raise MalformedError(f"{length} of {end} bytes of JSON")
    return end - length, end


def _model(values: Mapping[str, Any]) -> SavedModel:
    return SavedModel(
        str(values["config"]), old=bool(values["old"]), hdf5=bool(values["hdf5"]), numbers=int(values["numbers"])
    )


def _contents(values: Mapping[str, Any], arrays: list[Array]) -> Contents:
    sets = [
        Contents({str(name): arrays[number] for name, number in one["tensors"]}, place=str(one["place"]))
        for one in values["sets"]
    ]
    graph = None if values["graph"] is None else _graph(values["graph"], arrays)
    epsilons = {str(name): float(value) for name, value in dict(values.get("epsilons", {})).items()}
    if not all(math.isfinite(value) and value >= 0 for value in epsilons.values()):
        raise MalformedError("a normalisation that adds no number to the variance")
    first = sets[0]
    return Contents(first.tensors, graph=graph, place=first.place, others=tuple(sets[1:]), epsilons=epsilons)


def _graph(values: Mapping[str, Any], arrays: list[Array]) -> Graph:
    nodes = []
    for node in values["nodes"]:
        if node["kind"] not in _KINDS or node["order"] not in {None, "OIHW", "OHWI"}:
            raise MalformedError(f"an operation of the kind {node['kind']!r}")
        nodes.append(
            Node(
                inputs=tuple(map(str, node["inputs"])),
                output=str(node["output"]),
                stride=(int(node["stride"][0]), int(node["stride"][1])),
                **{field: node[field] for field in _PLAIN},
                **{field: arrays[node[field]] for field in _ARRAYS if field in node},
            )
        )
    if values["order"] not in {"OIHW", "OHWI"}:
        raise MalformedError("kernels in no known order")
    return Graph(tuple(nodes), str(values["output"]), values["order"])


def _arrays(told: list[Any], here: memoryview, file: BinaryIO, size: int) -> list[Array]:
    """The arrays, those of the file read once each, however many share a part of it."""
    places = [_place(*one) for one in told]
    parts = _parts((place for place in places if place.where == "file"), size)
    buffers = {start: _read(file, start, end - start) for start, end in parts}
    starts = np.array([start for start, _ in parts], np.int64)
    arrays = []
    for place in places:
        # NumPy does not look at the size of a buffer that is empty.
        if place.where == "here" and place.end > len(here):
            raise MalformedError(f"bytes up to {place.end} of {len(here)}")
        buffer: Any = here
        offset = place.offset
        if place.where == "file":
            start = int(starts[np.searchsorted(starts, place.offset, side="right") - 1])
            buffer, offset = buffers[start], place.offset - start
        array: Array = np.ndarray(place.shape, place.dtype, buffer, offset, place.strides)
        array.flags.writeable = False
        arrays.append(array)
    return arrays


class _Place:
    """Where an array is said to be."""

    def __init__(self, where: str, offset: int, dtype: str, shape: list[int], strides: list[int]) -> None:
        self.where, self.offset, self.dtype = where, offset, np.dtype(dtype)
        self.shape, self.strides = tuple(shape), tuple(strides)
        if where not in {"file", "here"} or self.dtype.kind not in "fiub" or len(shape) != len(strides):
            raise MalformedError(f"an array of {dtype!r} in {where!r}")
        if any(not isinstance(number, int) or number < 0 for number in (offset, *shape, *strides)):
            raise MalformedError("an array at no place")
        steps = sum((count - 1) * step for count, step in zip(self.shape, self.strides, strict=True))
        self.end = offset + (0 if 0 in self.shape else steps + self.dtype.itemsize)


def _place(where: Any, offset: Any, dtype: Any, shape: Any, strides: Any) -> _Place:
    return _Place(str(where), offset, str(dtype), list(shape), list(strides))


def _parts(places: Iterable[_Place], size: int) -> list[tuple[int, int]]:
    """The parts of a file in which arrays lie, from byte to byte, in order and without overlap."""
    parts: list[tuple[int, int]] = []
    for place in sorted(places, key=lambda one: one.offset):
        if not place.offset <= place.end <= size:
            raise MalformedError(f"bytes {place.offset} to {place.end} of {size}")
        if parts and place.offset <= parts[-1][1] + _NEAR:
            parts[-1] = (parts[-1][0], max(parts[-1][1], place.end))
        else:
            parts.append((place.offset, place.end))
    return parts


def _read(file: BinaryIO, start: int, size: int) -> NDArray[np.uint8]:
    buffer = np.empty(size, np.uint8)
    # Past its buffer, which does not know that the process which has read the file has moved its position.
    raw: Any = getattr(file, "raw", file)
    raw.seek(start)
    view = buffer.data
    while view:  # the system reads two gigabytes at once and no more
        count = raw.readinto(view)
        if not count:
            raise MalformedError("the file has become shorter meanwhile")
        view = view[count:]
    return buffer
