"""ONNX: what a ModelProto says of itself.

The numbers of fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Preprocessing is read from
the keys of ONNX's MetadataProps.md (``Image.BitmapPixelFormat``, ``Image.NominalPixelRange``), or from the key
``recipe`` with the fields of a recipe as JSON; labels from the key ``labels``, ``classes`` or ``names``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from glimpse.models.errors import BundleError
from glimpse.models.files import bounded_files
from glimpse.models.files.bounded_files import shown
from glimpse.models.files.digests import EXTERNAL_DATA_SUFFIXES
from glimpse.models.foreign.facts import (
    MAX_AXES,
    MAX_TENSORS,
    MAX_TEXT,
    DamagedGraphError,
    GraphError,
    GraphFacts,
    TensorFacts,
)
from glimpse.models.foreign.names import labels_of
from glimpse.models.foreign.protobuf import Counter, Message, Value, signed, text_of
from glimpse.models.labels import ClassLabel

_MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_METADATA, _MODEL_FUNCTIONS = 2, 7, 14, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE = frozenset({22, 23})
_TENSOR_NAME, _TENSOR_EXTERNAL = 8, 13
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN, _FUNCTION_ATTRIBUTE = 1, 7, 10, 11
_KEY, _VALUE = 1, 2
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 10: "float16", 11: "float64"}
_NAME = 1_000  # bytes
_GRAPHS = 100  # graphs within graphs, all together
_DEPTH = 8
_SPARSE = "has a sparse tensor, which is not read"
_METADATA = 1_000  # entries
# Domains of operators that ONNX, ONNX Runtime or OpenVINO documents. Which of them OpenVINO has, it says itself.
_STANDARD = frozenset({"", "ai.onnx", "com.microsoft", "org.openvinotoolkit"})

# An entry of a list or dict as Python writes it: 'name' or 0: "name".
_ENTRY = re.compile(
    r"""\s*(?:(?P<key>[0-9]{1,9})\s*:\s*)?(?P<name>'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")\s*(?:,|\Z)""", re.DOTALL
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_LABEL_KEYS = ("labels", "classes", "names")
_FORMATS = {"rgb8": "RGB", "bgr8": "BGR", "gray8": "GRAY"}
# (pixel - mean) / std, for each channel.
_RANGES = {"nominalrange_0_255": (0.0, 1.0), "normalized_0_1": (0.0, 255.0), "normalized_1_1": (127.5, 127.5)}


def read(data: memoryview, path: Path) -> GraphFacts:
    """Read what an ONNX file says of its graph.

    Args:
        data: of the file.
        path: of it; tensors may lie in files beside it that are named after it, and in no others.

    Raises:
        DamagedGraphError: it is no such file.
        GraphError: it keeps tensors in another file than may be opened.
    """
    counter = Counter()
    model = Message(data, counter)
    graphs = list(itertools.islice(model.messages(_MODEL_GRAPH), 2))
    if len(graphs) > 1:  # other readers merge them, so that what is checked would not be what is computed
        raise DamagedGraphError("has two graphs in the place of one")
    graph = graphs[0] if graphs else model.message(_MODEL_GRAPH)
    found: dict[int, list[TensorFacts]] = {_GRAPH_INPUT: [], _GRAPH_OUTPUT: []}
    initializers: set[str] = set()
    custom: set[str] = set()
    own = {
        (function.text(_FUNCTION_DOMAIN, _NAME), function.text(_FUNCTION_NAME, _NAME))
        for function in model.messages(_MODEL_FUNCTIONS)
    }
    for number, value in graph:
        if number in found:
            if len(found[number]) >= MAX_TENSORS:
                raise DamagedGraphError(f"has more than {MAX_TENSORS} inputs or outputs")
            found[number].append(_tensor(graph.inner(value)))
        elif number == _GRAPH_INITIALIZER:
            initializers.add(graph.inner(value).text(_TENSOR_NAME, _NAME))
    walk = _Walk(path, own, custom)
    walk.graph(graph, 0)
    for function in model.messages(_MODEL_FUNCTIONS):
        walk.nodes(function, _FUNCTION_NODE, 0)
        walk.attributes(function, _FUNCTION_ATTRIBUTE)
    metadata = _metadata(model)
    return GraphFacts(
        # Before its fourth version a graph lists its weights among the inputs, too.
        inputs=tuple(tensor for tensor in found[_GRAPH_INPUT] if tensor.name not in initializers),
        outputs=tuple(found[_GRAPH_OUTPUT]),
        producer=model.text(_MODEL_PRODUCER, _NAME),
        custom=tuple(sorted(custom)),
        labels=_labels(metadata, path),
        recipe=_recipe(metadata, path),
    )


class _Walk:
    """Looks at every operation: for custom operators, and for tensors that are kept in other files."""

    def __init__(self, path: Path, own: set[tuple[str, str]], custom: set[str]) -> None:
        self._path, self._own, self._custom = path, own, custom
        self._left = _GRAPHS

    def graph(self, graph: Message, depth: int) -> None:
        self._left -= 1
        if self._left < 0 or depth > _DEPTH:
            raise DamagedGraphError(f"has more than {_GRAPHS} graphs within graphs, or more than {_DEPTH} levels")
        for number, value in graph:
            if number == _GRAPH_INITIALIZER:
                self._tensor(graph.inner(value))
            elif number == _GRAPH_SPARSE:
                for _, part in graph.inner(value):
                    if not isinstance(part, int):
                        raise DamagedGraphError(_SPARSE)
        self.nodes(graph, _GRAPH_NODE, depth)

    def nodes(self, message: Message, field: int, depth: int) -> None:
        for node in message.messages(field):
            kind, domain = "", ""
            for number, value in node:
                if number == _NODE_TYPE:
                    kind = text_of(value, _NAME)
                elif number == _NODE_DOMAIN:
                    domain = text_of(value, _NAME)
                elif number == _NODE_ATTRIBUTE:
                    self._attribute(node.inner(value), depth)
            if domain not in _STANDARD and (domain, kind) not in self._own:
                self._custom.add(f"{domain[:80]}.{kind[:80]}")

    def attributes(self, message: Message, field: int) -> None:
        """The attributes in a field of a function, which have default values."""
        for attribute in message.messages(field):
            self._attribute(attribute, 0)

    def _attribute(self, attribute: Message, depth: int) -> None:
        for number, value in attribute:
            if number in {_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS}:
                self._tensor(attribute.inner(value))
            elif number in {_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS}:
                self.graph(attribute.inner(value), depth + 1)
            elif number in _ATTRIBUTE_SPARSE:
                raise DamagedGraphError(_SPARSE)

    def _tensor(self, tensor: Message) -> None:
        """Refuse a tensor that is kept in another file than those that are named after the graph."""
        name = ""
        for number, value in tensor:
            if number == _TENSOR_NAME:
                name = text_of(value, _NAME)
            elif number == _TENSOR_EXTERNAL:
                key, text = self._entry(tensor.inner(value))
                if key == "location":
                    self._check(name, text)

    def _entry(self, entry: Message) -> tuple[str, str]:
        """Key and value of an entry. Of repeated ones, readers take different ones, so there must be one of each."""
        found: dict[int, str] = {}
        for number, value in entry:
            if number in {_KEY, _VALUE}:
                if number in found:
                    raise DamagedGraphError("has a key or a value twice in an entry of external data")
                found[number] = text_of(value, MAX_TEXT)
        return found.get(_KEY, ""), found.get(_VALUE, "")

    def _check(self, name: str, location: str) -> None:
        if location not in {self._path.name + ending for ending in EXTERNAL_DATA_SUFFIXES}:
            raise GraphError(
                f"{self._path}: the tensor {name[:80]!r} is kept in another file, which is not opened: "
                f"{location[:80]!r}. It must lie beside the graph as {self._path.name}{EXTERNAL_DATA_SUFFIXES[0]}; or "
                "save it as one file: onnx.save(onnx.load(path), path)."
            )
        try:
            present = bounded_files.inside(self._path.parent, location).is_file()
        except ValueError as error:
            raise GraphError(f"{self._path} keeps the tensor {name[:80]!r} in another file: {error}.") from error
        if not present:
            raise GraphError(
                f"{self._path} keeps its tensors in {location[:80]}, which is not in its folder. Copy that file, too."
            )


def _tensor(value: Message) -> TensorFacts:
    """A ValueInfoProto."""
    name, dtype, shape = value.text(1, _NAME), "", None
    tensor = value.message(2).message(1)
    for number, part in tensor:
        if number == 1 and isinstance(part, int):
            dtype = _DTYPES.get(part, f"data type {part}")
        elif number == 2:
            shape = tuple(_sides(tensor.inner(part)))
    return TensorFacts(name=name, shape=shape, dtype=dtype or "no tensor")


def _sides(shape: Message) -> Iterator[int | None]:
    for count, dimension in enumerate(shape.messages(1)):
        if count >= MAX_AXES:
            raise DamagedGraphError(f"has a tensor of more than {MAX_AXES} axes")
        side = next((signed(value) for number, value in dimension if number == 1 and isinstance(value, int)), 0)
        yield side if side > 0 else None


def _metadata(model: Message) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in model.messages(_MODEL_METADATA):
        if len(found) >= _METADATA:
            raise DamagedGraphError(f"has more than {_METADATA} entries of metadata")
        key, value = "", None
        for number, part in entry:
            if number == _KEY:
                key = text_of(part, _NAME)
            elif number == _VALUE and not isinstance(part, int) and len(part) <= MAX_TEXT:
                value = _text_or_none(part)
        if value is not None:
            found[key.casefold()] = value
    return found


def _text_or_none(value: Value) -> str | None:
    try:
        return text_of(value, MAX_TEXT)
    except DamagedGraphError:
        return None  # a program may keep anything there


def _labels(metadata: Mapping[str, str], path: Path) -> tuple[ClassLabel, ...]:
    for key in _LABEL_KEYS:
        if text := metadata.get(key, "").strip():
            try:
                return labels_of(_parsed(text))
            except (BundleError, ValueError, TypeError, LookupError) as error:
                raise GraphError(f"{path} has labels in its metadata ({key}) that cannot be used: {error}") from error
    return ()


def _parsed(text: str) -> Any:
    """A list, or a mapping from indices, as JSON or as Python writes it; else one label a line, or behind commas."""
    if text[0] in "[{":
        try:
            return bounded_files.parse_json(text)
        except ValueError:
            return _of_python(text)
    return text.splitlines() if "\n" in text else text.split(",")


def _of_python(text: str) -> list[str] | dict[str, str]:
    """What Python writes for a list of texts, or for a dict of whole numbers and texts. Nothing is evaluated.

    Raises:
        ValueError: it is something else.
    """
    names: list[str] = []
    keys: list[str] = []
    position, end = 1, len(text) - 1
    while text[position:end].strip():
        found = _ENTRY.match(text, position, end)
        if found is None or (found["key"] is None) != (text[0] == "["):
            raise ValueError(f"it is neither JSON nor a list of Python: {shown(text[position : position + 40])}")
        names.append(_ESCAPED.sub(r"\1", found["name"][1:-1]))
        keys.append(found["key"] or "")
        position = found.end()
    return names if text[0] == "[" else dict(zip(keys, names, strict=True))


def _recipe(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    if text := metadata.get("recipe", "").strip():
        try:
            values = bounded_files.parse_json(text)
        except ValueError as error:
            raise GraphError(f"{path} has a recipe in its metadata that cannot be used: {error}") from error
        if not isinstance(values, dict):
            raise GraphError(f"{path} has a recipe in its metadata that is no object of JSON.")
        return values
    pixels, span = metadata.get("image.bitmappixelformat", ""), metadata.get("image.nominalpixelrange", "")
    if pixels.casefold() not in _FORMATS or span.casefold() not in _RANGES:
        return {}
    channels, (mean, std) = _FORMATS[pixels.casefold()], _RANGES[span.casefold()]
    depth = 1 if channels == "GRAY" else 3
    return {"channels": channels, "mean": [mean] * depth, "std": [std] * depth, "smaller": "resize"}
