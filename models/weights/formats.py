"""Detecting the format of a weights file, and reading it with the reader of that format.

Except for `detect`, this module runs in a separate process (`models.weights.reader`).
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import BinaryIO

from glimpse.models.weights import (
    graphs,
    hdf5_file,
    keras_file,
    limits,
    onnx_file,
    safetensors_file,
    tflite_file,
    torch_file,
)
from glimpse.models.weights.archive import Archive
from glimpse.models.weights.contents import Contents, SavedModel
from glimpse.models.weights.errors import WeightsError

_HEAD = 512  # bytes that tell every format
_ZIP = b"PK\x03\x04"
# What readers raise for what they did not foresee of a damaged file.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, EOFError, struct.error)


def detect(file: BinaryIO) -> str:
    """The format of a file by its first bytes, empty if it is not supported. The file is left at its beginning."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(_ZIP):
        return "zip"
    if head.startswith(torch_file.LEGACY):
        return "legacy"
    if head.startswith(hdf5_file.MAGIC):
        return "hdf5"
    if head[4:8] == tflite_file.MAGIC:
        return "tflite"
    # Neither of the last two has a magic number: safetensors begins with a length and an object of JSON, ONNX with
    # its first field, the version of its format.
    if head[8:9] == b"{":
        return "safetensors"
    return "onnx" if head.startswith(onnx_file.FIRST_FIELD) else ""


def memory_map(file: BinaryIO) -> mmap.mmap:
    """The file mapped into memory: the system reads its bytes when they are accessed."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def contents(file: BinaryIO, path: Path, data: mmap.mmap | None = None) -> Contents:
    """Read the contents of a file in this process.

    Args:
        file: the file, which is not empty.
        path: of it, for messages, and to find what lies beside an ONNX model.
        data: what it holds; the tensors are parts of it where they lie in the file as they are.

    Raises:
        WeightsError: see `models.weights.files.contents`.
        MemoryError: there was not enough.
    """
    try:
        found = within_limits(_contents(file, path, data), file, path)
        if found.graph is not None:  # as whoever asked for it will do: where it is read, it harms nobody
            graphs.reduced(found.graph)
    except WeightsError:
        raise
    except graphs.RepeatedError as error:
        raise WeightsError(
            f"{path} combines values more often than any known network does. Export or convert the model again."
        ) from error
    except limits.TooLargeError as error:
        raise WeightsError(
            f"{path} contains {error}, more than a file of its size can explain. Save the weights again."
        ) from error
    except _DAMAGE as error:
        raise WeightsError(
            f"{path} is damaged: {_short(error)}. Copy it again, or save the weights again as safetensors."
        ) from error
    return found


def _contents(file: BinaryIO, path: Path, data: mmap.mmap | None) -> Contents:
    form = detect(file)
    if form == "safetensors":
        return Contents(safetensors_file.read(file, path))
    if not form:
        head = file.read(16)
        raise WeightsError(
            f"{path} is not a safetensors file, nor one of PyTorch, Keras, ONNX or TFLite: it begins with {head!r}. "
            "Save the weights in one of these formats."
        )
    data = memory_map(file) if data is None else data
    if form == "zip":
        return _read_zip(Archive(file, path, memoryview(data)), path)
    if form == "legacy":
        return torch_file.read_legacy(data, path)
    if form == "hdf5":
        return keras_file.read_hdf5(hdf5_file.Hdf5(file, path, memoryview(data)), path)
    if form == "tflite":
        return tflite_file.read(memoryview(data), path)
    return onnx_file.read(memoryview(data), path)


def saved_model(file: BinaryIO, path: Path) -> SavedModel:
    """Read the description of a model in a file, in this process.

    Raises and returns as `contents` does.
    """
    try:
        form = detect(file)
        if form == "hdf5":
            return keras_file.old_model(hdf5_file.Hdf5(file, path, memoryview(memory_map(file))), path)
        if form == "zip":
            return keras_file.model(Archive(file, path, memoryview(memory_map(file))), path)
    except WeightsError:
        raise
    except limits.TooLargeError as error:
        raise WeightsError(f"{path} holds {error}. Save the model again.") from error
    except _DAMAGE as error:
        raise WeightsError(f"{path} is damaged: {_short(error)}. Copy it again.") from error
    raise WeightsError(f"{path} is a damaged .keras file: it is neither a zip file nor one of HDF5. Copy it again.")


def within_limits(found: Contents, file: BinaryIO, path: Path) -> Contents:
    """Check that the number and the size of the tensors are plausible for the size of the file, and return them.

    Raises:
        WeightsError: they are not.
    """
    sets = (found, *found.others)
    names = [name for one in sets for name in one.tensors]
    size = sum(value.nbytes for one in sets for value in one.tensors.values())
    if len(names) > limits.TENSORS:
        excess = f"{len(names)} tensors; {limits.TENSORS} are read"
    elif (longest := max(map(len, names), default=0)) > limits.NAME:
        excess = f"a tensor with a name of {longest} characters; {limits.NAME} are read"
    elif size > limits.decoded(total := os.fstat(file.fileno()).st_size + onnx_file.beside(path)):
        excess = f"tensors of {size} bytes together, many times its own {total}"
    else:
        return found
    raise WeightsError(f"{path} holds {excess}. No network has such weights: save them again.")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _read_zip(archive: Archive, path: Path) -> Contents:
    if keras_file.WEIGHTS in archive.names:
        return keras_file.read_archive(archive, path)
    if any(torch_file.is_pickle(name) for name in archive.names):
        return torch_file.read_zip(archive, path)
    shown = ", ".join(name[:80] for name in archive.names[:5])
    raise WeightsError(
        f"{path} is a zip file with neither {keras_file.WEIGHTS} (Keras) nor data.pkl (PyTorch): it holds "
        f"{shown or 'nothing'}. Save the weights in a format of theirs, or as safetensors."
    )
