"""Many durations in little memory: counts in buckets of 1 %, however many and however long they are."""

from __future__ import annotations

import math
from collections.abc import Iterator

_LEAST = 1e-6  # seconds; all that is shorter lies in the first bucket
_STEP = math.log(1.01)  # a bucket ends 1 % above the one before it
_LAST = math.ceil(math.log(1e5 / _LEAST) / _STEP)  # more than a day: 2,546 buckets at most


class Histogram:
    """Counts of durations in seconds. Its percentiles are at most 1 % above a duration that occurred."""

    __slots__ = ("_buckets", "count", "largest", "total")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.largest = 0.0  # exact
        self.total = 0.0  # exact, for the mean

    def add(self, seconds: float) -> None:
        """Count one; a negative one, of a clock that was read twice, as 0."""
        seconds = max(0.0, seconds)
        bucket = 0 if seconds <= _LEAST else min(_LAST, math.ceil(math.log(seconds / _LEAST) / _STEP))
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += seconds
        self.largest = max(self.largest, seconds)

    def merge(self, other: Histogram) -> None:
        """Count all that another one counted."""
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    def percentile(self, share: float) -> float:
        """The duration that this share of all does not exceed, 0..1; the next higher one, never a guess between two.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.count:
            raise ValueError("There is no percentile of nothing.")
        wanted = max(1, math.ceil(share * self.count - 1e-9))  # 0.99 * 100 is a little more than 99
        seen = 0
        for upper, count in self.buckets():
            seen += count
            if seen >= wanted:
                return min(upper, self.largest)
        return self.largest

    @property
    def mean(self) -> float:
        """Of all that was counted; 0 of nothing."""
        return self.total / self.count if self.count else 0.0

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Upper edges in seconds, rising, each with its count; without the empty ones."""
        for bucket in sorted(self._buckets):
            yield _LEAST * math.exp(_STEP * bucket), self._buckets[bucket]

    def figures(self) -> dict[str, float]:
        """p50, p90, p95, p99, p99.9, mean and max in seconds; nothing of nothing."""
        if not self.count:
            return {}
        shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
        return {**{n: self.percentile(s) for n, s in shares.items()}, "mean": self.mean, "max": self.largest}
