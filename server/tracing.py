"""Traces by OpenTelemetry: a span a call, in it one for each stage of each image, and one for each batch.

Off unless the standard variables ask for them: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER and their kin. The
packages are an extra, `tracing`; none of them is imported before that.
"""

from __future__ import annotations

import importlib.metadata
import os
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from glimpse.server.domain import ImageResult, Timing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span, SpanContext

_log = structlog.get_logger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# Of probes and tools, not of callers.
_UNSEEN = "grpc."
_HTTP = "http/"  # in front of the methods that are called over HTTP
# What the semantic conventions call an error of a server; the others are the caller's.
_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
_BATCHES = 256  # whose spans are remembered; all images of a batch are answered at about the same time
_SHOWN = 80  # characters of a text that callers choose
_NANO = 1_000_000_000


class Tracing:
    """Makes spans of calls. Lives on the event loop; sending them is done by a thread of OpenTelemetry's."""

    def __init__(self, provider: TracerProvider) -> None:
        """Hand the spans to `provider`."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("glimpse")
        self._propagator = TraceContextTextMapPropagator()
        self._batches: OrderedDict[int, SpanContext] = OrderedDict()

    def call(self, method: str, metadata: Iterable[tuple[str, str | bytes]], peer: str) -> CallSpan | None:
        """Begin the span of a call; None for health checks and reflection.

        Args:
            method: with its service: `glimpse.v1.ImageClassifier/Classify`.
            metadata: of the call; its `traceparent` and `tracestate`, if any, say which trace the call belongs to.
            peer: as gRPC writes it.
        """
        if method.startswith(_UNSEEN):
            return None
        from opentelemetry.trace import SpanKind

        address, port = _address(peer)
        span = self._tracer.start_span(
            method,
            context=self._propagator.extract({key: value for key, value in metadata if isinstance(value, str)}),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system.name": "http" if method.startswith(_HTTP) else "grpc",
                "rpc.method": method,
                "network.peer.address": address,
                **({"network.peer.port": port} if port else {}),
            },
        )
        return CallSpan(self, span)

    def close(self, seconds: float) -> None:
        """Send what is left to send, for at most so long."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(seconds)

    def images(self, span: Span, results: Sequence[ImageResult], stream_id: str) -> None:
        """Spans for the stages of the images of a call, below its `span`."""
        from opentelemetry.trace import Link, set_span_in_context

        below = set_span_in_context(span)
        now, monotonic = time.time_ns(), time.monotonic()

        def at(moment: float) -> int:
            return now - round((monotonic - moment) * _NANO)

        def stage(name: str, begin: float, seconds: float, attributes: dict[str, Any], links: Sequence[Link]) -> None:
            made = self._tracer.start_span(
                name, context=below, attributes=attributes, links=links, start_time=at(begin)
            )
            made.end(at(begin + seconds))

        of_request: dict[str, Any] = {"glimpse.stream_id": stream_id[:_SHOWN]} if stream_id else {}
        for index, result in enumerate(results):
            timing, error = result.timing, result.error
            which = {"glimpse.image": index, **of_request}
            decoding = which if error is None else {**which, "error.type": error.reason.value}
            begin = timing.begun
            for name, seconds in (("receive", timing.receive), ("admission", timing.admission)):
                if index == 0 and seconds:  # they are the same for all images of a request
                    stage(name, begin, seconds, of_request, ())
                begin += seconds
            if timing.decode_wait:
                stage("decode_wait", begin, timing.decode_wait, which, ())
            begin += timing.decode_wait
            stage("decode", begin, timing.decode, decoding, ())
            begin += timing.decode
            if error is None:
                stage("pre_stem", begin, timing.pre_stem, which, ())
                begin += timing.pre_stem
                stage("queue", begin, timing.queue, which, ())
                begin += timing.queue
                batch = self._batch(timing, below, at(begin), at(begin + timing.compute))
                stage("compute", begin, timing.compute, which, (Link(batch),))
                begin += timing.compute
            if timing.reply:
                stage("reply", begin, timing.reply, which, ())

    def _batch(self, timing: Timing, below: Any, begin: int, end: int) -> SpanContext:
        """The span of the batch that carried an image; it lies in the trace of the first call that was answered."""
        known = self._batches.get(timing.batch)
        if known is not None:
            return known
        attributes = {"glimpse.batch": timing.batch, "glimpse.batch_size": timing.batch_size}
        span = self._tracer.start_span("batch", context=below, attributes=attributes, start_time=begin)
        span.end(end)
        made = self._batches[timing.batch] = span.get_span_context()
        while len(self._batches) > _BATCHES:
            self._batches.popitem(last=False)
        return made


