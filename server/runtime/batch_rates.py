"""Which batch sizes a GPU is to be warmed for, by the rates that are measured at the start.

How much a larger batch gains depends on the network, the GPU and the runtime, so it is measured rather than guessed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from glimpse.server.nouns import noun
from glimpse.server.runtime import kept_measurements

KIND = "batch_sizes"  # of measurement
LARGEST = 256  # images; beyond that a batch takes longer than it gains on every GPU that was measured
_GAIN = 1.05  # times the rate of smaller sizes that a larger one must exceed
_TURNS = 5  # of all sizes, at the most
_RUNS = 3  # of each size, of which the fastest counts: whatever else happens only makes one slower
_log = structlog.get_logger(__name__)


class Useful(NamedTuple):
    """What was measured."""

    sizes: tuple[int, ...]  # worth being warm for, rising
    settled: bool  # whether measuring once more gave the same


def useful_sizes(
    compute: Callable[[int], object],
    sizes: Sequence[int],
    *,
    may_grow: bool,
    out_of_memory: Callable[[Exception], bool],
    clock: Callable[[], float] = time.monotonic,
) -> Useful:
    """The sizes that are worth being warm for.

    The largest is doubled up to 256 while one of the two largest raises the rate (images a second) by more than 5%, and
    as long as it fits into memory. The smallest counts that no larger one exceeds by more than that. Of those below it
    all are left out that take as long as the next larger one, to which a batch may as well be padded. Whatever else
    happens on a machine makes a size slower, so that all are measured again until that changes nothing any more, a few
    times at the most, and of each its fastest batch counts.

    Args:
        compute: computes a batch of that many images; its first call for a size may compile.
        sizes: to begin with, rising.
        may_grow: whether the largest may be changed; else the user has stated it, and it stays.
        out_of_memory: whether an error of `compute` says that the batch did not fit.
        clock: seconds, monotonic.

    Raises:
        Exception: whatever `compute` raises for one of `sizes`.
    """
    seconds: dict[int, float] = {}
    largest = LARGEST if may_grow else sizes[-1]

    def measure(size: int) -> None:
        seconds[size] = min(seconds.get(size, math.inf), _seconds(compute, size, clock))

    found: tuple[int, ...] = ()
    for _ in range(_TURNS):
        for size in sorted({*seconds, *sizes}):
            measure(size)
        while (doubled := 2 * max(seconds)) <= largest and _may_gain(seconds):
            try:
                measure(doubled)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                largest = max(seconds)
                _log.info(
                    "batch size does not fit",
                    size=doubled,
                    detail=f"The largest batch has {largest} {noun(largest, 'image')}.",
                )
        before, found = found, _chosen(seconds, may_grow=may_grow)
        if found == before:
            return Useful(found, settled=True)
    _log.info("batch sizes in doubt", sizes=found, detail="The next start measures again.")
    return Useful(found, settled=False)


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
    if found.settled:  # a start that measured beside other work is not to decide for all others
        kept_measurements.store(KIND, follows_from, found.sizes)
    return found.sizes


def _may_gain(seconds: Mapping[int, float]) -> bool:
    """Whether a size beyond the largest may have a higher rate: not where neither of the two largest has one."""
    *smaller, one, other = sorted(seconds) if len(seconds) > 1 else (0, *seconds)
    before = max((size / seconds[size] for size in smaller), default=0.0)
    return max(size / seconds[size] for size in (one, other) if size) > _GAIN * before


def _chosen(seconds: Mapping[int, float], *, may_grow: bool) -> tuple[int, ...]:
    """The sizes that these times recommend, rising."""
    rates = {size: size / seconds[size] for size in sorted(seconds)}
    best = max(rates.values())
    # The first that is near enough to the best.
    largest = next(size for size, rate in rates.items() if _GAIN * rate >= best) if may_grow else max(rates)
    kept = [largest]
    for size in sorted((size for size in seconds if size < largest), reverse=True):
        if seconds[kept[-1]] > _GAIN * seconds[size]:
            kept.append(size)
    return tuple(reversed(kept))


def _seconds(compute: Callable[[int], object], size: int, clock: Callable[[], float]) -> float:
    """Seconds for a batch of `size`: the least of some, behind a first one that may compile."""
    compute(size)
    found = []
    for _ in range(_RUNS):
        begun = clock()
        compute(size)
        found.append(clock() - begun)
    return max(min(found), 1e-9)
