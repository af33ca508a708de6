"""Weights from where people have them: every format gives the tensors that its framework wrote, by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from glimpse.models.weights import WeightsError, read
from tests.models.weight_makers import (
    NUMBERS,
    Call,
    Global,
    OldText,
    Outside,
    equal,
    onnx_bytes,
    parsed,
    storage,
    tensor,
    tflite,
    tflite_tensor,
    torch_legacy,
    torch_zip,
)

REAL = Path(__file__).parents[3] / "shared" / "weights"


# --- safetensors


def test_safetensors_are_read_by_what_they_hold_not_by_their_suffix(tmp_path: Path) -> None:
    tensors: dict[str, NDArray[Any]] = {
        "a": NUMBERS.reshape(2, 3),
        "b": NUMBERS.astype(np.float16),
        "c": np.array([True, False]),
    }
    save_file(tensors, tmp_path / "weights.pth")
    equal(read(tmp_path / "weights.pth"), tensors)


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes bfloat16")
    from safetensors.torch import save_file as save

    value = torch.randn(7).bfloat16()
    save({"a": value}, tmp_path / "w.safetensors")
    equal(read(tmp_path / "w.safetensors"), {"a": value.float().numpy()})


def test_safetensors_of_other_numbers_are_refused_by_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes float8")
    from safetensors.torch import save_file as save

    save({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"holds 'a' as F8_E4M3; F64, F32"):
        read(tmp_path / "w.safetensors")


# --- PyTorch


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_pytorch_file_is_read_as_pytorch_reads_it(new: bool, tmp_path: Path) -> None:  # noqa: FBT001
    torch = pytest.importorskip("torch", reason="the reference for PyTorch's files")
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    saved = {
        "contiguous": torch.randn(3, 4),
        "transposed": base.t(),
        "part of the same storage": base[1:3, ::2],
        "float16": torch.randn(3).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "float64": torch.randn(2, dtype=torch.float64),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "bool": torch.tensor([True, False]),
        "int8": torch.tensor([-1, 2], dtype=torch.int8),
        "uint8": torch.tensor([1, 255], dtype=torch.uint8),
        "int16": torch.tensor([-3], dtype=torch.int16),
        "int32": torch.tensor([-3], dtype=torch.int32),
        "channels last": torch.randn(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    }
    torch.save(saved, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    loaded = torch.load(tmp_path / "w.pth", weights_only=True)
    expected = {name: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for name, v in loaded.items()}
    equal(read(tmp_path / "w.pth"), expected)


_PLAIN = Call("collections.OrderedDict")
_WAYS = {
    "a dictionary": {"w": tensor()},
    "an OrderedDict of Python 2": Call("collections.OrderedDict", ([[OldText("w"), tensor()]],)),
    "a checkpoint of training": {"state_dict": {"w": tensor()}, "epoch": 3, "arch": "resnet18", "best": None},
    "under a name that nobody knows": {"mine": {"first": {"w": tensor()}}, "epoch": 3},
    "a parameter": {"w": Call("torch._utils._rebuild_parameter", (tensor(), True, _PLAIN))},
    "a tensor of PyTorch 0.3": {"w": Call("torch._utils._rebuild_tensor", (storage(), 0, (2, 3), (3, 1)))},
    "a parameter of PyTorch 0.3": {
        "w": Call("torch.nn.parameter.Parameter", new=True, state=(tensor(), None, _PLAIN, True, False))
    },
    "a tensor of a graphics card": {
        "w": tensor(Outside(("storage", Global("torch.cuda.FloatStorage"), "0", "cuda:0", 6)))
    },
    "beside what is no tensor": {"w": tensor(), "size": Call("torch.Size", ((2, 3),)), "steps": [1, 2]},
    "with the versions of its modules": Call("collections.OrderedDict", ([["w", tensor()]],), state={"_metadata": {}}),
}


@pytest.mark.parametrize("make", [torch_zip, torch_legacy])
@pytest.mark.parametrize("value", _WAYS.values(), ids=_WAYS.keys())
def test_every_way_to_keep_a_tensor_is_understood_without_pytorch(make: Any, value: object, tmp_path: Path) -> None:
    equal(read(make(tmp_path / "w.pth", value)), {"w": NUMBERS.reshape(2, 3)})


@pytest.mark.parametrize("way", ["an OrderedDict of Python 2", "a parameter of PyTorch 0.3", "a tensor of PyTorch 0.3"])
def test_old_files_made_here_are_files_to_pytorch_too(way: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the reference for PyTorch's files")
    loaded = torch.load(torch_legacy(tmp_path / "w.pth", _WAYS[way]), weights_only=True)
    np.testing.assert_array_equal(loaded["w"].detach().numpy(), NUMBERS.reshape(2, 3))


def test_a_storage_that_is_part_of_another_starts_at_its_offset(tmp_path: Path) -> None:
    part = Outside((*storage().reference, ("0-2-4", 2, 4)))
    path = torch_legacy(tmp_path / "w.pth", {"w": tensor(part, size=(2, 2), stride=(2, 1))})
    equal(read(path), {"w": NUMBERS[2:].reshape(2, 2)})


def test_numbers_of_a_big_endian_machine_are_turned_round(tmp_path: Path) -> None:
    data = {"0": NUMBERS.astype(">f4").tobytes()}
    equal(read(torch_zip(tmp_path / "w.pth", {"w": tensor()}, data, byteorder=b"big")), {"w": NUMBERS.reshape(2, 3)})


# --- ONNX


def test_onnx_initializers_are_read_however_their_numbers_are_kept(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX files are read with the package onnx")
    make, kinds = onnx.helper.make_tensor, onnx.TensorProto
    value = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    initializers = [
        onnx.numpy_helper.from_array(value, "raw"),
        make("typed", kinds.FLOAT, (2, 3), value.ravel()),
        make("double", kinds.DOUBLE, (2, 3), value.ravel()),
        onnx.numpy_helper.from_array(value.astype(np.float16), "half"),
        make("typed half", kinds.FLOAT16, (2, 3), value.astype(np.float16).ravel()),
        make("bfloat16", kinds.BFLOAT16, (6,), [0, 1, -2, 0.5, 3, -0.25]),
        # Arguments of operations, not weights.
        make("shape", kinds.INT64, (2,), [1, -1]),
        make("six", kinds.FLOAT, (), [6.0]),
    ]
    (tmp_path / "m.onnx").write_bytes(onnx_bytes(initializers))
    half = value.astype(np.float16)
    expected = {"raw": value, "typed": value, "double": value.astype(float), "half": half, "typed half": half}
    bfloat16 = np.array([0, 1, -2, 0.5, 3, -0.25], np.float32)
    equal(read(tmp_path / "m.onnx"), {**expected, "bfloat16": bfloat16})


def test_onnx_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(WeightsError, match="pip install onnx"):
        parsed(tmp_path / "m.onnx")


# --- TFLite


def test_tflite_constants_are_read(tmp_path: Path) -> None:
    value = NUMBERS.reshape(2, 3)
    tensors = [
        tflite_tensor("image", buffer=0),
        tflite_tensor("kernel"),
        tflite_tensor("half", kind=1, buffer=2),
        tflite_tensor("shape", shape=(3,), kind=2, buffer=3),
        tflite_tensor("six", shape=(), buffer=4),
    ]
    buffers = [b"", value.tobytes(), value.astype(np.float16).tobytes(), bytes(12), bytes(4)]
    (tmp_path / "m.tflite").write_bytes(tflite(tensors, buffers))
    equal(read(tmp_path / "m.tflite"), {"kernel": value, "half": value.astype(np.float16)})


def test_a_published_tflite_file_is_read_as_the_generated_reader_reads_it() -> None:
    path = REAL / "mobilenet_v1_0.25_224_imagenet.tflite"
    if not path.exists():
        pytest.skip(f"needs the real weights {path}")
    package = pytest.importorskip("tflite", reason="the reader that is generated from TFLite's schema")
    model = package.Model.GetRootAsModel(path.read_bytes(), 0)
    expected = {}
    graph = model.Subgraphs(0)
    for number in range(graph.TensorsLength()):
        tensor_ = graph.Tensors(number)
        buffer = model.Buffers(tensor_.Buffer())
        if buffer.DataLength() and tensor_.Type() == package.TensorType.FLOAT32:
            numbers = buffer.DataAsNumpy().view(np.float32)
            expected[tensor_.Name().decode()] = numbers.reshape(tensor_.ShapeAsNumpy())
    assert len(expected) == 56
    equal(read(path), expected)