class CallSpan:
    """The span of one call."""

    def __init__(self, tracing: Tracing, span: Span) -> None:
        """Made by `Tracing.call`."""
        self._tracing = tracing
        self._span = span
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"  # for log lines
        # For a metric's sample: only what is kept somewhere can be looked up.
        self.exemplar = {"trace_id": self.trace_id} if context.trace_flags.sampled else None

    def images(self, results: Sequence[ImageResult], *, stream_id: str = "") -> None:
        """A request of the call is answered; `stream_id` is its id where the call is a stream."""
        if self._span.is_recording():
            self._tracing.images(self._span, results, stream_id)

    def end(self, code: str, *, reason: str = "", **attributes: str | int) -> None:
        """The call has ended with that gRPC status; the attributes get the prefix `glimpse.`."""
        if not self._span.is_recording():
            return
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("rpc.response.status_code", code)
        self._span.set_attributes({f"glimpse.{name}": value for name, value in attributes.items()})
        if reason:
            self._span.set_attribute("glimpse.reason", reason)
        if code in _ERRORS:
            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR, reason or None)
        self._span.end()


def start(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Traces as the standard variables ask for them; None where they do not, or where that cannot be.

    What cannot be is logged and no more: the variables are often given to all pods of a cluster alike.
    """
    names = wanted(environment)
    if not names:
        return None
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning(
            "no traces",
            detail="The OTEL_* variables turn on traces, but OpenTelemetry is not installed. Install it with pip "
            "install 'glimpse-serve[tracing]', or set OTEL_TRACES_EXPORTER=none.",
        )
        return None
    # The last one wins: what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say.
    resource = Resource.create({"service.name": "glimpse"}).merge(OTELResourceDetector().detect())
    # It reads the sampler's variables itself, as the exporters do theirs. Closed by us, not at Python's exit.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in names:
        found = importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=name)
        try:
            if not found:
                raise ValueError(f"No installed package provides the exporter {name!r}.")  # noqa: TRY301 - one place tells
            provider.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
        except Exception as error:  # noqa: BLE001 - whatever an exporter finds wrong, the service can do without it
            _log.warning("no traces", detail=f"{error} Check OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_PROTOCOL.")
            provider.shutdown()
            return None
    _log.info("traces", exporters=names)
    return Tracing(provider)


def wanted(environment: Mapping[str, str]) -> list[str]:
    """The exporters that the variables ask for, by the names under which packages bring them."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    asked = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if not asked:
        # The specification's default is to send traces to this machine; a service that nobody asked sends nothing.
        asked = "otlp" if any(environment.get(name) for name in _ENDPOINTS) else "none"
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if "none" in names:
        return []
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    otlp = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}.get(protocol.strip(), protocol)
    return [otlp if name == "otlp" else name for name in names]


def _address(peer: str) -> tuple[str, int]:
    """Address and port of a peer as gRPC writes it; 0: it has no port."""
    kind, _, place = urllib.parse.unquote(peer).partition(":")
    host, _, port = place.rpartition(":")
    if kind in {"ipv4", "ipv6"} and port.isdecimal():
        return host.strip("[]"), int(port)
    return place or peer, 0
