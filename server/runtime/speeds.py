"""How many times as fast one runtime computes a network as another one, on this machine, whatever else runs on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

_TURNS = 7  # at least
_SECONDS = 0.5  # that the turns of a size take together, at least, and
_MOST_TURNS = 50  # but no more turns than these

Compute = Callable[[int], object]


def ratio(one: Compute, other: Compute, sizes: Sequence[int], clock: Callable[[], float] = time.monotonic) -> float:
    """How many times as fast `one` computes as `other`, at the size at which it gains least.

    They compute in turns, and of each the fastest turn counts: whatever else happens only makes one slower.

    Args:
        one: computes a batch of that many images; its first call for a size may compile.
        other: the same.
        sizes: of batches.
        clock: seconds, monotonic.
    """
    return min(_ratio(one, other, size, clock) for size in sizes)


def _ratio(one: Compute, other: Compute, size: int, clock: Callable[[], float]) -> float:
    both = one, other
    for compute in both:
        compute(size)
    best = [float("inf"), float("inf")]
    end = clock() + _SECONDS
    for turn in range(_MOST_TURNS):
        if turn >= _TURNS and clock() >= end:
            break
        for which, compute in enumerate(both):
            begun = clock()
            compute(size)
            best[which] = min(best[which], clock() - begun)
    return max(best[1], 1e-9) / max(best[0], 1e-9)
