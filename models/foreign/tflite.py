"""TFLite: what a model says of itself, and what metadata and associated files say of it.

The numbers of fields are those of TensorFlow's ``schema.fbs``, and of ``metadata_schema.fbs`` of the TFLite Support
library. Associated files are a zip archive that is appended to the model.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glimpse.models.errors import BundleError
from glimpse.models.files import bounded_files, texts
from glimpse.models.foreign.facts import (
    MAX_AXES,
    MAX_TENSORS,
    MAX_TEXT,
    DamagedGraphError,
    GraphError,
    GraphFacts,
    Quantisation,
    Shape,
    TensorFacts,
)
from glimpse.models.foreign.names import labels_of
from glimpse.models.labels import ClassLabel
from glimpse.models.weights.flatbuffer import Buffer, DamagedError, Table

MAGIC = b"TFL3"  # at byte 4

_MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_DESCRIPTION, _MODEL_BUFFERS, _MODEL_METADATA = 1, 2, 3, 4, 6
_CODE_CUSTOM = 1
_SUBGRAPH_TENSORS, _SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS = 0, 1, 2
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_QUANTISATION, _TENSOR_SIGNATURE = 0, 1, 3, 4, 7
_QUANTISATION_SCALE, _QUANTISATION_ZERO = 2, 3
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA = 0
_DTYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 7: "int16", 9: "int8", 10: "float64"}
_CODES = 10_000  # kinds of operators; the standard has some two hundred
_NAME = 1_000  # bytes

_OUR_METADATA = b"TFLITE_METADATA"
_METADATA_SUBGRAPHS = 3
_FACTS_INPUTS, _FACTS_OUTPUTS = 2, 3  # of a subgraph
_FACTS_CONTENT, _FACTS_UNITS, _FACTS_FILES = 3, 4, 6  # of a tensor
_UNIT_KIND, _UNIT_OPTIONS, _NORMALIZATION = 0, 1, 1
_MEAN, _STD = 0, 1
_CONTENT_KIND, _CONTENT_PROPERTIES, _IMAGE, _COLOUR, _GRAY = 0, 1, 2, 0, 2
_FILE_NAME, _FILE_KIND, _AXIS_LABELS = 0, 2, 2
_ZIPPED = 100  # associated files
_DIRECTORY = 1 << 20  # bytes of the archive's directory; a file in it takes about 100
_END_SIZE = 22  # bytes of the record that ends an archive, without its comment
_ARCHIVE_END = (1 << 16) + _END_SIZE  # bytes in which the end of an archive begins, with its comment
_LABEL_FILES = ("labels.txt", "label.txt", "labelmap.txt")  # where no metadata says which it is


def read(data: memoryview, path: Path) -> GraphFacts:
    """Read what a TFLite file says of its graph.

    Args:
        data: of the file.
        path: of it, for messages.

    Raises:
        DamagedGraphError: it is no such file.
        GraphError: its labels cannot be used.
    """
    try:
        return _read(data, path)
    except DamagedError as error:
        raise DamagedGraphError(f"points to {error}") from error


def _read(data: memoryview, path: Path) -> GraphFacts:
    model = Buffer(data).table(0)
    main = next(model.tables(_MODEL_SUBGRAPHS), None)
    if main is None:
        raise DamagedGraphError("has no graph")
    tensors = list(main.tables(_SUBGRAPH_TENSORS))
    custom = set()
    for number, code in enumerate(model.tables(_MODEL_CODES)):
        if number >= _CODES:
            raise DamagedGraphError(f"has more than {_CODES:,} kinds of operators")
        if name := _text(code, _CODE_CUSTOM):
            custom.add(name[:80])
    described = _described(model)
    given = next(described.tables(_METADATA_SUBGRAPHS), None) if described else None
    return GraphFacts(
        inputs=tuple(_tensors(main, _SUBGRAPH_INPUTS, tensors)),
        outputs=tuple(_tensors(main, _SUBGRAPH_OUTPUTS, tensors)),
        producer=_text(model, _MODEL_DESCRIPTION),
        custom=tuple(sorted(custom)),
        labels=_labels(given, data, path),
        recipe=_recipe(given),
    )


def _tensors(subgraph: Table, field: int, tensors: list[Table]) -> Iterator[TensorFacts]:
    indices = subgraph.numbers(field, "<i4").tolist()
    if len(indices) > MAX_TENSORS:
        raise DamagedGraphError(f"has more than {MAX_TENSORS} inputs or outputs")
    for index in indices:
        if not 0 <= index < len(tensors):
            raise DamagedGraphError(f"has no tensor {index}")
        yield _tensor(tensors[index])


def _tensor(table: Table) -> TensorFacts:
    number = table.number(_TENSOR_TYPE, "<b")
    quantised = table.table(_TENSOR_QUANTISATION)
    scales = quantised.numbers(_QUANTISATION_SCALE, "<f4").tolist() if quantised else []
    zeros = quantised.numbers(_QUANTISATION_ZERO, "<i8").tolist() if quantised else []
    # The signature has -1 for what may change; without one, the shape holds.
    shape = _shape(table, _TENSOR_SIGNATURE) or _shape(table, _TENSOR_SHAPE) or ()
    return TensorFacts(
        name=_text(table, _TENSOR_NAME),
        shape=shape,
        dtype=_DTYPES.get(number, f"type {number}"),
        quantisation=Quantisation(scale=scales[0], zero_point=zeros[0] if zeros else 0) if len(scales) == 1 else None,
    )


def _shape(table: Table, field: int) -> Shape:
    sides = table.numbers(field, "<i4").tolist()
    if len(sides) > MAX_AXES:
        raise DamagedGraphError(f"has a tensor of more than {MAX_AXES} axes")
    return tuple(side if side > 0 else None for side in sides)


def _described(model: Table) -> Table | None:
    """The metadata of the model, which are a FlatBuffer within it; None where there are none."""
    for number, entry in enumerate(model.tables(_MODEL_METADATA)):
        if number >= _CODES:
            raise DamagedGraphError(f"has more than {_CODES:,} entries of metadata")
        if bytes(entry.bytes(_METADATA_NAME)[:_NAME]) == _OUR_METADATA:
            wanted = entry.number(_METADATA_BUFFER, "<I")
            for index, buffer in enumerate(model.tables(_MODEL_BUFFERS)):
                if index == wanted:
                    inner = buffer.bytes(_BUFFER_DATA)
                    return Buffer(inner).table(0) if len(inner) else None
    return None


def _recipe(given: Table | None) -> dict[str, Any]:
    """How the input's pixels are scaled; a quantised input has the same scaling, and is quantised behind it."""
    tensor = next(given.tables(_FACTS_INPUTS), None) if given else None
    if tensor is None:
        return {}
    for number, unit in enumerate(tensor.tables(_FACTS_UNITS)):
        options = unit.table(_UNIT_OPTIONS)
        if number >= _CODES or options is None or unit.number(_UNIT_KIND, "<B") != _NORMALIZATION:
            continue
        content = tensor.table(_FACTS_CONTENT)
        image = content.table(_CONTENT_PROPERTIES) if content else None
        gray = bool(
            image and content and content.number(_CONTENT_KIND, "<B") == _IMAGE and image.number(_COLOUR, "<b") == _GRAY
        )
        depth = 1 if gray else 3
        values = {name: options.numbers(field, "<f4").tolist() for name, field in (("mean", _MEAN), ("std", _STD))}
        if any(len(each) not in {1, depth} for each in values.values()):
            continue
        return {
            "channels": "GRAY" if gray else "RGB",
            **{name: each * depth if len(each) == 1 else each for name, each in values.items()},
            # What the library that defines these metadata does with a photo.
            "geometry": "squash",
            "smaller": "resize",
        }
    return {}


