"""A server at work under a trace: what a collector gets of it, and where the trace's id is found again."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT
from tests.server.otlp import Receiver, over_grpc

SERVICE = "glimpse.v1.ImageClassifier"
PARENT = "b7ad6b7169203331"
GOOD, STREAM, REFUSED = (f"{number:032x}" for number in (1, 2, 3))


@pytest.fixture(scope="module")
def seen(picture: Callable[[int], pb.Image]) -> Iterator[tuple[RunningServer, Receiver, str]]:
    """A server that has been called and drained, what its collector got, and its metrics before the end."""
    with over_grpc() as receiver:
        running = RunningServer(
            "--log-level=debug",
            environment={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        )
        try:
            running.wait_for("serving")
            with grpc.insecure_channel(running.target) as channel:
                call(ImageClassifierStub(channel), picture)
            accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
            asked = urllib.request.Request(running.metrics_url, headers=accept)  # noqa: S310 - our own server
            with urllib.request.urlopen(asked, timeout=TIMEOUT) as response:  # noqa: S310 - the same
                metrics = response.read().decode()
            running.terminate()
            assert running.exit_code() == 0
            yield running, receiver, metrics
        finally:
            running.close()


def call(stub: ImageClassifierStub, picture: Callable[[int], pb.Image]) -> None:
    def under(trace: str) -> dict[str, Any]:
        return {"timeout": TIMEOUT, "metadata": (("traceparent", f"00-{trace}-{PARENT}-01"),)}

    stub.Classify(pb.ClassifyRequest(images=[picture(1), picture(2), pb.Image(encoded=b"x")]), **under(GOOD))
    pieces = (pb.ClassifyStreamRequest(id=f"p{n}", request=pb.ClassifyRequest(images=[picture(n)])) for n in range(3))
    assert len(list(stub.ClassifyStream(pieces, **under(STREAM)))) == 3
    with pytest.raises(grpc.RpcError):
        stub.Classify(pb.ClassifyRequest(), **under(REFUSED))


def names(receiver: Receiver, trace: str) -> list[str]:
    return sorted(each.name for each in receiver.spans if each.trace_id.hex() == trace and each.name != "batch")


def test_a_call_and_the_stages_of_its_images_are_one_trace(seen: tuple[RunningServer, Receiver, str]) -> None:
    _, receiver, _ = seen
    stages = ["admission"] + ["compute"] * 2 + ["decode"] * 3 + ["decode_wait"] * 3
    last = ["pre_stem"] * 2 + ["queue"] * 2 + ["receive"] + ["reply"] * 3
    assert names(receiver, GOOD) == [*stages, f"{SERVICE}/Classify", *last]


def test_the_pieces_of_a_stream_are_in_its_trace(seen: tuple[RunningServer, Receiver, str]) -> None:
    _, receiver, _ = seen
    stages = [name for name in names(receiver, STREAM) if "/" not in name]
    all_of_them = ("admission", "compute", "decode", "decode_wait", "pre_stem", "queue", "reply")  # receiving is not
    assert stages == [name for name in all_of_them for _ in range(3)]
    ids = {
        pair.value.string_value
        for span in receiver.spans
        for pair in span.attributes
        if pair.key == "glimpse.stream_id"
    }
    assert ids == {"p0", "p1", "p2"}


def test_every_computed_image_leads_to_the_batch_that_carried_it(seen: tuple[RunningServer, Receiver, str]) -> None:
    _, receiver, _ = seen
    batches = {each.span_id for each in receiver.spans if each.name == "batch"}
    computed = [each for each in receiver.spans if each.name == "compute"]
    assert len(computed) == 5
    assert {link.span_id for each in computed for link in each.links} == batches


def test_the_stages_lie_within_their_call(seen: tuple[RunningServer, Receiver, str]) -> None:
    _, receiver, _ = seen
    (parent,) = [each for each in receiver.spans if each.name == f"{SERVICE}/Classify" and each.trace_id.hex() == GOOD]
    slack = 50_000_000  # ns; two clocks are read one after the other, and between them another process may run
    stages = [each for each in receiver.spans if each.parent_span_id == parent.span_id]
    assert {"decode", "pre_stem", "queue", "compute"} <= {each.name for each in stages}
    for each in stages:
        assert parent.start_time_unix_nano - slack <= each.start_time_unix_nano <= each.end_time_unix_nano
        assert each.end_time_unix_nano <= parent.end_time_unix_nano + slack


def test_the_log_line_of_a_call_carries_the_id_of_its_trace(seen: tuple[RunningServer, Receiver, str]) -> None:
    running, _, _ = seen
    lines = [each for each in running.log if each["event"] == "rpc" and "trace_id" in each]
    assert {(each["trace_id"], each["code"]) for each in lines} == {
        (GOOD, "OK"),
        (STREAM, "OK"),
        (REFUSED, "INVALID_ARGUMENT"),
    }


def test_a_refused_call_says_why(seen: tuple[RunningServer, Receiver, str]) -> None:
    _, receiver, _ = seen
    (span,) = [each for each in receiver.spans if each.trace_id.hex() == REFUSED]
    said = {pair.key: pair.value.string_value for pair in span.attributes}
    assert (said["rpc.response.status_code"], said["glimpse.reason"]) == ("INVALID_ARGUMENT", "NO_IMAGES")
    assert span.parent_span_id.hex() == PARENT


def test_the_latency_histogram_names_a_trace_as_an_example(seen: tuple[RunningServer, Receiver, str]) -> None:
    _, _, metrics = seen
    buckets = [line for line in metrics.splitlines() if line.startswith("grpc_server_handling_seconds_bucket{")]
    assert any(f'# {{trace_id="{trace}"}}' in line for line in buckets for trace in (GOOD, REFUSED))
