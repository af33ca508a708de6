"""The metrics of batches and of the queue in front of the device, of each model of its own."""

from __future__ import annotations

import contextlib
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from glimpse.server.domain import BatchReport

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_OF = ("model", "version")
_CAUSES = ("expired", "cancelled")
_OUTCOMES = {True: "computed", False: "failed"}

Depths = Callable[[], Iterable[tuple[str, str, int]]]


class ModelBatches:
    """Those of one model, each looked up once: finding a label's instrument costs more than counting with it."""

    def __init__(self, series: BatchSeries, model: str, version: str) -> None:
        """Made by `BatchSeries.of`: all series are there from now on, at 0."""
        of = model, version
        self._size, self._padding = series.size.labels(*of), series.padding.labels(*of)
        self._halved = series.halved.labels(*of)
        self._ended = {ok: series.batches.labels(*of, outcome) for ok, outcome in _OUTCOMES.items()}
        self._expired, self._cancelled = (series.dropped.labels(*of, cause) for cause in _CAUSES)

    def batch(self, report: BatchReport) -> None:
        """A batch ended."""
        self._ended[report.ok].inc()
        self._size.observe(report.size)
        self._padding.inc(report.padded_size - report.size)

    def expired(self, count: int) -> None:
        """Images were left out of a batch because of their deadline."""
        self._expired.inc(count)

    def cancelled(self, count: int) -> None:
        """Images were left out of a batch because nobody waited for them any more."""
        self._cancelled.inc(count)

    def halved(self) -> None:
        """A batch was computed in parts, for want of memory."""
        self._halved.inc()


class BatchSeries:
    """Those of all models. For all threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Make the instruments, without series."""
        self.size = Histogram(
            "glimpse_batch_size",
            "Number of images in a batch, without padding.",
            _OF,
            buckets=_SIZES,
            registry=registry,
        )
        self.padding = Counter(
            "glimpse_batch_padding_images",
            "Rows computed only to fill a batch up to a size that the runtime is compiled for.",
            _OF,
            registry=registry,
        )
        self.batches = Counter("glimpse_batches", "Batches, by outcome.", (*_OF, "outcome"), registry=registry)
        self.dropped = Counter(
            "glimpse_queue_dropped_images",
            "Images that left the queue without being computed, by cause.",
            (*_OF, "cause"),
            registry=registry,
        )
        self.halved = Counter(
            "glimpse_batches_halved",
            "Batches that did not fit into memory and were computed in parts.",
            _OF,
            registry=registry,
        )

    def of(self, model: str, version: str) -> ModelBatches:
        """The instruments of a model."""
        return ModelBatches(self, model, version)

    def forget(self, model: str, version: str) -> None:
        """End the series of a model that is gone."""
        for each in (self.size, self.padding, self.halved):
            with contextlib.suppress(KeyError):  # there are none
                each.remove(model, version)
        for metric, values in ((self.batches, _OUTCOMES.values()), (self.dropped, _CAUSES)):
            for value in values:
                with contextlib.suppress(KeyError):
                    metric.remove(model, version, value)


class QueueDepth(Collector):
    """How many images wait for the device, read from where the numbers live at each scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """No model is there yet."""
        self._depths: Depths = tuple
        registry.register(self)

    def set_function(self, depths: Depths) -> None:
        """Have `depths` give model, version and images of each queue; of one version there may be several."""
        self._depths = depths

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The metric without its series."""
        yield GaugeMetricFamily("glimpse_queue_depth", "Images in the queue for the device.", labels=_OF)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metric with its series."""
        found = Counts[tuple[str, str]]()
        for model, version, images in self._depths():
            found[model, version] += images
        for family in self.describe():
            for labels, images in found.items():
                family.add_metric(labels, images)
            yield family
