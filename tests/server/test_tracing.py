"""Traces: when there are any, what they say, and that a real receiver gets them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from glimpse.server.domain import ImageResult, Timing
from glimpse.server.errors import InvalidImageError, Reason
from glimpse.server.tracing import CallSpan, Tracing, start, wanted
from tests.conftest import ROOT
from tests.server.otlp import Receiver, over_grpc, over_http

METHOD = "glimpse.v1.ImageClassifier/Classify"
PEER = "ipv4:192.0.2.7:40000"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
NANO = 1_000_000_000


@pytest.fixture
def made() -> InMemorySpanExporter:
    """What has been made, span by span."""
    return InMemorySpanExporter()


@pytest.fixture
def tracing(made: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(made))
    return Tracing(provider)


@pytest.fixture(autouse=True)
def _nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "TRACES_ENDPOINT", "PROTOCOL", "TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_TRACES_SAMPLER", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)


def begin(tracing: Tracing, *metadata: tuple[str, str | bytes]) -> CallSpan:
    call = tracing.call(METHOD, metadata, PEER)
    assert call is not None
    return call


def result(*, batch: int = 1, size: int = 2) -> ImageResult:
    """An image whose way began ten seconds ago."""
    timing = Timing(decode=0.5, pre_stem=0.25, queue=1.0, compute=2.0, batch_size=size)
    timing.begun, timing.batch = time.monotonic() - 10, batch
    return ImageResult(timing)


def named(made: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [each for each in made.get_finished_spans() if each.name == name]


@pytest.mark.parametrize(
    ("variables", "exporters"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "glimpse"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318"}, ["otlp_proto_http"]),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            ["otlp_proto_grpc"],
        ),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            ["otlp_proto_http"],
        ),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, []),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, []),
    ],
)
def test_the_standard_variables_say_whether_there_are_traces(variables: dict[str, str], exporters: list[str]) -> None:
    assert wanted(variables) == exporters


def test_where_nobody_asks_for_traces_nothing_of_opentelemetry_is_loaded() -> None:
    script = (
        "import sys; from glimpse.server import tracing; assert tracing.start({}) is None; "
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_without_the_packages_the_service_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with capture_logs() as lines:
        assert start({"OTEL_TRACES_EXPORTER": "otlp"}) is None
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("no traces", "warning")
    assert "glimpse-serve[tracing]" in line["detail"]


def test_an_exporter_that_nobody_knows_is_named_and_the_service_goes_on() -> None:
    with capture_logs() as lines:
        assert start({"OTEL_TRACES_EXPORTER": "console,zipkun"}) is None
    assert "'zipkun'" in lines[-1]["detail"]


def test_a_call_is_a_server_span_as_the_conventions_describe_it(tracing: Tracing, made: InMemorySpanExporter) -> None:
    call = begin(tracing)
    call.end("OK", images=3, model="cifar10")
    (span,) = made.get_finished_spans()
    assert (span.name, span.kind, span.parent) == (METHOD, SpanKind.SERVER, None)
    assert span.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.response.status_code": "OK",
        "network.peer.address": "192.0.2.7",
        "network.peer.port": 40000,
        "glimpse.images": 3,
        "glimpse.model": "cifar10",
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("peer", "address", "port"),
    [
        ("ipv4:192.0.2.7:40000", "192.0.2.7", 40000),
        ("ipv6:%5B2001:db8::1%5D:40000", "2001:db8::1", 40000),
        ("ipv6:[::1]:40000", "::1", 40000),
        ("unix:/run/glimpse.sock", "/run/glimpse.sock", None),
        ("unix:", "unix:", None),
    ],
)
def test_a_peer_of_any_kind_has_an_address(
    tracing: Tracing, made: InMemorySpanExporter, peer: str, address: str, port: int | None
) -> None:
    call = tracing.call(METHOD, (), peer)
    assert call is not None
    call.end("OK")
    (span,) = made.get_finished_spans()
    assert span.attributes is not None
    assert (span.attributes["network.peer.address"], span.attributes.get("network.peer.port")) == (address, port)


@pytest.mark.parametrize(
    ("code", "ours"),
    [("INVALID_ARGUMENT", False), ("RESOURCE_EXHAUSTED", False), ("CANCELLED", False), ("INTERNAL", True)],
)
def test_only_what_is_the_servers_fault_is_an_error(
    tracing: Tracing,
    made: InMemorySpanExporter,
    code: str,
    ours: bool,  # noqa: FBT001 - a case of the table
) -> None:
    begin(tracing).end(code, reason="WHY")
    (span,) = made.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["rpc.response.status_code"] == code
    assert span.attributes["glimpse.reason"] == "WHY"
    assert (span.status.status_code is StatusCode.ERROR, "error.type" in span.attributes) == (ours, ours)


def test_a_call_continues_the_trace_of_its_caller(tracing: Tracing, made: InMemorySpanExporter) -> None:
    call = begin(tracing, ("x-bin", b"\x00"), ("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "a=b"))
    call.end("OK")
    (span,) = made.get_finished_spans()
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.context.trace_state == {"a": "b"}
    assert (call.trace_id, call.exemplar) == (TRACE, {"trace_id": TRACE})


@pytest.mark.parametrize("header", ["", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", "\udcff", "x" * 10_000])
def test_a_header_that_is_no_trace_begins_a_new_one(tracing: Tracing, made: InMemorySpanExporter, header: str) -> None:
    begin(tracing, ("traceparent", header)).end("OK")
    (span,) = made.get_finished_spans()
    assert span.parent is None


def test_a_call_whose_caller_does_not_keep_its_trace_makes_no_span(
    tracing: Tracing, made: InMemorySpanExporter
) -> None:
    call = begin(tracing, ("traceparent", f"00-{TRACE}-{PARENT}-00"))
    call.images([result()])
    call.end("OK")
    assert made.get_finished_spans() == ()
    assert (call.trace_id, call.exemplar) == (TRACE, None)  # the log line names it all the same


@pytest.mark.parametrize("method", ["grpc.health.v1.Health/Check", "grpc.reflection.v1.ServerReflection/Info"])
def test_probes_and_tools_are_not_traced(tracing: Tracing, method: str) -> None:
    assert tracing.call(method, (), PEER) is None


def test_each_stage_of_each_image_is_a_span_below_the_call_one_after_the_other(
    tracing: Tracing, made: InMemorySpanExporter
) -> None:
    call = begin(tracing)
    before = time.time_ns()
    call.images([result(), result()])
    call.end("OK")
    (parent,) = named(made, METHOD)
    assert parent.context is not None
    for index in range(2):
        at = None
        for name, seconds in (("decode", 0.5), ("pre_stem", 0.25), ("queue", 1.0), ("compute", 2.0)):
            span = named(made, name)[index]
            assert span.attributes is not None
            assert span.parent is not None
            assert span.start_time is not None
            assert span.end_time is not None
            assert span.attributes["glimpse.image"] == index
            assert span.parent.span_id == parent.context.span_id
            assert abs(span.end_time - span.start_time - seconds * NANO) < 1000
            assert at is None or abs(span.start_time - at) < 1000
            at = span.end_time
        # It began ten seconds ago, on the clock that everybody can read.
        assert abs(named(made, "decode")[index].start_time - (before - 10 * NANO)) < 5 * NANO  # type: ignore[operator]  # a finished span has one


def test_the_images_of_a_batch_are_linked_to_its_one_span_whoever_sent_them(
    tracing: Tracing, made: InMemorySpanExporter
) -> None:
    first, second = begin(tracing), begin(tracing)
    first.images([result(batch=7), result(batch=8, size=1)])
    second.images([result(batch=7)], stream_id="a")
    batches = {each.attributes["glimpse.batch"]: each for each in named(made, "batch") if each.attributes}
    assert batches.keys() == {7, 8}
    assert [each.attributes["glimpse.batch_size"] for each in batches.values() if each.attributes] == [2, 1]
    linked = [each.links[0].context.span_id for each in named(made, "compute")]
    ids = {number: each.context.span_id for number, each in batches.items() if each.context}
    assert linked == [ids[7], ids[8], ids[7]]
    computed = named(made, "compute")[0]
    assert batches[7].end_time is not None
    assert computed.end_time is not None
    assert abs(batches[7].end_time - computed.end_time) < 1000
    (last,) = [each for each in named(made, "compute") if each.attributes and "glimpse.stream_id" in each.attributes]
    assert last.attributes is not None
    assert last.attributes["glimpse.stream_id"] == "a"


def test_an_image_that_cannot_be_read_has_a_span_for_its_decoding_that_says_why(
    tracing: Tracing, made: InMemorySpanExporter
) -> None:
    timing = Timing(decode=0.01)
    timing.begun = time.monotonic()
    call = begin(tracing)
    call.images([ImageResult(timing, error=InvalidImageError(Reason.NOT_AN_IMAGE, "no image"))])
    call.end("OK")
    assert [each.name for each in made.get_finished_spans()] == ["decode", METHOD]
    (span,) = named(made, "decode")
    assert span.attributes == {"glimpse.image": 0, "error.type": "NOT_AN_IMAGE"}


def test_a_long_id_of_a_piece_is_cut(tracing: Tracing, made: InMemorySpanExporter) -> None:
    begin(tracing).images([result()], stream_id="x" * 100_000)
    (span,) = named(made, "queue")
    assert span.attributes is not None
    assert len(str(span.attributes["glimpse.stream_id"])) < 100


def test_batches_are_not_remembered_for_ever(tracing: Tracing) -> None:
    call = begin(tracing)
    for number in range(1, 1001):
        call.images([result(batch=number)])
    assert len(tracing._batches) < 1000


@pytest.mark.parametrize(("protocol", "receive"), [("grpc", over_grpc), ("http/protobuf", over_http)])
def test_a_real_receiver_gets_what_was_made_by_the_time_of_closing(
    protocol: str, receive: Callable[[], AbstractContextManager[Receiver]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with receive() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=glimpse-0")
        tracing = start()
        assert tracing is not None
        call = begin(tracing, ("traceparent", f"00-{TRACE}-{PARENT}-01"))
        call.images([result()])
        call.end("OK")
        tracing.close(60)
    assert sorted(each.name for each in receiver.spans) == sorted(
        ["decode", "pre_stem", "queue", "compute", "batch", METHOD]
    )
    assert {each.trace_id.hex() for each in receiver.spans} == {TRACE}
    (resource,) = receiver.resources
    assert (resource["service.name"], resource["k8s.pod.name"]) == ("glimpse", "glimpse-0")


def test_closing_does_not_wait_for_a_receiver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with over_http() as receiver:
        receiver.go_on.clear()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        tracing = start()
        assert tracing is not None
        begin(tracing).end("OK")
        tracing.close(0.1)
        assert not receiver.go_on.is_set()
        assert receiver.spans == []
    for each in threading.enumerate():
        if each.name in {"traces", "OtelBatchSpanRecordProcessor"}:
            each.join(60)


def test_the_name_of_the_service_is_the_operators_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    with over_http() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "photos")
        tracing = start()
        assert tracing is not None
        begin(tracing).end("OK")
        tracing.close(60)
    assert [each["service.name"] for each in receiver.resources] == ["photos"]
