"""Runtimes: what computes a batch. One small interface, one file each."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class UnsupportedNetworkError(ValueError):
    """Expected: the runtime has no counterpart for something in the network; another runtime may."""


class Runtime(Protocol):
    """A model with its recipe's scaling, as a callable over uint8 batches."""

    @property
    def name(self) -> str:
        """For example ``tensorflow``."""

    @property
    def device(self) -> str:
        """For example ``cpu``."""

    @property
    def precision(self) -> str:
        """For example ``float32``."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities ``[N, classes]`` of uint8 pixels ``[N, H, W, 3]``.

        The pixels may be overwritten once it has returned, so it must not keep a view of them.
        """


def warm(runtime: Runtime, *, input_shape: tuple[int, int, int], batch_sizes: tuple[int, ...]) -> None:
    """Run every batch size once, so that no caller pays for a first time (graph optimisation, primitives)."""
    for size in batch_sizes:
        runtime(np.zeros((size, *input_shape), np.uint8))
