"""The service's Prometheus metrics, in one place: names, help, labels, buckets."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from glimpse.server import build
from glimpse.server.answers.drift import Drift
from glimpse.server.domain import BatchReport, Timing
from glimpse.server.errors import IMAGE_REASONS, Reason
from glimpse.server.metrics import merge
from glimpse.server.metrics.batches import BatchSeries, Depths, ModelBatches, QueueDepth
from glimpse.server.metrics.calls import Rpcs
from glimpse.server.metrics.labelling import LabellingMetrics
from glimpse.server.metrics.loop import Count, LoopCounter
from glimpse.server.metrics.model_memory import ModelMemory
from glimpse.server.metrics.model_series import ModelSeries
from glimpse.server.metrics.rollouts import RolloutMetrics
from glimpse.server.metrics.stages import ModelStages, StageSeconds

CLOSED_FOR = ("flood", "share", "blocked")  # why a connection was closed; floods/penalties.py decides
OUTCOMES = ("classified", "refused", "expired", "cancelled", "failed")
# 0.1 ms to 10 s: from a tiny network on an idle machine to the end of most callers' patience.
_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _Followed(Collector):
    """A counter that somebody else counts."""

    def __init__(self, name: str, text: str, registry: CollectorRegistry) -> None:
        self._name, self._text = name, text
        self._count: Callable[[], int] = lambda: 0
        registry.register(self)

    def set_function(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._text, value=self._count())


def _registry() -> CollectorRegistry:
    """A registry that tells of the process, of Python, and of the versions of what computes."""
    # The `_created` series are OpenMetrics' business; in the text format they are nameless gauges.
    prometheus_client.disable_created_metrics()
    registry = CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.PlatformCollector(registry=registry)
    prometheus_client.GCCollector(registry=registry)
    information = build.information()
    Gauge(
        "glimpse_build_info",
        "Versions of Glimpse, Python, gRPC and the runtimes, as labels; the value is always 1. An empty label "
        "means that it is not installed.",
        list(information),
        registry=registry,
    ).labels(**information).set(1)
    return registry


class Metrics:
    """All instruments on one registry, so that two servers in a process do not share their numbers."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, drift: Drift | None = None, *, labelling: bool = True
    ) -> None:
        """Make the instruments; every known label value is there from the start, at 0.

        Args:
            clock: seconds, monotonic.
            drift: what is seen of images and answers; None: nothing is counted of them.
            labelling: whether samples are kept or feedback is taken; else nothing is told of them.
        """
        self.registry = registry = _registry()
        self.rpcs = Rpcs(_SECONDS, registry)
        self.models = ModelSeries(registry, clock, self._forget)
        self._stages = StageSeconds(_SECONDS, registry)
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._names = frozenset[str]()  # of these; replaced as a whole
        self._making = threading.Lock()  # held while what is counted for a model is put together, in any thread
        self._batches = BatchSeries(registry)
        self._images = LoopCounter(
            "glimpse_images", "Images that were admitted, by outcome.", ("model", "version", "outcome"), registry
        )
        self._refused = Counter(
            "glimpse_images_refused",
            "Images that were refused because they could not be classified, by reason.",
            ["reason"],
            registry=registry,
        )
        self._requests_answered = LoopCounter(
            "glimpse_requests_answered",
            "Requests for classification that were answered, by model; each request of a stream counts.",
            ("model",),
            registry,
        )
        self._rejected = Counter(
            "glimpse_requests_rejected",
            "Requests that were refused as a whole, by model and reason; each request of a stream counts. The model is "
            "empty where it was not known yet, or where none of that name is served.",
            ["model", "reason"],
            registry=registry,
        )
        self._in_flight = Gauge(
            "glimpse_images_in_flight", "Images in flight, between arrival and answer.", registry=registry
        )
        self._bytes_in_flight = Gauge(
            "glimpse_image_bytes_in_flight", "Encoded bytes of the images in flight.", registry=registry
        )
        self._work_in_flight = Gauge(
            "glimpse_decoding_pixels_in_flight",
            "Estimated work of decoding the images in flight, in pixels of an ordinary JPEG photo.",
            registry=registry,
        )
        self._most_in_flight = Gauge(
            "glimpse_images_in_flight_limit", "Limit of the images in flight.", registry=registry
        )
        self._most_bytes_in_flight = Gauge(
            "glimpse_image_bytes_in_flight_limit",
            "Limit of the encoded bytes of the images in flight.",
            registry=registry,
        )
        self._most_work_in_flight = Gauge(
            "glimpse_decoding_pixels_in_flight_limit",
            "Limit of the estimated work of decoding in flight, in pixels of an ordinary JPEG photo.",
            registry=registry,
        )
        self._queue_depth = QueueDepth(registry)
        self._decode_queue_depth = Gauge(
            "glimpse_decode_queue_depth", "Images in the queue for a decoder.", registry=registry
        )
        self._decoder_restarts = _Followed(
            "glimpse_decoder_restarts", "Decoder processes that had to be replaced.", registry
        )
        self._decoders_overdue = Gauge(
            "glimpse_decoders_overdue",
            "Decoder threads that have worked on one image for longer than GLIMPSE_DECODE_SECONDS.",
            registry=registry,
        )
        self._credentials_stale = Gauge(
            "glimpse_credentials_stale",
            "1 while a changed certificate or token file cannot be used and the server continues with its previous "
            "content.",
            registry=registry,
        )
        self._connections_closed = Counter(
            "glimpse_connections_closed",
            "Connections that the server closed, or whose calls it refused, to protect other callers, by reason.",
            ["reason"],
            registry=registry,
        )
        for closed in CLOSED_FOR:
            self._connections_closed.labels(closed)
        self._addresses_blocked = Gauge(
            "glimpse_addresses_blocked",
            "Addresses from which no new connections are accepted at present, because of a flood.",
            registry=registry,
        )
        self._ready = merge.ready_gauge(registry)
        self.memory = ModelMemory(registry)
        self.rollouts = RolloutMetrics(registry, _SECONDS)
        self.labelling = LabellingMetrics(registry if labelling else CollectorRegistry())
        self.drift = Drift(on=False) if drift is None else drift
        registry.register(self.drift)
        # The first refusal of its kind would else make a series that begins at 1, in which no increase can be seen.
        # Where no model has been loaded yet, too, the share of refused requests is to be a number.
        self._requests_answered.labels("")
        self._reject_at_zero("")
        for reason in IMAGE_REASONS:
            self._refused.labels(reason.value)

    def follow(
        self,
        *,
        in_flight: Callable[[], int],
        bytes_in_flight: Callable[[], int],
        work_in_flight: Callable[[], int],
        queue_depth: Depths,
        decode_queue_depth: Callable[[], int],
        decoder_restarts: Callable[[], int],
        decoders_overdue: Callable[[], int],
        credentials_stale: Callable[[], bool],
    ) -> None:
        """Read from where the numbers live, at each scrape."""
        self._in_flight.set_function(in_flight)
        self._bytes_in_flight.set_function(bytes_in_flight)
        self._work_in_flight.set_function(work_in_flight)
        self._queue_depth.set_function(queue_depth)
        self._decode_queue_depth.set_function(decode_queue_depth)
        self._decoder_restarts.set_function(decoder_restarts)
        self._decoders_overdue.set_function(decoders_overdue)
        self._credentials_stale.set_function(credentials_stale)

    def limits(self, *, images: int, size: int, work: int) -> None:
        """So many images, so many bytes of them, and so much work of decoding may be in flight."""
        self._most_in_flight.set(images)
        self._most_bytes_in_flight.set(size)
        self._most_work_in_flight.set(work)

    def ready(self, *, ready: bool) -> None:
        """The server began or ceased to be SERVING."""
        self._ready.set(ready)

    def of(self, model: str, version: str) -> ModelMetrics:
        """What is counted for a model of its own. To be asked for models that are loaded: each has a set of series."""
        key = model, version
        found = self._models.get(key) or self._made(key)
        self.models.loading(model, version)
        return found

    def _made(self, key: tuple[str, str]) -> ModelMetrics:
        with self._making:
            found = self._models.get(key)
            if found is None:
                images = {outcome: self._images.labels(*key, outcome) for outcome in OUTCOMES}
                self._reject_at_zero(key[0])
                requests = self._requests_answered.labels(key[0])
                found = ModelMetrics(self, self._stages.of(*key), self._batches.of(*key), images, requests)
                self._models[key] = found
                self._names = frozenset(name for name, _ in self._models)
            return found

    def _forget(self, key: tuple[str, str]) -> None:
        with self._making:
            self._models.pop(key, None)
            self._stages.forget(*key)
            self._batches.forget(*key)
            for outcome in OUTCOMES:
                self._images.remove(*key, outcome)
            self._names = frozenset(name for name, _ in self._models)
            if (name := key[0]) not in self._names:
                self._requests_answered.remove(name)
                for reason in Reason:
                    with contextlib.suppress(KeyError):
                        self._rejected.remove(name, reason.value)

    def _reject_at_zero(self, model: str) -> None:
        for reason in Reason:
            self._rejected.labels(model, reason.value)

    def image_refused(self, reason: Reason) -> None:
        """An image got an error of its own."""
        self._refused.labels(reason.value).inc()

    def request_rejected(self, reason: Reason, model: str = "") -> None:
        """A request for the model of that name got an error as a whole; the name may be whatever a caller has sent."""
        self._rejected.labels(model if model in self._names else "", reason.value).inc()

    def connections_closed(self, reason: str, count: int) -> None:
        """So many connections were closed; `reason` is one of `CLOSED_FOR`."""
        self._connections_closed.labels(reason).inc(count)

    def addresses_blocked(self, count: int) -> None:
        """So many addresses are blocked: no new connections are accepted from them."""
        self._addresses_blocked.set(count)


