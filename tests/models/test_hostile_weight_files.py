"""Files that somebody made to do harm, or that were damaged on the way: they are refused, and nothing else happens.

No reader may run code, open another file, or need more memory than the file's own size explains.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from glimpse.models.weights import WeightsError, hdf5_file, limits, read, torch_file
from tests.models.weight_makers import (
    NUMBERS,
    Repeated,
    Table,
    either_tensors_or_an_error,
    flatbuffer,
    onnx_bytes,
    parsed,
    refused,
    tensor,
    tflite,
    tflite_tensor,
    torch_legacy,
    torch_zip,
)

# --- what HDF5 may try


def _hdf5(path: Path, change: Callable[[Any], None]) -> Path:
    """A legacy file of Keras whose kernel somebody replaced."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        group = file.create_group("conv")
        group.attrs["weight_names"] = [b"conv/kernel:0"]
        change(group.create_group("conv"))
    return path


def _outside(group: Any) -> None:
    import h5py

    group["kernel:0"] = h5py.ExternalLink("secret.h5", "/conv/conv/kernel:0")


def _soft(group: Any) -> None:
    import h5py

    group["kernel:0"] = h5py.SoftLink("/conv")


def _external(group: Any) -> None:
    group.create_dataset("kernel:0", (4,), "u1", external=[("/etc/hostname", 0, 4)])


def _virtual(group: Any) -> None:
    import h5py

    layout = h5py.VirtualLayout((6,), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (6,))
    group.create_virtual_dataset("kernel:0", layout)


def _gzip(group: Any) -> None:
    group.create_dataset("kernel:0", data=np.zeros((1 << 12, 1 << 12), "f4"), compression="gzip")


def _claimed(group: Any) -> None:
    group.create_dataset("kernel:0", (1 << 20, 1 << 20), "f4")


def _words(group: Any) -> None:
    group.create_dataset("kernel:0", data=np.array([b"text"]))


_ELSEWHERE = "stores the tensor conv/conv/kernel:0 compressed, chunked, behind a link or not at all"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_outside, _ELSEWHERE),
        (_soft, _ELSEWHERE),
        (_external, _ELSEWHERE),
        (_virtual, _ELSEWHERE),
        (_gzip, _ELSEWHERE),
        (_claimed, _ELSEWHERE),
        (_words, "not numbers"),
        (lambda group: None, "lacks the tensor 'conv/kernel:0'"),
    ],
)
def test_hdf5_does_not_reach_beyond_its_file(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["x"] = secret["conv/conv/kernel:0"] = NUMBERS
    path = _hdf5(tmp_path / "w.h5", change)
    with refused(message):
        read(path)


def test_many_datasets_cannot_claim_the_same_bytes(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["kernel"] = np.zeros(1 << 16, np.float32)
        layers = [f"layer{number}" for number in range(100)]
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer)
            group.attrs["weight_names"] = [b"kernel"]
            group["kernel"] = file["kernel"]
    with refused("claims more numbers"):
        read(tmp_path / "w.h5")


@pytest.mark.parametrize("shape", ["a circle", "a deep well"])
def test_groups_in_groups_end(shape: str, tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "w.weights.h5", "w") as file:
        group = file.create_group("layers/conv2d")
        if shape == "a circle":
            group["layers"] = file["layers"]
        else:
            for _ in range(200):
                group = group.create_group("layers")
    with refused("without weights of|groups more than 32 deep"):
        read(tmp_path / "w.weights.h5")


def test_a_graph_nested_without_end_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.keras", "w") as archive:
        archive.writestr("config.json", "[" * 1_000_000)
        archive.writestr("model.weights.h5", b"")
    with refused("damaged config.json"):
        read(tmp_path / "w.keras")


def test_a_file_at_which_the_library_of_hdf5_never_ends_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SECONDS", 3)
    path = _hdf5(tmp_path / "w.h5", lambda group: None)
    data = bytearray(path.read_bytes())
    # The length of the first text in the heap of texts, of which the library adds up a sum that overflows.
    struct.pack_into("<q", data, data.index(b"GCOL") + 24, -16)
    path.write_bytes(data)
    with refused(r"could not be read within \d+ seconds"):
        read(path)


def test_the_time_for_reading_hdf5_follows_the_size_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        given.append(int(command[-2]))
        return subprocess.CompletedProcess(command, -signal.SIGXCPU, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    for size in (1 << 10, 256 << 20):
        with (tmp_path / "w.h5").open("wb") as file:
            file.write(hdf5_file.MAGIC)
            os.posix_fallocate(file.fileno(), 0, size)
        # A limit that was reached is told as one, not as damage.
        with pytest.raises(WeightsError, match=r"within \d+ seconds of computing"):
            read(tmp_path / "w.h5")
    assert given == [20, 36]


@pytest.mark.parametrize("examples", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_a_damaged_hdf5_file_is_read_or_refused(examples: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (folder / "hdf5").read_bytes()
    monkeypatch.setattr(limits, "SECONDS", 5)

    @settings(max_examples=examples)
    @given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
    def damaged(changes: list[tuple[float, int]]) -> None:
        data = bytearray(whole)
        for place, byte in changes:
            data[int(place * len(data))] = byte
        (folder / "damaged").write_bytes(data)
        either_tensors_or_an_error(folder / "damaged", read)

    damaged()


# --- what the others may try


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 40], [7], [-1]])
def test_a_safetensors_header_that_lies_is_refused(shape: list[int], tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 24]}}).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + NUMBERS.tobytes())
    with refused("is not a safetensors file"):
        parsed(tmp_path / "w")


