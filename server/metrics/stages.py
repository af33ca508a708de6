"""Where images spend their time: one histogram for each stage of each model.

The library's own histogram takes a lock and a search for each observation, 5 us; with eight stages an image, that would
be a tenth of what a small image costs. Here the stages that are known together are counted under one lock.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

# In the order in which an image goes through them. They follow one another without a gap, so that their sum is the
# time from the beginning of a call (of a stream: of a request) to its reply.
STAGES = ("receive", "admission", "decode_wait", "decode", "pre_stem", "queue", "compute", "reply")


class ModelStages:
    """The histograms of one model. For all threads."""

    def __init__(self, buckets: Sequence[float]) -> None:
        """Take the upper bounds of the buckets in seconds, rising; one more, without end, is added."""
        self._buckets = buckets
        self._lock = threading.Lock()
        self._counts = {stage: [0] * (len(buckets) + 1) for stage in STAGES}
        self._sums = dict.fromkeys(STAGES, 0.0)

    def observe(self, seconds: Iterable[tuple[str, float]]) -> None:
        """Count times by their stages."""
        buckets, all_counts, sums = self._buckets, self._counts, self._sums
        with self._lock:
            for stage, value in seconds:
                all_counts[stage][bisect_left(buckets, value)] += 1
                sums[stage] += value

    def now(self) -> list[tuple[str, list[int], float]]:
        """For each stage its counts by bucket, and the sum of its seconds."""
        with self._lock:
            return [(stage, list(self._counts[stage]), self._sums[stage]) for stage in STAGES]


class StageSeconds(Collector):
    """The metric: the histograms of all models."""

    name = "glimpse_stage_seconds"
    labels = ("model", "version", "stage")

    def __init__(self, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        """Register with the bounds of the buckets, in seconds."""
        self._buckets = tuple(buckets)
        self._bounds = [*map(floatToGoString, self._buckets), "+Inf"]
        self._models: dict[tuple[str, str], ModelStages] = {}
        registry.register(self)

    def of(self, model: str, version: str) -> ModelStages:
        """The histograms of a model: only of models that are loaded, which bounds the number of series."""
        key = model, version
        found = self._models.get(key)
        if found is None:
            # Replaced as a whole: a scrape may be reading the one before.
            found = ModelStages(self._buckets)
            self._models = {**self._models, key: found}
        return found

    def forget(self, model: str, version: str) -> None:
        """End the series of a model that is gone."""
        self._models = {key: stages for key, stages in self._models.items() if key != (model, version)}

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The metric without its series."""
        yield self._family()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric with its series."""
        family = self._family()
        for (model, version), stages in self._models.items():
            for stage, counts, total in stages.now():
                buckets = zip(self._bounds, map(float, accumulate(counts)), strict=True)
                family.add_metric((model, version, stage), list(buckets), total)
        yield family

    def _family(self) -> HistogramMetricFamily:
        text = (
            "Time that an image spent in each stage, in seconds. The stages of an image add up to the time of its call."
        )
        return HistogramMetricFamily(self.name, text, labels=self.labels)