class ModelMetrics:
    """What is counted for one model; the observer of its batcher. For all threads."""

    def __init__(
        self,
        metrics: Metrics,
        stages: ModelStages,
        batches: ModelBatches,
        images: Mapping[str, Count],
        requests: Count,
    ) -> None:
        """Made by `Metrics.of`."""
        self._metrics, self._stages, self._images, self._requests = metrics, stages, images, requests
        self._batch = batches.batch
        self.expired, self.cancelled, self.halved = batches.expired, batches.cancelled, batches.halved

    def image(self, outcome: str, count: int = 1) -> None:
        """So many images ended, in one of `OUTCOMES`; every image that is admitted ends in exactly one.

        For the event loop alone, as the next one.
        """
        self._images[outcome].inc(count)

    def image_refused(self, reason: Reason) -> None:
        """An image got an error of its own."""
        self.image("refused")
        self._metrics.image_refused(reason)

    def prepared(self, timing: Timing, *, fitted: bool) -> None:
        """An image has waited for a decoder and was decoded; `fitted`: and passed the pre-stem."""
        times = ("decode_wait", timing.decode_wait), ("decode", timing.decode), ("pre_stem", timing.pre_stem)
        self._stages.observe(times if fitted else times[:2])

    def gave_up_decoding(self, waited: float) -> None:
        """An image of a request that has failed was taken back, after it had waited for a decoder for so long."""
        self._stages.observe((("decode_wait", waited),))

    def answered(self, timings: Sequence[Timing]) -> None:
        """The reply to a request with these images has been put together."""
        self._requests.inc()
        times: list[tuple[str, float]] = []
        for timing in timings:
            times += ("receive", timing.receive), ("admission", timing.admission), ("reply", timing.reply)
        self._stages.observe(times)

    def batch(self, report: BatchReport) -> None:
        """A batch ended: this is the batcher's observer."""
        self._batch(report)
        computed = ("compute", report.compute_seconds)
        times: list[tuple[str, float]] = []
        for queued in report.queue_seconds:
            times += ("queue", queued), computed
        self._stages.observe(times)
