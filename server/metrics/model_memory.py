"""The metrics of the memory of a repository's models: what each takes, and how often they were woken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from glimpse.server.domain import ModelIdentity


class ModelMemory(Collector):
    """Read at each scrape, and counted on the event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register; a server without a repository has no series."""
        self._sizes: Callable[[], Iterable[tuple[ModelIdentity, int]]] = tuple
        self._limit: int | None = None
        self._wake_ups = Counter[tuple[str, str]]()
        registry.register(self)

    def follow(self, sizes: Callable[[], Iterable[tuple[ModelIdentity, int]]], limit: int) -> None:
        """Read the bytes of each model that is awake from there; `limit`: of all, 0: what the machine leaves."""
        self._sizes, self._limit = sizes, limit

    def woken(self, model: ModelIdentity, outcome: str) -> None:
        """An attempt to wake a model has ended: `woken`, `refused` or `failed`."""
        self._wake_ups[model.name, outcome] += 1

    def collect(self) -> Iterator[Metric]:
        """The metrics with their series."""
        sizes = GaugeMetricFamily(
            "glimpse_model_memory_bytes",
            "Memory that a model of the repository takes, in bytes, as far as it was measured; no series while it "
            "sleeps.",
            labels=["model", "version"],
        )
        for identity, size in self._sizes():
            sizes.add_metric((identity.name, identity.version), size)
        yield sizes
        limit = GaugeMetricFamily(
            "glimpse_models_memory_limit_bytes",
            "Limit of the memory of the repository's models, in bytes; 0 means all that the machine has left.",
        )
        if self._limit is not None:
            limit.add_metric((), self._limit)
        yield limit
        wake_ups = CounterMetricFamily(
            "glimpse_model_wake_ups",
            "Attempts to load a sleeping model again, by outcome: woken, refused (not enough memory) or failed.",
            labels=["model", "outcome"],
        )
        for labels, count in list(self._wake_ups.items()):
            wake_ups.add_metric(labels, count)
        yield wake_ups