def _labels(given: Table | None, data: memoryview, path: Path) -> tuple[ClassLabel, ...]:
    """Those of the associated file that the output names, or of one that is called so."""
    names = list(_LABEL_FILES)
    tensor = next(given.tables(_FACTS_OUTPUTS), None) if given else None
    for number, file in enumerate(tensor.tables(_FACTS_FILES) if tensor else ()):
        if number < _ZIPPED and file.number(_FILE_KIND, "<b") == _AXIS_LABELS:
            names.insert(0, _text(file, _FILE_NAME))
            break
    try:
        text = _associated(data, names, path)
        return labels_of(texts.decode(text).splitlines()) if text else ()
    except (ValueError, BundleError) as error:
        raise GraphError(f"{path} has an associated file of labels that cannot be used: {error}") from error


def _associated(data: memoryview, names: list[str], path: Path) -> bytes:
    """The first of the associated files of these names; empty where there is none."""
    # An archive ends with its directory, which is looked for from the end.
    found_at = bytes(data[-_ARCHIVE_END:]).rfind(b"PK\x05\x06")
    if found_at < 0:
        return b""
    _check_directory(data, max(0, len(data) - _ARCHIVE_END) + found_at)
    try:
        with bounded_files.open_file(path) as model, zipfile.ZipFile(model) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()[:_ZIPPED]}
            found = next((entries[name] for name in names if name in entries), None)
            if found is None:
                return b""
            if found.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise ValueError(f"{found.filename[:80]} is compressed in another way than stored or deflated")
            with archive.open(found) as file:
                text = file.read(MAX_TEXT + 1)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"the archive of associated files is damaged: {error}") from error
    if len(text) > MAX_TEXT:
        raise ValueError(f"{found.filename[:80]} has more than {MAX_TEXT:,} bytes")
    return text


def _check_directory(data: memoryview, end: int) -> None:
    """Refuse a directory of an archive that would take much memory, before zipfile reads the whole of it.

    Args:
        data: of the file.
        end: where the record begins that ends the archive (section 4.3.16 of PKWARE's APPNOTE).

    Raises:
        ValueError: the record is cut short, or the directory is larger than 1 MiB.
    """
    if len(data) - end < _END_SIZE:
        raise ValueError("the archive of associated files is damaged: its end is cut short")
    # The record of a ZIP64 archive has sizes of its own, which zipfile takes in place of these.
    large = bytes(data[max(0, end - 20) : max(0, end - 16)]) == b"PK\x06\x07"
    if large or int.from_bytes(data[end + 12 : end + 16], "little") > _DIRECTORY:
        raise ValueError(
            f"the archive of associated files has a directory of more than {_DIRECTORY:,} bytes, or is ZIP64"
        )


def _text(table: Table, field: int) -> str:
    letters = table.bytes(field)
    if len(letters) > _NAME:
        raise DamagedGraphError(f"has a name of {len(letters):,} bytes")
    return bytes(letters).decode(errors="replace")
