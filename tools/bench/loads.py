"""What a load is made of: when requests are due, and what their answers' times come to. No clock, no gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """When requests of independent callers are due: seconds from the start, rising, `rate` a second on average.

    It does not depend on any answer: a slow server gets the next request all the same, as from the real world.
    """
    if not rate > 0 or not seconds > 0:
        raise ValueError(f"rate and seconds must be positive. Received: {rate} and {seconds}")
    generator = np.random.default_rng(seed)
    due: list[float] = []
    now = generator.exponential(1 / rate)
    while now < seconds:
        due.append(float(now))
        now += generator.exponential(1 / rate)
    return due


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, mean and the largest; each percentile is a value that occurred. Empty for no values."""
    if not values:
        return {}
    array = np.asarray(values, np.float64)
    # The next higher value, never one between two: a p99 of few values is then their worst, not a guess below it.
    found = {name: float(np.quantile(array, share, method="higher")) for name, share in _SHARES.items()}
    return {**found, "mean": float(array.mean()), "max": float(array.max())}


def steady_rate(finished: Sequence[tuple[float, int]], begin: float, end: float) -> float:
    """Images a second between two times, from when how many of them were finished.

    The slope of the line through their running number: answers come a batch at once, and a mere count would be wrong by
    up to a batch at either end. 0 where there are too few to tell.
    """
    inside = sorted(one for one in finished if begin <= one[0] <= end)
    if len(inside) < 3 or inside[0][0] == inside[-1][0]:
        return 0.0
    times = np.array([time for time, _ in inside])
    images = np.cumsum([count for _, count in inside])
    return float(np.polyfit(times - times[0], images, 1)[0])


def median_of(rounds: Sequence[dict[str, Any]], *path: str) -> float:
    """The median over rounds of the value at `path`."""
    values = []
    for each in rounds:
        value: Any = each
        for key in path:
            value = value[key]
        values.append(float(value))
    return float(np.median(values))


def spread_of(values: Sequence[float]) -> float:
    """How far the values lie apart: the largest minus the smallest, as a share of the median."""
    middle = float(np.median(values))
    return (max(values) - min(values)) / middle if middle else 0.0