def test_onnx_tensors_in_other_files_and_of_false_shapes_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX files are read with the package onnx")
    (tmp_path / "data").write_bytes(NUMBERS.tobytes())
    elsewhere = onnx.numpy_helper.from_array(NUMBERS, "w")
    onnx.external_data_helper.set_external_data(elsewhere, str(tmp_path / "data"))
    elsewhere.ClearField("raw_data")
    larger = onnx.numpy_helper.from_array(NUMBERS, "w")
    larger.dims[:] = [1 << 40, 1 << 40]
    negative = onnx.numpy_helper.from_array(NUMBERS, "w")
    negative.dims[:] = [-2, -3]
    quantised = onnx.numpy_helper.from_array(NUMBERS.astype(np.int8), "w")
    for initializers, message in (
        ([elsewhere], "kept in another file, which is not opened"),
        ([larger], "24 bytes for the shape"),
        ([negative], "24 bytes for the shape"),
        ([quantised], "has data type 3"),
        ([negative, negative], "24 bytes"),
        ([], "no ONNX initializers"),
    ):
        (tmp_path / "m.onnx").write_bytes(onnx_bytes(initializers))
        with pytest.raises(WeightsError, match=message):
            parsed(tmp_path / "m.onnx")


_TENSORS = [tflite_tensor("w")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tflite([tflite_tensor("w", kind=9)]), r"as numbers that are not read \(tensor type 9\)"),
        (tflite([tflite_tensor("w", shape=(1 << 30, 1 << 30))]), "24 bytes for 'w'"),
        (tflite([tflite_tensor("w", shape=(-2, -3))]), "24 bytes for 'w'"),
        (tflite([tflite_tensor("w", buffer=9)]), "buffer 9 of 2"),
        (tflite(_TENSORS * 2), "two tensors called 'w'"),
        (tflite([]), "without constant tensors"),
        (struct.pack("<I", 0xFFFFFFF0) + b"TFL3", "points to byte"),
        # One table that is its own list of fields, and a vector as long as a number can say.
        (struct.pack("<I4sHHHHHHiI", 24, b"TFL3", 14, 8, 0, 0, 4, 0, 16, 0xFFFFFFFF), "points to"),
        # A thousand times the same graph of a thousand times the same tensor.
        (
            flatbuffer(Table({2: Repeated(Table({0: Repeated(Table({}), 1000)}), 1000), 4: [Table({})]})),
            "200000 tables",
        ),
    ],
)
def test_a_tflite_file_cannot_lead_out_of_itself(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        parsed(tmp_path / "m.tflite")


# --- chance


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file of every format, and room for a damaged one."""
    folder = tmp_path_factory.mktemp("samples")
    torch_zip(folder / "zip", {"w": tensor()})
    torch_legacy(folder / "legacy", {"w": tensor()})
    (folder / "safetensors").write_bytes(save({"w": NUMBERS}))
    (folder / "tflite").write_bytes(tflite(_TENSORS))
    _hdf5(folder / "hdf5", lambda group: group.create_dataset("kernel:0", data=NUMBERS))
    return folder


_FORMATS = ("zip", "legacy", "safetensors", "tflite")
_BY_CHANCE = settings(max_examples=300, deadline=None)


@_BY_CHANCE
@given(form=st.sampled_from(_FORMATS), share=st.floats(0, 1))
def test_a_file_that_ends_early_is_read_or_refused(form: str, share: float, folder: Path) -> None:
    data = (folder / form).read_bytes()
    (folder / "damaged").write_bytes(data[: int(share * len(data))])
    either_tensors_or_an_error(folder / "damaged")


@_BY_CHANCE
@given(
    form=st.sampled_from(_FORMATS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_file_with_wrong_bytes_is_read_or_refused(form: str, changes: list[tuple[float, int]], folder: Path) -> None:
    data = bytearray((folder / form).read_bytes())
    for place, byte in changes:
        data[int(place * len(data))] = byte
    (folder / "damaged").write_bytes(data)
    either_tensors_or_an_error(folder / "damaged")


@_BY_CHANCE
@given(head=st.sampled_from([b"", torch_file.LEGACY, b"PK\x03\x04", b"\0\0\0\0TFL3", b"\x80\x02"]), rest=st.binary())
def test_chance_behind_a_known_beginning_is_refused(head: bytes, rest: bytes, folder: Path) -> None:
    (folder / "damaged").write_bytes(head + rest)
    with pytest.raises(WeightsError):
        parsed(folder / "damaged")
