"""Reading named tensors from files of several formats, without running code from any of them.

The format is detected from the first bytes, not from the file name. Safetensors, which are designed for untrusted
files, are read in this process; all others in a separate process with limits of memory and CPU time
(`models.weights.isolated`).

The readers are loaded with the first file: a server whose network is in its cache reads none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from glimpse.models.files import regular_files
from glimpse.models.weights.errors import WeightsError

if TYPE_CHECKING:
    from glimpse.models.weights.contents import Contents, SavedModel

Tensors = dict[str, NDArray[np.generic]]


def read(path: Path) -> Tensors:
    """All tensors of a file by name; of a file with several sets of tensors, the preferred one.

    Raises and returns as `contents` does.
    """
    return dict(contents(path).tensors)


def contents(path: Path) -> Contents:
    """The contents of a file: all tensors by name, and the graph where the file has one.

    - safetensors.
    - PyTorch's ``.pth`` and ``.pt`` with a state_dict, read without PyTorch and without executing the pickle. Where
      the file has several, averaged weights are preferred.
    - Keras' ``.keras`` and ``.weights.h5``, and the older ``.h5`` of Keras Applications: ``<layer>/<role>``, as in
      ``conv1_conv/kernel``, without the ``:0`` of TensorFlow.
    - ONNX: the initializers, including those that PyTorch stores in a separate file.
    - TFLite: the constant tensors; quantised ones are dequantised.

    Integers and scalars of ONNX and TFLite are not included: they are arguments of operations, such as shapes. Tensors
    are read-only where that saves a copy; bfloat16 becomes float32. Together they have at most
    `models.weights.limits.decoded` bytes.

    Raises:
        WeightsError: the format is not supported, the file is damaged, its tensors are too large for its size, or a
            package that is needed to read it is not installed.
        OSError: the file cannot be opened.
    """
    from glimpse.models.weights import formats, isolated, safetensors_file
    from glimpse.models.weights.contents import Contents

    with open_file(path) as file:
        if formats.detect(file) == "safetensors":
            return formats.within_limits(Contents(safetensors_file.read(file, path)), file, path)
        return isolated.contents(file, path)


def saved_model(path: Path) -> SavedModel:
    """The configuration and the size of the model in a Keras file, read in a separate process.

    Raises and returns as `contents` does.
    """
    from glimpse.models.weights import isolated

    with open_file(path) as file:
        return isolated.saved_model(file, path)


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading, see `models.files.regular_files.open_file`.

    Raises:
        WeightsError: it is not a regular file.
        OSError: it cannot be opened.
    """
    try:
        return regular_files.open_file(path)
    except regular_files.NotARegularFileError as error:
        raise WeightsError(str(error)) from error
