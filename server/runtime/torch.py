"""The PyTorch runtime: Keras on PyTorch, operation by operation."""

from __future__ import annotations

import keras
import numpy as np
import torch
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS, Outputs
from glimpse.models.serving import by_name
from glimpse.server import cores
from glimpse.server.runtime import OneStream
from glimpse.server.runtime.precision import compute_in
from glimpse.server.runtimes import Precision
from glimpse.server.settings.kinds import PrecisionChoice


class TorchRuntime(OneStream):
    """Runs a serving model on the first GPU, or on the CPU.

    Keras keeps images as ``[N, H, W, C]`` and hands PyTorch a view of them as ``[N, C, H, W]``: what PyTorch calls
    channels_last, which is the layout that tensor cores and oneDNN want.
    """

    name = "torch"

    def __init__(self, model: keras.Model, precision: PrecisionChoice = "auto") -> None:
        """Take `model`, uint8 ``[N, H, W, C]`` -> its named outputs, float32.

        Args:
            model: as `models.serving` makes it; bfloat16 is set in its layers.
            precision: ``auto`` is bfloat16 on a GPU that multiplies in it, and float32 elsewhere.
        """
        torch.set_num_threads(cores.available())
        gpu = torch.cuda.is_available()
        self.device = "gpu:0" if gpu else "cpu"
        self.precision = self.resolve(precision)
        compute_in(model, self.precision)
        # Else a GPU rounds the factors of every float32 product to 10 bits.
        torch.backends.cudnn.allow_tf32 = False
        self.outputs = frozenset(model.output_names)
        self._on = torch.device("cuda" if gpu else "cpu")
        self._model = model

    @classmethod
    def resolve(cls, precision: PrecisionChoice) -> Precision:
        """In which precision it computes when told `precision`: ``auto`` is the fastest that the device has."""
        if precision != "auto":
            return precision
        multiplies = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if multiplies else "float32"

    @classmethod
    def processor(cls) -> str:
        """What computes; on equal ones the answers are equal."""
        return torch.cuda.get_device_name() if torch.cuda.is_available() else super().processor()

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str] = DEFAULT_OUTPUTS) -> Outputs:
        """The outputs of these names of uint8 pixels ``[N, H, W, C]``."""
        with torch.inference_mode():
            found = by_name(self._model, self._model(torch.from_numpy(pixels).to(self._on), training=False))
            return {name: found[name].cpu().numpy() for name in outputs}

    def out_of_memory(self, error: Exception) -> bool:
        """Whether `error` says that the batch does not fit; on a CPU PyTorch has no type of its own for it."""
        if isinstance(error, torch.OutOfMemoryError) or super().out_of_memory(error):
            return True
        return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
