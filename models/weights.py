"""Weights on disk: safetensors files whose tensors are named after the Keras variables they belong to.

Names, never positions: a network whose layers were reordered still finds its weights, and one that was changed says
which tensors no longer fit. Reading such a file cannot run code.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors


class WeightsError(ValueError):
    """The file holds no readable weights."""


class WeightsMismatchError(WeightsError):
    """The file holds weights of another network; the message lists the tensors that do not fit."""

    def __init__(self, path: Path, missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
        self.missing = missing  # variables of the network that the file lacks
        self.unexpected = unexpected  # tensors of the file that the network lacks
        self.misshapen = misshapen  # "name: file's shape, network's shape"
        faults = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
        listed = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
        super().__init__(f"{path} does not fit this network. {listed}. Build the architecture that it was saved from.")


def save(model: keras.Model, path: Path) -> None:
    """Write every weight of `model` as float32, keyed by its path, for example ``group1_block1_a_conv/kernel``.

    Equal weights give equal bytes.
    """
    tensors: dict[str, NDArray[np.float32]] = {}
    for variable in model.weights:
        if variable.path in tensors:
            raise ValueError(f"Two weights are called {variable.path!r}. Give the layers of {model.name} unique names.")
        value = np.asarray(variable.numpy(), np.float32)
        # The writer takes the buffer as it lies in memory, so a transposed view would be saved in the wrong order.
        tensors[variable.path] = np.ascontiguousarray(value)
    # Not the library's save_file: that makes files which only their owner may read.
    path.write_bytes(safetensors.save(tensors))


def load(model: keras.Model, path: Path) -> None:
    """Set every weight of `model` from the tensor of its path.

    Raises:
        WeightsMismatchError: names or shapes differ; no weight has been changed.
        WeightsError: not a safetensors file.
        OSError: the file cannot be opened.
    """
    try:
        tensors = safetensors.load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: a number format that NumPy does not have
        raise WeightsError(f"{path} is not a safetensors file of float tensors: {error}. Copy it again.") from error
    variables = {variable.path: variable for variable in model.weights}
    misshapen = [
        f"{name}: {tuple(tensors[name].shape)}, the network has {tuple(variable.shape)}"
        for name, variable in sorted(variables.items())
        if name in tensors and tuple(tensors[name].shape) != tuple(variable.shape)
    ]
    missing, unexpected = sorted(variables.keys() - tensors.keys()), sorted(tensors.keys() - variables.keys())
    if missing or unexpected or misshapen:
        raise WeightsMismatchError(path, missing, unexpected, misshapen)
    for name, variable in variables.items():
        variable.assign(np.asarray(tensors[name], np.float32))
