"""Counters and histograms that the event loop alone counts with: at each call, so that each microsecond matters.

The library's own take a lock for each count and look whether they are children or parents. These add to plain numbers;
a scrape reads them from its own thread, where it may find a histogram's sum one call behind its counts.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """How often something happened."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        """Not yet."""
        self.value = 0.0

    def inc(self, number: float = 1.0) -> None:
        """It happened so often."""
        self.value += number


class Times:
    """How long something took."""

    __slots__ = ("_bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Nothing took any time yet; `bounds` are those of the buckets, rising; one without end follows."""
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.exemplars: dict[int, Exemplar] = {}  # by bucket
        self.sum = 0.0

    def observe(self, seconds: float, exemplar: dict[str, str] | None = None) -> None:
        """It took so long once; `exemplar` names an example."""
        bucket = bisect_left(self._bounds, seconds)
        self.counts[bucket] += 1
        self.sum += seconds
        if exemplar:
            self.exemplars[bucket] = Exemplar(exemplar, seconds, time.time())


class LoopCounter(Collector):
    """A counter with labels."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry, *, at_zero: bool = True
    ) -> None:
        """Without series; those that count nothing yet are told if `at_zero`."""
        self._name, self._text, self._labels, self._at_zero = name, text, labels, at_zero
        self._counts: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The series of these values, which begins at 0."""
        found = self._counts.get(values)
        if found is None:
            found = Count()
            self._counts = {**self._counts, values: found}  # as a whole: a scrape may be reading the one before
        return found

    def remove(self, *values: str) -> None:
        """End the series of these values, if there is one."""
        self._counts = {each: count for each, count in self._counts.items() if each != values}

    def describe(self) -> Iterator[CounterMetricFamily]:
        """The metric without its series."""
        yield CounterMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The metric with its series."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self._counts.items():
            if count.value or self._at_zero:
                family.add_metric(values, count.value)
        yield family


class LoopHistogram(Collector):
    """A histogram with labels."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
        *,
        at_zero: bool = True,
    ) -> None:
        """Without series; those that count nothing yet are told if `at_zero`. `bounds` of the buckets rise."""
        self._name, self._text, self._labels, self._bounds, self._at_zero = name, text, labels, bounds, at_zero
        self._names = [*map(floatToGoString, bounds), "+Inf"]
        self._times: dict[tuple[str, ...], Times] = {}
        registry.register(self)

    def labels(self, *values: str) -> Times:
        """The series of these values, which begins at 0."""
        found = self._times.get(values)
        if found is None:
            found = Times(self._bounds)
            self._times = {**self._times, values: found}  # as above
        return found

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The metric without its series."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric with its series."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, times in self._times.items():
            counts, exemplars = list(accumulate(times.counts)), dict(times.exemplars)
            if not (counts[-1] or self._at_zero):
                continue
            buckets = [
                (name, float(count), exemplars[place]) if place in exemplars else (name, float(count))
                for place, (name, count) in enumerate(zip(self._names, counts, strict=True))
            ]
            family.add_metric(values, buckets, times.sum)
        yield family
