"""The device as the batcher sees it: which batches it takes, and what becomes of one that its memory does not hold."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS, Outputs

_log = logging.getLogger(__name__)

# (uint8 [N, H, W, C], names of outputs) -> those outputs, [N, ...] each
Compute = Callable[[NDArray[np.uint8], frozenset[str]], Outputs]

# Then one size more is tried. Memory that another process held is free again at some time, so a ceiling for ever would
# cost throughput until the next start; a try that fails costs one batch computed twice in ten minutes, and no answer.
_PATIENCE = 600.0  # seconds


class Part(NamedTuple):
    """What became of some images of a batch, one after the other."""

    begin: int  # row of the first one in the batch
    size: int  # images
    outputs: Outputs | None  # by name, ``[size, ...]`` each; None: they failed


@dataclass(frozen=True, slots=True)
class Computed:
    """What became of a batch."""

    parts: list[Part]  # in which it was computed
    halved: bool  # it did not fit into memory

    @property
    def ok(self) -> bool:
        """Whether every image has an answer."""
        return all(part.outputs is not None for part in self.parts)

    @property
    def rows(self) -> list[Outputs | None]:
        """The outputs of each image; None: it failed."""
        found: list[Outputs | None] = []
        for _, size, outputs in self.parts:
            if outputs is None:
                found += [None] * size
            else:
                found += [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
        return found


class Executor:
    """Computes batches of warm sizes; one that does not fit into memory is halved, and again. For all threads."""

    def __init__(
        self,
        compute: Compute,
        *,
        alone: Compute,
        sizes: tuple[int, ...],
        out_of_memory: Callable[[Exception], bool],
        clock: Callable[[], float],
    ) -> None:
        """Take what the batcher was given; `sizes` rise."""
        self._compute = compute
        self._alone = alone
        self._sizes = sizes
        self._out_of_memory = out_of_memory
        self._clock = clock
        self._lock = threading.Lock()
        self._ceiling = sizes[-1]
        self._since = 0.0  # when the ceiling was last moved

    @property
    def largest(self) -> int:
        """Images in the largest batch that may be composed: less than the largest warm size after it did not fit."""
        if self._ceiling == self._sizes[-1]:  # nearly always, and asked for several times a batch
            return self._ceiling
        with self._lock:
            if self._ceiling < self._sizes[-1] and self._clock() - self._since >= _PATIENCE:
                self._ceiling = self.padded(self._ceiling + 1)
                self._since = self._clock()
            return self._ceiling

    def sizes(self, least: int, most: int) -> list[int]:
        """The warm sizes from `least` to `most`, falling."""
        return [size for size in reversed(self._sizes) if least <= size <= most]

    def padded(self, size: int) -> int:
        """The warm size that a batch of `size` is filled up to."""
        return self._sizes[bisect_left(self._sizes, size)]

    def compute(
        self, staging: NDArray[np.uint8], count: int, *, alone: bool, outputs: frozenset[str] = DEFAULT_OUTPUTS
    ) -> Computed:
        """Compute `outputs` of the first `count` images of `staging`; what lies behind them is padding.

        Whatever fails, fails the part that it was in. An image that does not even fit by itself fails alone.
        """
        compute = self._alone if alone else self._compute
        parts: list[Part] = []
        # A batch may have been composed before another one lowered the ceiling.
        most, done, halved = min(count, self.largest), 0, False
        while done < count:
            size = min(most, count - done)
            try:
                parts.append(Part(done, size, self._piece(staging, done, size, compute, outputs)))
                done += size
            except Exception as error:  # noqa: BLE001 - whatever it is, it fails this part alone; the worker lives on
                smaller = self._smaller(self.padded(size)) if self._out_of_memory(error) else None
                if smaller is None:
                    _log.exception("a batch of %d images failed", size)
                    parts.append(Part(done, size, None))
                    done += size
                else:
                    _log.warning("a batch of %d images does not fit into memory; %d at once from now on", size, smaller)
                    most, halved = smaller, True
        return Computed(parts, halved)

    def _piece(
        self, staging: NDArray[np.uint8], begin: int, size: int, compute: Compute, outputs: frozenset[str]
    ) -> Outputs:
        padded = self.padded(size)
        # Near the end there may be no room for padding behind the part; then images before it are computed again.
        first = min(begin, len(staging) - padded)
        found = compute(staging[first : first + padded], outputs)
        if found.keys() != outputs:
            raise ValueError(f"the model gave {sorted(found)}, and {sorted(outputs)} were asked for")
        for name, values in found.items():
            if len(values) != padded:
                raise ValueError(f"the model gave {name} for {len(values)} of {padded} images")
        return {name: values[begin - first :][:size] for name, values in found.items()}

    def _smaller(self, padded: int) -> int | None:
        """Half of a size that did not fit, remembered; None for the smallest, which cannot be halved."""
        half = max((size for size in self._sizes if size <= padded // 2), default=None)
        if half is not None:
            with self._lock:
                self._ceiling = min(self._ceiling, half)
                self._since = self._clock()
        return half
