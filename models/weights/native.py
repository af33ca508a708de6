"""Our own files: safetensors whose tensors are named after the Keras variables they belong to.

Names, never positions: a network whose layers were reordered still finds its weights, and one that was changed says
which tensors no longer fit. Reading such a file cannot run code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import keras
import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as safetensors

from glimpse.models.files import whole_files


def save(model: keras.Model, path: Path, *, dtype: Literal["float32", "float16"] = "float32") -> None:
    """Write every weight of `model`, keyed by its path, for example ``group1_block1_a_conv/kernel``.

    Equal weights give equal bytes.

    Args:
        model: the network.
        path: of the file.
        dtype: float16 halves the file; it keeps 11 significant bits of numbers between 6e-5 and 65504.

    Raises:
        ValueError: two weights have the same path, or one is too large for the dtype.
        OSError: the file cannot be written; an earlier one stays.
    """
    tensors: dict[str, NDArray[np.floating]] = {}
    for variable in model.weights:
        if variable.path in tensors:
            raise ValueError(f"Two weights are called {variable.path!r}. Give the layers of {model.name} unique names.")
        value = keras.ops.convert_to_numpy(variable)
        if not np.all(np.abs(value) <= np.finfo(dtype).max):
            raise ValueError(f"{variable.path} holds numbers that {dtype} cannot. Save it as float32.")
        # The writer takes the buffer as it lies in memory, so a transposed view would be saved in the wrong order.
        tensors[variable.path] = np.ascontiguousarray(value.astype(dtype))
    # Not the library's save_file: that makes files which only their owner may read.
    whole_files.write_bytes(path, safetensors.save(tensors))
