"""Files of weights byte by byte: what frameworks write, and what they would not; and what reading them must come to."""

from __future__ import annotations

import functools
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse.models.weights import WeightsError, files, formats

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


def torch_saved(path: Path, value: Any) -> Path:
    """What torch.save writes of dictionaries in dictionaries, with arrays of float32 for tensors."""
    storages: dict[str, bytes] = {}

    def made(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: made(inner) for key, inner in part.items()}
        if not isinstance(part, np.ndarray):
            return part
        key = str(len(storages))
        storages[key] = part.astype("<f4").tobytes()
        strides = tuple(int(np.prod(part.shape[axis + 1 :])) for axis in range(part.ndim))
        return tensor(storage(key, part.size), size=part.shape, stride=strides)

    return torch_zip(path, made(value), storages)


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


def folded_onnx(model: Any) -> Any:
    """What PyTorch's exporter makes of a network: batch norm within the convolutions, and no names that tell.

    Returns:
        An `onnx.ModelProto`.
    """
    return _Exporter(model).export()


class _Exporter:
    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.names = {id(model.inputs[0]): "input.1"}

    def export(self) -> Any:
        import onnx

        for layer in self.model.layers:
            if inputs := [self.names[id(one)] for one in layer._inbound_nodes[0].input_tensors]:
                self.layer(layer, inputs)
        helper = onnx.helper
        answer = helper.make_tensor_value_info(self.names[id(self.model.outputs[0])], 1, None)
        image = helper.make_tensor_value_info("input.1", 1, None)
        return helper.make_model(helper.make_graph(self.nodes, "main_graph", [image], [answer], self.initializers))

    def constant(self, value: Any) -> str:
        import onnx

        name = f"onnx::{len(self.initializers) + 1000}"
        self.initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        import onnx

        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def layer(self, layer: Any, inputs: list[str]) -> None:
        import keras

        output = f"/{layer.name}"
        match layer:
            case keras.layers.Conv2D() | keras.layers.DepthwiseConv2D():
                self.convolution(layer, inputs, output)
            case keras.layers.BatchNormalization() if id(layer.output) in self.names:
                return
            case keras.layers.BatchNormalization():
                weights = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
                parts = [self.constant(keras.ops.convert_to_numpy(part)) for part in weights]
                self.node("BatchNormalization", [*inputs, *parts], output, epsilon=layer.epsilon)
            case keras.layers.Dense():
                kernel = self.constant(np.asarray(keras.ops.convert_to_numpy(layer.kernel)).T)
                bias = self.constant(keras.ops.convert_to_numpy(layer.bias))
                self.node("Gemm", [*inputs, kernel, bias], output, transB=1)
                if layer.activation is not keras.activations.linear:
                    output = self.node("Relu", [output], f"{output}_act")
            case keras.layers.Add() | keras.layers.Multiply():
                # In which order it writes summands is its own affair.
                self.node("Add" if isinstance(layer, keras.layers.Add) else "Mul", inputs[::-1], output)
            case keras.layers.Concatenate():
                self.node("Concat", inputs, output, axis=1)
            case _:
                self.node("Relu", inputs, output)  # anything that holds no weights
        self.names[id(layer.output)] = output

    def convolution(self, layer: Any, inputs: list[str], output: str) -> None:
        import keras

        kernel, groups = np.asarray(keras.ops.convert_to_numpy(layer.kernel)), getattr(layer, "groups", 1)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            kernel = kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])
            groups = len(kernel)
        else:
            kernel = kernel.transpose(3, 2, 0, 1)
        bias = np.zeros(len(kernel)) if layer.bias is None else keras.ops.convert_to_numpy(layer.bias)
        norm = next((one for one in self.model.layers if _follows(one, layer)), None)
        if norm is not None:
            scale, shift = _affine(norm)
            kernel, bias = kernel * scale.reshape(-1, 1, 1, 1), bias * scale + shift
            self.names[id(norm.output)] = output
        self.node(
            "Conv", [*inputs, self.constant(kernel), self.constant(bias)], output, strides=layer.strides, group=groups
        )


def _follows(layer: Any, before: Any) -> bool:
    import keras

    return isinstance(layer, keras.layers.BatchNormalization) and layer.input is before.output


def _affine(norm: Any) -> tuple[Any, Any]:
    variance, mean, beta = (np.asarray(value) for value in (norm.moving_variance, norm.moving_mean, norm.beta))
    scale = (1 if norm.gamma is None else np.asarray(norm.gamma)) / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def disturbed(model: Any, seed: int = 1) -> Any:
    """The same network with numbers in which no mistake could hide: statistics and biases that are not 0 and 1."""
    import keras

    rng = np.random.default_rng(seed)
    for layer in model.layers:
        for variable in layer.weights:
            if isinstance(layer, keras.layers.BatchNormalization) or variable.name == "bias":
                low, high = (0.5, 1.5) if variable.name in {"gamma", "moving_variance"} else (-0.5, 0.5)
                variable.assign(rng.uniform(low, high, variable.shape))
    return model


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


def parsed(path: Path) -> dict[str, Any]:
    """`read`, but in this process: where a test reads files by the hundred, or looks at the memory that it takes."""
    with files.open_file(path) as file:
        return dict(formats.contents(file, path).tensors)


def either_tensors_or_an_error(path: Path, read: Callable[[Path], Mapping[str, Any]] = parsed) -> None:
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
