"""OpenVINO's intermediate representation (IR): what ``NAME.xml`` says of its graph; the weights are ``NAME.bin``."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.parsers import expat

from glimpse.models.foreign.facts import (
    MAX_AXES,
    MAX_TENSORS,
    DamagedGraphError,
    GraphError,
    GraphFacts,
    Shape,
    TensorFacts,
    refuse_outside,
)

WEIGHTS = ".bin"  # beside the file, with its name

_DTYPES = {"f32": "float32", "f16": "float16", "f64": "float64", "u8": "uint8", "i8": "int8", "i32": "int32"}
_STANDARD = "opset"  # the beginning of the name of each standard set of operators
_PIECE = 1 << 20  # bytes that are read at a time
_ELEMENTS = 2_000_000  # the largest published graphs have some hundred thousand
_DEPTH = 64


def read(data: memoryview, path: Path) -> GraphFacts:
    """Read what an IR says of its graph.

    Args:
        data: of its XML.
        path: of that file; its weights lie beside it.

    Raises:
        DamagedGraphError: it is no such file.
        GraphError: its weights are missing.
    """
    if not (beside := path.with_suffix(WEIGHTS)).is_file():
        raise GraphError(f"{path} needs its weights, {beside.name}, in its folder. Copy that file, too.")
    refuse_outside(path, beside.name)
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.EntityDeclHandler = reader.refuse
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.buffer_text = True
    try:
        for start in range(0, max(1, len(data)), _PIECE):
            parser.Parse(bytes(data[start : start + _PIECE]), start + _PIECE >= len(data))
    except (expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, DamagedGraphError):
            raise
        raise DamagedGraphError(f"is no XML: {error}") from error
    return reader.facts()


class _Layer:
    """A layer of the graph."""

    def __init__(self, attributes: dict[str, str]) -> None:
        self.kind, self.name = attributes.get("type", ""), attributes.get("name", "")[:200]
        self.version = attributes.get("version", "")
        self.dtype = ""
        self.ports: dict[str, list[Shape]] = {"input": [], "output": []}


class _Reader:
    """Follows the elements of the file; what it needs of them it keeps."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._elements = 0
        self._layer: _Layer | None = None
        self._sides: list[int | None] | None = None
        self._text = ""
        self._found: dict[str, list[TensorFacts]] = {"Parameter": [], "Result": []}
        self._custom: set[str] = set()

    def refuse(self, *_: Any) -> None:
        raise DamagedGraphError("declares a document type or an entity, which no IR does")

    def begin(self, element: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        self._path.append(element)
        if self._elements > _ELEMENTS or len(self._path) > _DEPTH:
            raise DamagedGraphError(f"has more than {_ELEMENTS:,} elements, or more than {_DEPTH} levels")
        if self._elements == 1 and element != "net":
            raise DamagedGraphError(f"begins with the element {element[:80]!r} in place of 'net'")
        where = tuple(self._path[1:])
        if where == ("layers", "layer"):
            self._layer = _Layer(attributes)
        elif self._layer is not None:
            if where == ("layers", "layer", "data"):
                self._layer.dtype = attributes.get("element_type", "")
            elif where[-1] == "port":
                self._sides = []
            elif where[-1] == "dim":
                self._text = ""

    def text(self, text: str) -> None:
        if self._path[-1] == "dim" and len(self._text) < 32:
            self._text += text

    def end(self, element: str) -> None:
        where = tuple(self._path[1:])
        self._path.pop()
        layer = self._layer
        if layer is None:
            return
        if element == "dim" and self._sides is not None:
            if len(self._sides) >= MAX_AXES:
                raise DamagedGraphError(f"has a tensor of more than {MAX_AXES} axes")
            text = self._text.strip()
            self._sides.append(int(text) if text.isdecimal() and 0 < int(text) < 1 << 31 else None)
        elif element == "port" and self._sides is not None:
            if len(where) == 4 and where[2] in layer.ports and len(layer.ports[where[2]]) < MAX_TENSORS:
                layer.ports[where[2]].append(tuple(self._sides))
            self._sides = None
        elif where == ("layers", "layer"):
            self._finish(layer)
            self._layer = None

    def _finish(self, layer: _Layer) -> None:
        if not layer.version.startswith(_STANDARD):
            self._custom.add(f"{layer.version[:80]}.{layer.kind[:80]}")
        found = self._found.get(layer.kind)
        if found is None:
            return
        if len(found) >= MAX_TENSORS:
            raise DamagedGraphError(f"has more than {MAX_TENSORS} inputs or outputs")
        ports = layer.ports["output" if layer.kind == "Parameter" else "input"]
        found.append(
            TensorFacts(
                name=layer.name,
                shape=ports[0] if ports else None,
                dtype=_DTYPES.get(layer.dtype, layer.dtype[:80] or "float32"),
            )
        )

    def facts(self) -> GraphFacts:
        return GraphFacts(
            inputs=tuple(self._found["Parameter"]),
            outputs=tuple(self._found["Result"]),
            producer="OpenVINO",
            custom=tuple(sorted(self._custom)),
        )
