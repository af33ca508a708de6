"""Runtimes: what computes a batch. One small interface, one file each.

`server.runtimes` has a row for each, with all that is to be known before its framework is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glimpse.models.map_rows import Head
from glimpse.models.messages import lacks_memory, short
from glimpse.models.outputs import CLASS_MAPS, DEFAULT_OUTPUTS, FEATURE_MAP, LOGITS, Outputs
from glimpse.server.machine import cores
from glimpse.server.processes.startup import StartupError
from glimpse.server.runtimes import QUANTISED, RUNTIMES, Precision
from glimpse.server.settings.kinds import PrecisionChoice


class UnsupportedNetworkError(ValueError):
    """Expected: the runtime has no counterpart for something in the network; another runtime may."""


@contextlib.contextmanager
def errors_as_unsupported(what: str, reason: Callable[[Exception], str] = short) -> Iterator[None]:
    """Whatever is raised within becomes a `MemoryError`, or an `UnsupportedNetworkError` that says what it was about.

    Args:
        what: what an error within means, ``openvino cannot compute this network``.
        reason: what to tell of the error, behind that.
    """
    try:
        yield
    except (UnsupportedNetworkError, StartupError):
        raise
    except Exception as error:  # what it raises depends on the part of the framework that fails
        if lacks_memory(error):
            raise MemoryError(short(error)) from error
        raise UnsupportedNetworkError(f"{what}: {reason(error)}") from error


def stated(precision: Precision, runtime: str) -> Precision:
    """The same precision, if the runtime of that name computes in it.

    Raises:
        ValueError: expected; it does not.
    """
    if precision == QUANTISED and not RUNTIMES[runtime].quantises:
        able = [row.name for row in RUNTIMES.values() if row.quantises]
        raise ValueError(
            f"The runtime {runtime} does not compute in {precision}; {' and '.join(able)} does, on CPUs. Set "
            f"GLIMPSE_PRECISION to auto, or GLIMPSE_RUNTIME to {able[0]}."
        )
    return precision


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

    @property
    def streams(self) -> int:
        """Batches that it computes side by side, each from a thread of its own."""

    @property
    def outputs(self) -> frozenset[str]:
        """The names of what it computes for each image, see `models.outputs`."""

    def batch_sizes(self, largest: int, multiply_adds: int) -> tuple[int, ...]:
        """Sizes to be warmed, rising; a batch is padded up to the next.

        Args:
            largest: the last of them; 0: what suits the runtime and the network.
            multiply_adds: of the network, for one image.
        """

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str] = DEFAULT_OUTPUTS) -> Outputs:
        """The outputs of these names, each float32 ``[N, ...]``, of uint8 pixels ``[N, H, W, C]``.

        The pixels may be overwritten once it has returned, so it must not keep a view of them.
        """

    def alone(self, pixels: NDArray[np.uint8], outputs: frozenset[str] = DEFAULT_OUTPUTS) -> Outputs:
        """The same for a batch beside which nothing else is computed: the whole device may work on it."""

    def prepare_maps(self) -> None:
        """Do what has to be done before the first class maps, and is left until somebody asks for them."""

    def out_of_memory(self, error: Exception) -> bool:
        """Whether `error`, raised by a call, says that the batch does not fit: a smaller one may."""


class RuntimeType(Protocol):
    """A runtime's class: what it says before anything is built."""

    def __call__(self, network: Any, precision: Precision) -> Runtime:
        """A runtime of a network in the form that it reads: a Keras model, a kept one, or a converted graph's file."""

    def resolve(self, precision: PrecisionChoice) -> Precision:
        """In which precision it computes when `precision` is asked for: ``auto`` is the fastest that the device has.

        Raises:
            ValueError: expected; the device does not have it.
        """

    def processor(self) -> str:
        """What computes; on equal ones the answers are equal."""


class OneStream:
    """What the runtimes have in common that put the whole device behind each batch."""

    streams = 1

    @classmethod
    def processor(cls) -> str:
        """What computes; on equal ones the answers are equal. Each runtime has its own name for a GPU."""
        return cores.processor()

    def batch_sizes(self, largest: int, multiply_adds: int) -> tuple[int, ...]:  # noqa: ARG002 - the protocol's
        """Powers of two and the largest: some compile the network anew for each size."""
        largest = largest or 32
        return (*(1 << i for i in range(largest.bit_length()) if 1 << i < largest), largest)

    maps_head: Head | None = None  # None: the network has no maps

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str] = DEFAULT_OUTPUTS) -> Outputs:
        """The outputs of these names of uint8 pixels ``[N, H, W, C]``."""
        if CLASS_MAPS not in outputs:
            return self._compute(pixels, outputs)
        assert self.maps_head is not None  # noqa: S101 - else there is no such output
        found = self._compute(pixels, outputs - {CLASS_MAPS} | {LOGITS, FEATURE_MAP})
        maps = self.maps_head.rows(found[FEATURE_MAP], found[LOGITS])
        return {name: maps if name == CLASS_MAPS else found[name] for name in outputs}

    def _compute(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        """The outputs of a batch, the feature map among them; each runtime has its own."""
        raise NotImplementedError

    def _named(self, model: Any) -> frozenset[str]:
        """The names of all outputs of a serving model, which is about to be compiled."""
        self.maps_head = getattr(model, "maps_head", None)
        return outputs_with(model.output_names, self.maps_head)

    def alone(self, pixels: NDArray[np.uint8], outputs: frozenset[str] = DEFAULT_OUTPUTS) -> Outputs:
        """The same."""
        return self(pixels, outputs)

    def prepare_maps(self) -> None:
        """Nothing: maps are made of the feature map."""

    def out_of_memory(self, error: Exception) -> bool:
        """Python's own; each runtime adds its framework's."""
        return isinstance(error, MemoryError)


def outputs_with(names: Iterable[str], maps_head: Head | None) -> frozenset[str]:
    """The names of what a runtime computes: those of a serving model, with class maps in the place of their features.

    Args:
        names: of the outputs of the serving model.
        maps_head: what makes the class maps; None: the network has none.
    """
    found = frozenset(names) - {FEATURE_MAP}
    return found if maps_head is None else found | {CLASS_MAPS}
