"""TFLite files by hand: an input and an output without operators, and metadata."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import flatbuffers

from tests.models.graph_makers import CLASSES, SIZE

_QUANTISED, _FLOAT = 3, 0  # uint8, float32


class _Builder:
    """A FlatBuffer that is built from its leaves to its root."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1024)

    def text(self, text: str) -> int:
        return int(self._builder.CreateString(text))

    def data(self, data: bytes) -> int:
        return int(self._builder.CreateByteVector(data))

    def vector(self, form: str, *items: float) -> int:
        """A vector of offsets to tables (``UOffsetTRelative``), or of numbers (``Int32``, ``Int64``, ``Float32``)."""
        width = 8 if form == "Int64" else 4
        self._builder.StartVector(width, len(items), width)
        for item in reversed(items):
            getattr(self._builder, f"Prepend{form}")(item)
        return int(self._builder.EndVector())

    def tables(self, *offsets: int) -> int:
        return self.vector("UOffsetTRelative", *offsets)

    def table(self, offsets: Mapping[int, int], **numbers: tuple[int, int]) -> int:
        """A table: offsets by their field, and numbers by their form, each with its field."""
        self._builder.StartObject(max([*offsets, *(place for place, _ in numbers.values()), -1]) + 1)
        for place, offset in offsets.items():
            self._builder.PrependUOffsetTRelativeSlot(place, offset, 0)
        for form, (place, number) in numbers.items():
            getattr(self._builder, f"Prepend{form}Slot")(place, number, 0)
        return int(self._builder.EndObject())

    def finished(self, root: int, identifier: bytes) -> bytes:
        self._builder.Finish(root, identifier)
        return bytes(self._builder.Output())


def tflite(*, custom: str = "", files: Mapping[str, str] | None = None, described: bool = False) -> bytes:
    """A file of a quantised input and an output.

    Args:
        custom: the name of a custom operator.
        files: associated files, which are appended as an archive.
        described: with metadata, in which the first of the files are the labels.
    """
    b = _Builder()
    scale = b.table({2: b.vector("Float32", 1 / 128), 3: b.vector("Int64", 128)})

    def tensor(name: str, shape: list[int], kind: int) -> int:
        return b.table({0: b.vector("Int32", *shape), 3: b.text(name), 4: scale}, Int8=(1, kind))

    tensors = b.tables(tensor("image", [1, SIZE, SIZE, 3], _QUANTISED), tensor("scores", [1, CLASSES], _FLOAT))
    subgraph = b.table({0: tensors, 1: b.vector("Int32", 0), 2: b.vector("Int32", 1)})
    code = b.table({1: b.text(custom)} if custom else {})
    metadata = b.data(_metadata(next(iter(files))) if described and files else b"")
    fields: dict[int, Any] = {
        1: b.tables(code),
        2: b.tables(subgraph),
        3: b.text("made by hand"),
        4: b.tables(b.table({}), b.table({0: metadata})),
    }
    if described:
        fields[6] = b.tables(b.table({0: b.text("TFLITE_METADATA")}, Uint32=(1, 1)))
    whole = b.finished(b.table(fields, Uint32=(0, 3)), b"TFL3")
    return whole + _archive(files) if files else whole


def _archive(files: Mapping[str, str]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as whole:
        for name, text in files.items():
            whole.writestr(name, text)
    return archive.getvalue()


def _metadata(labels: str) -> bytes:
    """A mean of 100 and a deviation of 50 for the input, and the name of a file of labels for the output."""
    b = _Builder()
    scaling = b.table({0: b.vector("Float32", 100.0), 1: b.vector("Float32", 50.0)})
    image = b.table({4: b.tables(b.table({1: scaling}, Uint8=(0, 1)))})
    scores = b.table({6: b.tables(b.table({0: b.text(labels)}, Int8=(2, 2)))})
    subgraph = b.table({2: b.tables(image), 3: b.tables(scores)})
    return b.finished(b.table({3: b.tables(subgraph)}), b"M001")
