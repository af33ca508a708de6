"""Reading named tensors from a file, whatever its format; none of them can run code.

The format is told by how the file begins, not by what it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.weights import hdf5_file, keras_file, onnx_file, safetensors_file, tflite_file, torch_file
from models.weights.archive import Archive
from models.weights.contents import Contents
from models.weights.errors import WeightsError

Tensors = dict[str, NDArray[np.generic]]

_HEAD = 512  # bytes that tell every format


def read(path: Path) -> Tensors:
    """All tensors of a file, by the names they have there; of several sets of them the first of `contents`.

    Raises and returns as `contents` does.
    """
    return dict(contents(path).tensors)


def contents(path: Path) -> Contents:
    """What a file holds: all tensors, by the names they have there, and the graph where there is one.

    - safetensors.
    - PyTorch's ``.pth`` and ``.pt`` of a state_dict, read without PyTorch and without running what they pickle. Where
      it lies among others, averaged weights are first.
    - Keras' ``.keras`` and ``.weights.h5``, and the older ``.h5`` of Keras Applications: ``<layer>/<role>``, as in
      ``conv1_conv/kernel``, without the ``:0`` of TensorFlow.
    - ONNX: the initializers, also where PyTorch has put them into a file beside the model.
    - TFLite: the constant tensors, quantised ones as the numbers that they stand for.

    Of ONNX and TFLite, integers and single numbers are left out: they are arguments of operations, as shapes are.
    Tensors are read-only where that saves a copy; bfloat16 becomes float32.

    Raises:
        WeightsError: not a file of a format that is known, a damaged one, or one that needs a package which is missing.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(0)
        if head.startswith(b"PK\x03\x04"):
            return _read_zip(file, path)
        if head.startswith(torch_file.LEGACY):
            return torch_file.read_legacy(file, path)
        if head.startswith(hdf5_file.MAGIC):
            return Contents(keras_file.read_hdf5(file, path))
        if head[4:8] == tflite_file.MAGIC:
            return tflite_file.read(file, path)
        # Neither of the last two has a magic number: safetensors begins with a length and an object of JSON, ONNX with
        # its first field, the version of its format.
        if head[8:9] == b"{":
            return Contents(safetensors_file.read(file, path))
        if head.startswith(onnx_file.FIRST_FIELD):
            return onnx_file.read(file, path)
    raise WeightsError(
        f"{path} is not a safetensors file, nor one of PyTorch, Keras, ONNX or TFLite: it begins with {head[:16]!r}. "
        "Save the weights in one of these formats."
    )


def _read_zip(file: BinaryIO, path: Path) -> Contents:
    archive = Archive(file, path)
    if keras_file.WEIGHTS in archive.names:
        return Contents(keras_file.read_archive(archive, path))
    if any(torch_file.is_pickle(name) for name in archive.names):
        return torch_file.read_zip(archive, path)
    raise WeightsError(
        f"{path} is a zip file with neither {keras_file.WEIGHTS} (Keras) nor data.pkl (PyTorch): it holds "
        f"{', '.join(archive.names[:5]) or 'nothing'}. Save the weights in a format of theirs, or as safetensors."
    )
