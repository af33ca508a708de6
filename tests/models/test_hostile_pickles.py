"""PyTorch files that somebody made to do harm: they are refused, and nothing else happens.

No reader may run code, open another file, or need more memory than the file's own size explains.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.models.weights import WeightsError
from tests.models.weight_makers import (
    Call,
    Global,
    Operations,
    Outside,
    parsed,
    refused,
    rezipped,
    storage,
    tensor,
    torch_legacy,
    torch_zip,
)

# --- what a pickle may try


def ran(path: Path) -> tuple[Any, ...]:
    """Arguments with which a function that is called leaves a trace."""
    return (f"touch {path}",)


@pytest.mark.parametrize("make", [torch_zip, torch_legacy])
@pytest.mark.parametrize(
    "name", ["os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.getoutput"]
)
@pytest.mark.parametrize("new", [True, False], ids=["NEWOBJ", "REDUCE"])
def test_no_function_that_a_pickle_names_is_called(make: Any, name: str, new: bool, tmp_path: Path) -> None:  # noqa: FBT001
    trace = tmp_path / "trace"
    path = make(tmp_path / "w.pth", {"w": tensor(), "x": Call(name, ran(trace), new=new)})
    with refused(f"{name}, which is no part of a dictionary of tensors and was not run"):
        parsed(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "operations",
    [
        b"(S'touch trace'\nios\nsystem\n",  # INST
        b"(cos\nsystem\nX\x05\x00\x00\x00truedo",  # OBJ
        b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93X\x04\x00\x00\x00true\x85R",  # STACK_GLOBAL
        b"\x82\x01)R",  # EXT1
        b"Pname\n",  # PERSID
        b"\x8f",  # EMPTY_SET
        b"C\x01a",  # SHORT_BINBYTES
        b"N2",  # DUP
    ],
)
def test_operations_that_no_file_of_tensors_needs_are_refused(operations: bytes, tmp_path: Path) -> None:
    with refused("the operation [A-Z_0-9]+, which no file of tensors needs"):
        parsed(torch_zip(tmp_path / "w.pth", Operations(operations)))


def _nested(depth: int) -> Operations:
    """A tuple of itself twice, so many times: to hash it takes two to that power steps."""
    return Operations(b")" + b"q\x00h\x00\x86" * depth)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Operations(b"Nr\xff\xff\xff\x7f"), "a NoneType, not a dictionary"),  # a memo of two thousand million entries
        (Operations(b"}" + _nested(64).code + b"Ns"), "a dictionary with a tuple as a key"),
        ({"w": _nested(100_000)}, "without named tensors"),
        (Operations(b"N0" * 10), "the operation POP"),
        (Operations(b"R"), "a damaged pickle"),
        (Operations(b"(u"), "a damaged pickle"),
        (Operations(b"}(Nu"), "a damaged pickle"),
        (Operations(b"}Na"), "a dict used as a list"),
        (Operations(b"h\x07"), "a damaged pickle"),
        (Operations(b"X\xff\xff\xff\x7fabc"), "a damaged pickle"),
        (Operations(b"\x8b\xff\xff\xff\x7f"), "a damaged pickle"),
        (Operations(b"N" * 2_000_001), "more than 2000000 operations"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_a_pickle_cannot_take_more_than_its_size(value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        parsed(torch_zip(tmp_path / "w.pth", value))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (tensor(offset=1), "larger than its storage of 6"),
        (tensor(offset=-1), "no size"),
        (tensor(size=(2, -3)), "no size"),
        (tensor(stride=(-3, 1)), "no size"),
        (tensor(size=(1 << 62, 2)), "no size"),
        (tensor(size=(1 << 40, 1 << 20), stride=(0, 0)), "larger than its storage"),
        (tensor(size=(3, 3), stride=(1, 1)), "larger than its storage"),
        (tensor(size=(2, 3), stride=(1,)), "2 sizes and 1 strides"),
        (tensor(size=(1,) * 60, stride=(1,) * 60), "60 sizes"),
        (tensor(size=("2", 3)), "no size"),
        (tensor("text"), "something other than a storage"),
        (tensor(storage(count=7), size=(1, 1)), "24 bytes for storage '0' of 7 numbers|another number"),
        (tensor(storage(count=-6), size=(0,), stride=(1,)), "storage"),
        (tensor(storage(kind="QInt8Storage")), "numbers of the kind QInt8Storage"),
        (tensor(Outside(("storage", Global("os.FloatStorage"), "0", "cpu", 6))), "no storage"),
        (tensor(Outside(("module", Global("a.B"), "a.py", "import os"))), "a whole model with its code"),
        ([tensor(), tensor(storage(count=3))], "storage '0' with two types or sizes"),
    ],
)
@pytest.mark.parametrize("make", [torch_zip, torch_legacy])
def test_a_tensor_cannot_reach_out_of_its_storage(make: Any, made: Any, message: str, tmp_path: Path) -> None:
    with refused(message):
        parsed(make(tmp_path / "w.pth", {"w": made}))


@pytest.mark.parametrize("key", ["../version", "/etc/passwd", "../../../../etc/passwd", "1"])
def test_a_storage_is_only_looked_for_in_its_folder_of_the_archive(key: str, tmp_path: Path) -> None:
    with refused("lacks a readable 'archive/data/"):
        parsed(torch_zip(tmp_path / "w.pth", {"w": tensor(storage(key))}))


def test_a_legacy_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = torch_legacy(tmp_path / "w.pth", {"w": tensor()})
    path.write_bytes(path.read_bytes()[:-4])
    with refused("20 bytes for storage '0' of 6 numbers"):
        parsed(path)


@settings(max_examples=300, deadline=None)
@given(operations=st.binary(max_size=60))
def test_a_pickle_of_chance_is_refused(operations: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(WeightsError):
        parsed(torch_zip(tmp_path_factory.getbasetemp() / "chance.pth", Operations(operations)))


# --- what an archive may try


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_archives_are_refused_before_they_are_unpacked(compression: int, tmp_path: Path) -> None:
    torch_zip(tmp_path / "bomb.pth", {"w": tensor(storage(count=1 << 22))}, {"0": bytes(1 << 24)})
    path = rezipped(tmp_path / "bomb.pth", tmp_path / "small.pth", compression)
    with refused("compressed or encrypted"):
        parsed(path)


def test_members_that_share_bytes_or_claim_too_many_are_refused(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "w.pth", {"w": tensor()})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<II", data, entry + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(data)
    with refused("its members claim to be larger than the file"):
        parsed(path)


def test_an_archive_of_something_else_says_what_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with refused(r"neither model.weights.h5 \(Keras\) nor data.pkl \(PyTorch\): it holds readme.txt"):
        parsed(tmp_path / "w.pth")
