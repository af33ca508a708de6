"""Reading named tensors from a file, whatever its format; none of them can run code.

The format is told by how the file begins, not by what it is called. Safetensors, which are made to be read from
anybody, are read here; all others in a process of their own (`models.weights.isolated`), for which the system limits
memory and computing.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from glimpse.models import regular_files
from glimpse.models.weights import formats, isolated, safetensors_file
from glimpse.models.weights.contents import Contents, SavedModel
from glimpse.models.weights.errors import WeightsError

Tensors = dict[str, NDArray[np.generic]]


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
    Tensors are read-only where that saves a copy; bfloat16 becomes float32. All together they take at most
    `models.weights.limits.decoded` bytes, whatever the file claims.

    Raises:
        WeightsError: not a file of a format that is known, a damaged one, one that claims more than it can hold, or one
            that needs a package which is missing.
        OSError: the file cannot be opened.
    """
    with open_file(path) as file:
        if formats.detect(file) == "safetensors":
            return formats.within_limits(Contents(safetensors_file.read(file, path)), file, path)
        return isolated.contents(file, path)


def saved_model(path: Path) -> SavedModel:
    """What a file of a whole model of Keras says of it, read as `contents` reads: its configuration and its size.

    Raises and returns as `contents` does.
    """
    with open_file(path) as file:
        return isolated.saved_model(file, path)


def open_file(path: Path) -> BinaryIO:
    """A file for reading, see `models.regular_files.open_file`.

    Raises:
        WeightsError: it is no plain file.
        OSError: it cannot be opened.
    """
    try:
        return regular_files.open_file(path)
    except regular_files.NotARegularFileError as error:
        raise WeightsError(str(error)) from error
