"""Files of weights byte by byte: what frameworks write, and what they would not; and what reading them must come to."""

from __future__ import annotations

import functools
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.weights import WeightsError, read

# --- pickles, in the operations of protocol 2


@dataclass(frozen=True)
class Global:
    name: str  # "module.attribute"


@dataclass(frozen=True)
class Call:
    name: str
    arguments: tuple[Any, ...] = ()
    new: bool = False  # by NEWOBJ, not REDUCE
    state: Any = None  # set by BUILD


@dataclass(frozen=True)
class Outside:
    reference: tuple[Any, ...]  # a persistent id


@dataclass(frozen=True)
class Operations:
    code: bytes  # as it is


@dataclass(frozen=True)
class OldText:
    text: str  # as Python 2 wrote it


def pickled(value: object, *, legacy: bool = False) -> bytes:
    return b"\x80\x02" + _operations(value, legacy=legacy) + b"."


def _operations(value: Any, *, legacy: bool) -> bytes:  # noqa: C901, PLR0911 - one case for each kind of value
    make = functools.partial(_operations, legacy=legacy)
    match value:
        case Operations(code):
            return code
        case OldText(text):
            return b"U" + bytes([len(text)]) + text.encode()
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(digits)]) + digits
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case Global(name):
            module, _, attribute = name.rpartition(".")
            return f"c{module}\n{attribute}\n".encode()
        case Call(name, arguments, new, state):
            code = make(Global(name)) + make(arguments) + (b"\x81" if new else b"R")
            return code if state is None else code + make(state) + b"b"
        case Outside(reference):
            # Before version 1.6 a storage could be part of another, and a reference said so or None.
            return make((*reference, None) if legacy and len(reference) == 5 else reference) + b"Q"
        case tuple():
            return b"(" + b"".join(map(make, value)) + b"t"
        case list():
            return b"](" + b"".join(map(make, value)) + b"e"
        case dict():
            return b"}(" + b"".join(make(part) for item in value.items() for part in item) + b"u"
    raise TypeError(type(value))


# --- PyTorch


def storage(key: str = "0", count: int = 6, kind: str = "FloatStorage") -> Outside:
    return Outside(("storage", Global(f"torch.{kind}"), key, "cpu", count))


def tensor(
    of: object = None,
    *,
    offset: object = 0,
    size: tuple[Any, ...] = (2, 3),
    stride: tuple[Any, ...] = (3, 1),
) -> Call:
    arguments = (storage() if of is None else of, offset, size, stride, False, Call("collections.OrderedDict"))
    return Call("torch._utils._rebuild_tensor_v2", arguments)


NUMBERS = np.arange(6, dtype=np.float32)


def torch_zip(
    path: Path,
    value: object,
    storages: Mapping[str, bytes] | None = None,
    *,
    byteorder: bytes = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        archive.writestr("archive/byteorder", byteorder)
        for key, data in ({"0": NUMBERS.tobytes()} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return path


def torch_legacy(path: Path, value: object, storages: Mapping[str, bytes] | None = None, *, item: int = 4) -> Path:
    storages = {"0": NUMBERS.tobytes()} if storages is None else storages
    heads = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, list(storages))
    data = b"".join(struct.pack("<q", len(numbers) // item) + numbers for numbers in storages.values())
    path.write_bytes(b"".join(pickled(head, legacy=True) for head in heads) + data)
    return path


# --- TFLite


@dataclass(frozen=True)
class Table:
    fields: Mapping[int, Any]  # a number: (format, value); bytes or an array: a vector; a list: a vector of tables


@dataclass(frozen=True)
class Repeated:
    table: Table
    count: int  # of entries of a vector that all lead to it


def flatbuffer(root: Table, *, magic: bytes = b"TFL3") -> bytes:
    out = bytearray(struct.pack("<I", 0) + magic)
    _patch(out, 0, root)
    return bytes(out)


def _patch(out: bytearray, at: int, child: Any) -> None:
    """Write `child` at the end, and where it is into the offset at `at`."""
    out.extend(b"\0" * (-len(out) % 8))
    if isinstance(child, Table):
        count = max(child.fields, default=-1) + 1
        fields, start = len(out), len(out) + 4 + 2 * count
        start += -start % 8
        out.extend(b"\0" * (start - fields + 4 + 8 * count))
        struct.pack_into("<HH", out, fields, 4 + 2 * count, 4 + 8 * count)
        struct.pack_into("<i", out, start, start - fields)
        struct.pack_into("<I", out, at, start - at)
        for number, value in child.fields.items():
            place = 4 + 8 * number
            struct.pack_into("<H", out, fields + 4 + 2 * number, place)
            if isinstance(value, tuple):
                struct.pack_into(value[0], out, start + place, value[1])
            else:
                _patch(out, start + place, value)
        return
    struct.pack_into("<I", out, at, len(out) - at)
    if isinstance(child, bytes | np.ndarray):
        out.extend(struct.pack("<I", len(child)) + bytes(child))
        return
    start = len(out) + 4
    if isinstance(child, Repeated):
        out.extend(struct.pack("<I", child.count) + b"\0" * 4 * child.count)
        _patch(out, start, child.table)
        table = start + struct.unpack_from("<I", out, start)[0]
        for place in range(start, start + 4 * child.count, 4):
            struct.pack_into("<I", out, place, table - place)
        return
    out.extend(struct.pack("<I", len(child)) + b"\0" * 4 * len(child))
    for number, item in enumerate(child):
        _patch(out, start + 4 * number, item)


def tflite_tensor(name: str, *, shape: tuple[int, ...] = (2, 3), kind: int = 0, buffer: int = 1) -> Table:
    return Table({0: np.array(shape, "<i4"), 1: ("<b", kind), 2: ("<I", buffer), 3: name.encode()})


def tflite(tensors: list[Table], buffers: list[bytes] | None = None) -> bytes:
    contents = [b"", NUMBERS.tobytes()] if buffers is None else buffers
    return flatbuffer(
        Table(
            {
                0: ("<I", 3),
                2: [Table({0: tensors})],
                4: [Table({0: content} if content else {}) for content in contents],
            }
        )
    )


# --- zip


def rezipped(path: Path, target: Path, compression: int) -> Path:
    """The same members, compressed otherwise."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", compression) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    return target


def onnx_bytes(initializers: list[Any]) -> bytes:
    import onnx

    graph = onnx.helper.make_graph([], "graph", [], [], initializer=initializers)
    buffer = io.BytesIO()
    onnx.save(onnx.helper.make_model(graph), buffer)
    return buffer.getvalue()


# --- what reading comes to

_MEMORY = 16 << 20  # bytes that refusing a file of a few kilobytes may take


@contextmanager
def refused(message: str) -> Iterator[None]:
    """The reader refuses with that message, and without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=message):
            yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < _MEMORY


def either_tensors_or_an_error(path: Path) -> None:
    try:
        tensors = read(path)
    except WeightsError:
        return
    assert all(isinstance(tensor, np.ndarray) for tensor in tensors.values())


def equal(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found[name].dtype == value.dtype, name
