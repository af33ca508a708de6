"""Files of weights made to do harm: small ones that cost far more than their size, each the work of a few lines.

By name, a function that writes the file into a folder and gives its path.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from tests.models.weight_makers import (
    NUMBERS,
    Call,
    Operations,
    Table,
    flatbuffer,
    onnx_bytes,
    pickled,
    storage,
    tensor,
    tflite_tensor,
    torch_legacy,
    torch_zip,
)

Maker = Callable[[Path], Path]
_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before it wrote zip files


def dag(depth: int = 64) -> bytes:
    """A tuple of itself twice, so many times: to show, hash or compare it takes two to that power steps."""
    return b")" + b"q\x00h\x00\x86" * depth


def _legacy(folder: Path, *pickles: bytes) -> Path:
    path = folder / "w.pth"
    path.write_bytes(_MAGIC + b"".join(b"\x80\x02" + code + b"." for code in pickles))
    return path


def _protocol(folder: Path, code: bytes) -> Path:
    return _legacy(folder, code, b"}", b"}", b"]")


def _keys(folder: Path, code: bytes) -> Path:
    path = torch_legacy(folder / "w.pth", {"w": tensor()})
    data = path.read_bytes()
    keys = data.rindex(b"\x80\x02", 0, data.rindex(b"."))
    path.write_bytes(data[:keys] + b"\x80\x02](X\x01\x00\x00\x000" + code + b"e." + bytes(64))
    return path


def _long(digits: int) -> bytes:
    return b"\x8b" + struct.pack("<i", digits) + b"\x7f" * digits


def _pairs(folder: Path) -> Path:
    """One list of a pair ten thousand times, made into a dictionary a thousand times."""
    pair = b"(X\x01\x00\x00\x00aNtq\x01"
    listed = b"](" + pair + b"h\x01" * 10_000 + b"eq\x02"
    call = b"ccollections\nOrderedDict\nh\x02\x85R"
    return torch_zip(folder / "w.pth", Operations(b"](" + listed + call * 1000 + b"e"))


def _references(folder: Path) -> Path:
    """One reference of a hundred thousand parts, a hundred thousand times."""
    reference = b"(X\x07\x00\x00\x00storage" + b"N" * 100_000 + b"tq\x01"
    return torch_zip(folder / "w.pth", Operations(b"](" + reference + b"h\x01Q" * 100_000 + b"e"))


def _places(folder: Path) -> Path:
    """Dictionaries in one whose name is as long as a book, each of which has that in front of its own."""
    inner: dict[str, Any] = {f"k{number}": {} for number in range(20_000)}
    return torch_zip(folder / "w.pth", {"x" * 200_000: inner, "w": tensor()})


def _shared(folder: Path) -> Path:
    """Two thousand tensors of one storage, which are views, and copies in whoever takes them."""
    count = 1 << 16
    made = {f"w{n}": tensor(storage(count=count), size=(256, 256), stride=(256, 1)) for n in range(2000)}
    return torch_zip(folder / "w.pth", made, {"0": bytes(4 * count)})


def _many(folder: Path) -> Path:
    one = b"h\x01"
    names = b"".join(b"X\x06\x00\x00\x00" + b"%06d" % number + one for number in range(25_000))
    made = pickled(tensor())[2:-1] + b"q\x01"
    return torch_zip(folder / "w.pth", Operations(b"}(X\x01\x00\x00\x00a" + made + names + b"u"))


def _zip_of_names(folder: Path) -> Path:
    path = folder / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(30_000):
            archive.writestr(f"{number}", b"")
    return path


def _of_one_buffer(folder: Path, *, kind: int, width: int, scaled: bool = False, count: int = 2000) -> Path:
    side = 256
    tensors = []
    for number in range(count):
        fields: dict[int, Any] = {
            0: np.array([side, side], "<i4"),
            1: ("<b", kind),
            2: ("<I", 1),
            3: f"w{number}".encode(),
        }
        if scaled:
            fields[4] = Table({2: np.array([0.5], "<f4").view("<u4")})
        tensors.append(Table(fields))
    return _tflite(folder, tensors, [b"", bytes(side * side * width)])


def _tflite(folder: Path, tensors: Any, buffers: list[bytes], **more: Any) -> Path:
    path = folder / "m.tflite"
    graph = Table({0: tensors, **{int(key[1:]): value for key, value in more.items()}})
    contents = [Table({0: content} if content else {}) for content in buffers]
    codes = [Table({0: ("<b", 2)}), Table({0: ("<b", 3)})]  # a concatenation, a convolution
    path.write_bytes(flatbuffer(Table({0: ("<I", 3), 1: codes, 2: [graph], 4: contents})))
    return path


def _axes(folder: Path) -> Path:
    tensors = [Table({0: np.full(200_000, 1 << 30, "<i4"), 1: ("<b", 0), 2: ("<I", 1), 3: b"w"})]
    return _tflite(folder, tensors, [b"", NUMBERS.tobytes()])


def _named(folder: Path) -> Path:
    """A name of half a megabyte."""
    return _tflite(folder, [tflite_tensor("w" * 500_000)], [b"", NUMBERS.tobytes()])


def _joined_tflite(folder: Path) -> Path:
    """Two convolutions, one behind the other, then concatenations, each of which has the one before twice."""
    constants = [tflite_tensor("w", shape=(1, 1, 2, 3)), tflite_tensor("image", buffer=0)]
    tensors = [*constants, *(tflite_tensor(f"v{n}", buffer=0) for n in range(44))]
    operators = [_operator(1, (1, 0), 2), _operator(1, (2, 0), 3), _operator(0, (2, 3), 4)]
    operators += [_operator(0, (n, n), n + 1) for n in range(4, 44)]
    return _tflite(folder, tensors, [b"", NUMBERS.tobytes()], _2=np.array([44], "<i4"), _3=operators)


def _operator(code: int, inputs: tuple[int, ...], output: int) -> Table:
    return Table({0: ("<I", code), 1: np.array(inputs, "<i4"), 2: np.array([output], "<i4")})


def _onnx(folder: Path, initializers: list[Any], nodes: list[Any], output: str) -> Path:
    import onnx

    helper, path = onnx.helper, folder / "m.onnx"
    outputs = [helper.make_tensor_value_info(output, 1, None)]
    graph = helper.make_graph(nodes, "graph", [], outputs, initializer=initializers)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def _array(value: Any, name: str) -> Any:
    import onnx

    return onnx.numpy_helper.from_array(value, name)


def _outer(folder: Path) -> Path:
    """A normalisation whose factors are spread over all pairs of channels."""
    import onnx

    side = 30_000
    across, down = np.ones((1, side), np.float32), np.ones((side, 1), np.float32)
    parts = [_array(value, name) for name, value in zip("abcd", (down, across, down, across), strict=True)]
    node = onnx.helper.make_node("BatchNormalization", ["x", *"abcd"], ["y"])
    return _onnx(folder, parts, [node], "y")


def _reshaped(folder: Path) -> Path:
    """One constant, turned and then given another shape again and again, which is a copy each time."""
    import onnx

    make = onnx.helper.make_node
    constants = [_array(np.ones((512, 512), np.float32), "w"), _array(np.array([-1], np.int64), "shape")]
    nodes = [make("Transpose", ["w"], ["t"], perm=[1, 0])]
    nodes += [make("Reshape", ["t", "shape"], [f"r{n}"]) for n in range(5000)]
    return _onnx(folder, constants, nodes, "r0")


def _joined_onnx(folder: Path) -> Path:
    import onnx

    make = onnx.helper.make_node
    weights = _array(np.ones((2, 2, 1, 1), np.float32), "w")
    nodes = [make("Conv", ["x", "w"], ["a"]), make("Conv", ["a", "w"], ["b"]), make("Concat", ["a", "b"], ["c0"])]
    nodes += [make("Concat", [f"c{n}", f"c{n}"], [f"c{n + 1}"]) for n in range(40)]
    return _onnx(folder, [weights], nodes, "c40")


def _nodes(folder: Path) -> Path:
    """Operations of two bytes each, which are objects once they have been read."""
    import onnx

    graph = onnx.helper.make_graph([], "g", [], [], initializer=[_array(NUMBERS, "w")]).SerializeToString()
    graph += b"\x0a\x00" * 2_000_000
    path = folder / "m.onnx"
    path.write_bytes(b"\x08\x08" + b"\x3a" + _varint(len(graph)) + graph)
    return path


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def _sides(folder: Path) -> Path:
    larger = _array(NUMBERS, "w")
    larger.dims[:] = [1 << 40] * 200_000
    path = folder / "m.onnx"
    path.write_bytes(onnx_bytes([larger]))
    return path


def _beside(folder: Path, put: Callable[[Path], Any]) -> Path:
    import onnx

    tensor_ = _array(NUMBERS, "w")
    tensor_.ClearField("raw_data")
    tensor_.data_location = onnx.TensorProto.EXTERNAL
    tensor_.external_data.add(key="location", value="m.onnx.data")
    put(folder / "m.onnx.data")
    path = folder / "m.onnx"
    path.write_bytes(onnx_bytes([tensor_]))
    return path


def _holes(path: Path) -> Path:
    with path.open("wb") as file:
        file.write(b"\x89HDF\r\n\x1a\n")
        file.truncate(1 << 40)
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def _linked(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


def _header(folder: Path, length: int, header: bytes) -> Path:
    path = folder / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header)
    return path


def _empty_names(folder: Path) -> Path:
    path = folder / "w.safetensors"
    path.write_bytes(save({f"{number}": np.empty(0, np.float32) for number in range(25_000)}))
    return path


PICKLES: dict[str, Maker] = {
    "a tuple of tuples as the protocol": lambda folder: _protocol(folder, dag()),
    "a tuple of tuples as a storage's name": lambda folder: _keys(folder, dag()),
    "a list of tuples of tuples as the protocol": lambda folder: _protocol(folder, b"](" + dag() + b"e"),
    "a dictionary of tuples of tuples as the protocol": lambda folder: _protocol(
        folder, b"}X\x01\x00\x00\x00a" + dag() + b"s"
    ),
    "a number of a million digits as the protocol": lambda folder: _protocol(folder, _long(1_000_000)),
    "a number of a million digits as a count": lambda folder: torch_zip(
        folder / "w.pth",
        {"w": tensor(storage(count=Operations(_long(1_000_000))))},  # type: ignore[arg-type]
    ),
    "a number of a million digits as a size": lambda folder: torch_zip(
        folder / "w.pth", {"w": tensor(size=(Operations(_long(1_000_000)),), stride=(1,))}
    ),
    "pairs made into dictionaries again and again": _pairs,
    "a long reference again and again": _references,
    "a long name in front of many": _places,
    "two thousand tensors of one storage": _shared,
    "more tensors than any network has": _many,
    "sizes beside a 0 that are none": lambda folder: torch_zip(
        folder / "w.pth", {"w": tensor(size=(0, 1 << 61, 1 << 61), stride=(1, 1, 1))}
    ),
    "a call with tuples of tuples": lambda folder: torch_zip(
        folder / "w.pth", {"w": Call("torch._utils._rebuild_tensor_v2", (Operations(dag()),) * 4)}
    ),
    "an archive of thirty thousand names": _zip_of_names,
}
TFLITE: dict[str, Maker] = {
    "bfloat16 of one buffer": lambda folder: _of_one_buffer(folder, kind=18, width=2),
    "float16 of one buffer": lambda folder: _of_one_buffer(folder, kind=1, width=2),
    "float32 of one buffer": lambda folder: _of_one_buffer(folder, kind=0, width=4),
    "int8 of one buffer": lambda folder: _of_one_buffer(folder, kind=9, width=1, scaled=True),
    "two hundred thousand axes": _axes,
    "a name of half a megabyte": _named,
    "joins of joins": _joined_tflite,
}
ONNX: dict[str, Maker] = {
    "factors spread over all pairs": _outer,
    "a constant copied again and again": _reshaped,
    "joins of joins": _joined_onnx,
    "two million operations of two bytes": _nodes,
    "two hundred thousand axes": _sides,
    "tensors in a named pipe": lambda folder: _beside(folder, _pipe),
    "tensors in a file of holes": lambda folder: _beside(folder, _holes),
    "tensors in a loop of links": lambda folder: _beside(folder, _loop),
    "tensors in a folder": lambda folder: _beside(folder, Path.mkdir),
    "tensors in a device": lambda folder: _beside(folder, lambda path: _linked(path, "/dev/zero")),
}
OTHERS: dict[str, Maker] = {
    "a named pipe": lambda folder: _pipe(folder / "w.pth"),
    "a link to a device": lambda folder: _linked(folder / "w.pth", "/dev/zero"),
    "a folder": lambda folder: folder,
    "a file of holes": lambda folder: _holes(folder / "w.h5"),
    "safetensors with a header of gigabytes": lambda folder: _header(folder, 1 << 32, b"{" + b" " * 100),
    "safetensors with a header of lists in lists": lambda folder: _header(folder, 1 << 20, b'{"a":' + b"[" * (1 << 20)),
    "safetensors with more names than any network has": _empty_names,
}
ALL = {
    f"{kind}: {name}": make
    for kind, makers in {"pickle": PICKLES, "tflite": TFLITE, "onnx": ONNX, "file": OTHERS}.items()
    for name, make in makers.items()
}
