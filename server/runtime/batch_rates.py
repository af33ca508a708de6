"""Which batch sizes a GPU is to be warmed for, by the rates that are measured at the start.

How much a larger batch gains depends on the network, the GPU and the runtime, so it is measured rather than guessed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from glimpse.server.runtime import kept_measurements

KIND = "batch_sizes"  # of measurement
LARGEST = 256  # images; beyond that a batch takes longer than it gains on every GPU that was measured
_GAIN = 1.05  # times the rate of the size before it that a larger one must reach
_RUNS = 3  # of each size, of which the fastest counts: whatever else happens only makes one slower
_log = structlog.get_logger(__name__)


def useful_sizes(
    compute: Callable[[int], object],
    sizes: Sequence[int],
    *,
    may_grow: bool,
    out_of_memory: Callable[[Exception], bool],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, ...]:
    """The sizes that are worth being warm for, rising.

    The largest is doubled up to 256 while that raises the rate (images a second) by more than 5%, and as long as it
    fits into memory; where it does not raise the rate, the largest is lowered. Of the others those are left out that
    take as long as the next larger one, to which a batch may as well be padded.

    Args:
        compute: computes a batch of that many images; its first call for a size may compile.
        sizes: to begin with, rising.
        may_grow: whether the largest may be changed; else the user has stated it, and it stays.
        out_of_memory: whether an error of `compute` says that the batch did not fit.
        clock: seconds, monotonic.

    Raises:
        Exception: whatever `compute` raises for one of `sizes`.
    """
    seconds = {size: _seconds(compute, size, clock) for size in sizes}
    largest = sizes[-1]
    if may_grow:
        while 2 * largest <= LARGEST and largest == max(seconds) and _gains(seconds, largest):
            try:
                seconds[2 * largest] = _seconds(compute, 2 * largest, clock)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                _log.info("batch size does not fit", size=2 * largest, detail=f"The largest batch is {largest} images.")
                break
            largest *= 2
        while not _gains(seconds, largest) and largest != min(seconds):
            largest = max(size for size in seconds if size < largest)
    kept = [largest]
    for size in sorted((size for size in seconds if size < largest), reverse=True):
        if seconds[kept[-1]] > _GAIN * seconds[size]:
            kept.append(size)
    return tuple(reversed(kept))


def useful_sizes_kept(
    compute: Callable[[int], object],
    sizes: Sequence[int],
    *,
    may_grow: bool,
    out_of_memory: Callable[[Exception], bool],
    follows_from: Mapping[str, Any],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, ...]:
    """What `useful_sizes` has found at an earlier start and kept, if the largest still fits into memory; else now.

    Args:
        compute: as for `useful_sizes`, as are `sizes`, `may_grow` and `out_of_memory`.
        sizes: see there.
        may_grow: see there.
        out_of_memory: see there.
        follows_from: what the rates depend on, besides these; see `kept_measurements.facts`.
        clock: seconds, monotonic.

    Raises:
        Exception: whatever `compute` raises.
    """
    follows_from = {**follows_from, "sizes": [*sizes], "may_grow": may_grow}

    def parsed(found: Any) -> tuple[int, ...]:
        if not all(type(each) is int and 1 <= each <= max(LARGEST, sizes[-1]) for each in found):
            raise ValueError(f"batch sizes are whole numbers from 1 to {max(LARGEST, sizes[-1])}. Received: {found}")
        if not found or found != sorted(set(found)):
            raise ValueError(f"batch sizes rise. Received: {found}")
        return tuple(found)

    if (kept := kept_measurements.read(KIND, follows_from, parsed)) is not None:
        try:
            compute(kept[-1])
        except Exception as error:
            if not out_of_memory(error):
                raise
            _log.info("batch size does not fit any more", size=kept[-1], detail="The batch sizes are measured again.")
        else:
            return kept
    found = useful_sizes(compute, sizes, may_grow=may_grow, out_of_memory=out_of_memory, clock=clock)
    kept_measurements.store(KIND, follows_from, found)
    return found


def _gains(seconds: dict[int, float], size: int) -> bool:
    """Whether a size has a higher rate than the next smaller one; the smallest has nothing to be compared with."""
    smaller = max((each for each in seconds if each < size), default=None)
    return smaller is None or size / seconds[size] > _GAIN * smaller / seconds[smaller]


def _seconds(compute: Callable[[int], object], size: int, clock: Callable[[], float]) -> float:
    """Seconds for a batch of `size`: the least of some, behind a first one that may compile."""
    compute(size)
    found = []
    for _ in range(_RUNS):
        begun = clock()
        compute(size)
        found.append(clock() - begun)
    return max(min(found), 1e-9)
