"""When requests are due, whatever becomes of those before them. No clock: seconds from the start."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count


def due(rate: float, *, steady: bool, seed: int) -> Iterator[float]:
    """Rising times without end, `rate` of them a second.

    Args:
        rate: requests a second, above 0; on average where they are not steady.
        steady: at equal distances; otherwise as independent callers come, which is by a Poisson process.
        seed: equal seeds give equal times.
    """
    if steady:
        yield from (number / rate for number in count())
    generator = random.Random(seed)
    now = 0.0
    while True:
        now += generator.expovariate(rate)
        yield now


def steps(first: float, last: float, number: int) -> list[float]:
    """The rates of a ramp: so many at equal distances, both ends among them; `last` alone where it is one."""
    if number == 1:
        return [last]
    return [first + (last - first) * step / (number - 1) for step in range(number)]
