"""Identity, rates, limits, the audit log and metrics are those of gRPC, for the calls over HTTP, too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from glimpse.server import app
from glimpse.server.floods import penalties
from glimpse.server.tracing import Tracing
from tests.server.access.inside import Inside
from tests.server.http.asking import V1, V2, ask, connected, instances, picture, port_of, post, until_closed
from tests.server.rig import Rig

Start = Callable[..., Rig]
ALICE = {"Authorization": "Bearer alice's"}
SHA256 = hashlib.sha256(b"alice's").hexdigest()


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(f'[[token]]\nidentity = "alice"\nsha256 = "{SHA256}"\n', "utf-8")
    return path


def test_classifying_and_models_need_a_token_health_and_the_page_none(start_rig: Start, tokens: Path) -> None:
    port = port_of(start_rig(f"--tokens={tokens}"))
    for path, body in (("/classify", picture()), (V1, b"{}"), (V2, b"{}"), ("/v1/models", None), ("/describe", None)):
        refused = ask(port, path, body)
        assert (refused.status, refused.reason) == (401, "TOKEN_MISSING")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert ask(port, path, body, {"Authorization": "Bearer other"}).reason == "TOKEN_REFUSED"
    for path in ("/", "/docs", "/page/page.js", "/openapi.json", "/v2/health/live", "/v2/health/ready"):
        assert ask(port, path).status == 200
    assert ask(port, "/classify", picture(), ALICE).status == 200
    assert ask(port, "/v1/models", headers=ALICE).status == 200
    assert ask(port, "/openapi.json").json["security"] == [{"token": []}]


def test_who_has_no_token_is_refused_before_the_body_is_there(start_rig: Start, tokens: Path) -> None:
    port = port_of(start_rig(f"--tokens={tokens}"))
    with connected(port) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"100 Continue" not in answer
    assert b"connection: close" in answer


def test_calls_are_audited_and_counted_as_those_of_grpc(start_rig: Start, tokens: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    rig = start_rig(f"--tokens={tokens}", f"--audit-log={audit}")
    port = port_of(rig)
    photo = picture()
    ask(port, "/classify", photo, {**ALICE, "x-request-id": "first"})
    ask(port, "/classify", photo)
    ask(port, "/v2/health/live")
    rig.wait_until(lambda: audit.read_text("utf-8").count("\n") >= 2)
    first, second = (json.loads(line) for line in audit.read_text("utf-8").splitlines())
    assert (first["request_id"], first["identity"], first["code"]) == ("first", "alice", "OK")
    assert (first["method"], first["images"], first["bytes"]) == ("http/Classify", 1, len(photo))
    assert first["peer"].startswith("ipv4:127.0.0.1:")
    assert (second["identity"], second["code"], second["reason"]) == ("", "UNAUTHENTICATED", "TOKEN_MISSING")
    labels = {"grpc_type": "unary", "grpc_service": "http", "grpc_method": "Classify"}
    assert rig.gauge("grpc_server_handled_total", grpc_code="OK", **labels) == 1
    assert rig.gauge("grpc_server_handled_total", grpc_code="UNAUTHENTICATED", **labels) == 1
    assert rig.gauge("glimpse_requests_rejected_total", reason="TOKEN_MISSING") == 1


def test_a_photo_is_traced_in_the_trace_of_its_caller_and_probes_are_not(
    start_rig: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(made))
    monkeypatch.setattr(app, "start_tracing", lambda: Tracing(provider))
    port = port_of(start_rig())
    trace = "0af7651916cd43dd8448eb211c80319c"
    ask(port, "/classify", picture(), {"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    ask(port, "/v2/health/live")
    ask(port, "/")
    spans = {each.name: each for each in made.get_finished_spans()}
    assert {name for name in spans if name.startswith("http/")} == {"http/Classify"}
    assert {f"{each.context.trace_id:032x}" for each in spans.values() if each.context} == {trace}
    assert {"decode", "pre_stem", "queue", "compute"} <= spans.keys()
    attributes = spans["http/Classify"].attributes
    assert attributes is not None
    assert (attributes["rpc.system.name"], attributes["network.peer.address"]) == ("http", "127.0.0.1")


@pytest.mark.parametrize("more", [[], ["--http-origins=https://example.org"]], ids=["no origins", "origins"])
def test_what_no_method_takes_costs_points_once(start_rig: Start, more: list[str]) -> None:
    rig = start_rig(*more)
    http_port, port = rig.server._ports.http, port_of(rig)
    assert http_port is not None
    guard, cost = http_port._guard, penalties.points("UNIMPLEMENTED", received=0, gated=False, seconds=0.0)
    headers = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    for verb, path in (("GET", "/classify"), ("DELETE", "/v2"), ("OPTIONS", "/v2"), ("OPTIONS", "/a"), ("GET", "/a")):
        before = guard.points
        ask(port, path, None, headers, verb=verb)
        assert guard.points == before + cost > before


def test_a_caller_is_held_to_the_rate_over_both_protocols_together(start_rig: Start) -> None:
    port = port_of(start_rig("--rate-limit=0.001", "--rate-burst=2"))
    assert post(port, V1, instances(picture(), picture())).status == 200
    refused = ask(port, "/classify", picture())
    assert (refused.status, refused.reason) == (429, "RATE_LIMITED")
    assert int(refused.headers["retry-after"]) >= refused.json["retry_after_seconds"] > 0


def test_a_proxy_that_is_trusted_names_the_caller(start_rig: Start, tmp_path: Path) -> None:
    rig = start_rig("--trusted-proxies=127.0.0.1", "--rate-limit=0.001", "--rate-burst=1")
    port = port_of(rig)
    for address in ("192.0.2.1", "192.0.2.2"):
        assert ask(port, "/classify", picture(), {"X-Forwarded-For": address}).status == 200
    assert ask(port, "/classify", picture(), {"X-Forwarded-For": "192.0.2.1"}).reason == "RATE_LIMITED"


def test_more_images_than_there_is_room_for_are_refused_with_a_time(start_rig: Start) -> None:
    rig = start_rig("--max-images-in-flight=2", "--max-images-per-request=1")
    rig.network.hold()
    port = port_of(rig)
    with connected(port) as one, connected(port) as two:
        for each in (one, two):
            photo = picture()
            each.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(photo) + photo)
        rig.wait_until(lambda: rig.gauge("glimpse_images_in_flight") >= 1)
        refused = ask(port, "/classify", picture())
        while refused.status == 200:
            refused = ask(port, "/classify", picture())
        assert refused.status == 429
        assert refused.reason in {"QUEUE_FULL", "SHARE_FULL"}
        assert "retry-after" in refused.headers
        rig.network.let()


def test_a_body_above_the_limit_is_refused_by_its_head(start_rig: Start) -> None:
    rig = start_rig("--max-message-bytes=100000", "--max-image-bytes=100000")
    port = port_of(rig)
    with connected(port) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\nConnection: close\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 413 ")
    with connected(port) as connection:  # one that does not say how long it is
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        for _ in range(101):
            connection.sendall(b"3e8\r\n" + bytes(1000) + b"\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 413 ")
    rig.wait_until(lambda: not any(rig.held().values()))


def test_a_body_that_comes_too_slowly_is_refused(start_rig: Start) -> None:
    rig = start_rig("--upload-seconds=0.2")
    with connected(port_of(rig)) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc")
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"UPLOAD_TOO_SLOW" in answer
    rig.wait_until(lambda: not any(rig.held().values()))


def test_a_deadline_ends_a_request_whose_answer_is_not_there(start_rig: Start) -> None:
    rig = start_rig()
    rig.network.hold()
    refused = ask(port_of(rig), "/classify", picture(), {"glimpse-timeout": "0.2"})
    assert (refused.status, refused.reason) == (504, "DEADLINE_EXCEEDED")
    rig.network.let()
    rig.wait_until(lambda: not any(rig.held().values()))


def test_the_timeout_of_version_2_is_in_microseconds(start_rig: Start) -> None:
    rig = start_rig()
    content = {**instances(), "inputs": [{"name": "image", "shape": [0], "datatype": "BYTES", "data": []}]}
    # Of no images nothing is computed, but the deadline is read first.
    assert post(port_of(rig), V2, {**content, "parameters": {"timeout": 10**6}}).reason == "NO_IMAGES"


def test_a_caller_who_leaves_takes_nothing_with_them(start_rig: Start) -> None:
    rig = start_rig()
    rig.network.hold()
    photo = picture()
    with connected(port_of(rig)) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(photo) + photo)
        rig.network.begun()
    labels = {"grpc_type": "unary", "grpc_service": "http", "grpc_method": "Classify"}
    rig.wait_until(lambda: rig.gauge("grpc_server_handled_total", grpc_code="CANCELLED", **labels) == 1)
    rig.network.let()
    rig.wait_until(lambda: not any(rig.held().values()))


def test_a_caller_who_leaves_amid_the_body_is_forgotten(start_rig: Start) -> None:
    rig = start_rig()
    with connected(port_of(rig)) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
        rig.wait_until(lambda: rig.held()["calls"] == 1)
    labels = {"grpc_type": "unary", "grpc_service": "http", "grpc_method": "Classify"}
    rig.wait_until(lambda: rig.gauge("grpc_server_handled_total", grpc_code="CANCELLED", **labels) == 1)
    rig.wait_until(lambda: not any(rig.held().values()))


def test_a_defect_is_told_without_our_insides(start_rig: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = start_rig()
    rig.network.errors.append(RuntimeError("secret"))
    answer = ask(port_of(rig), "/classify", picture())
    assert (answer.status, answer.reason) == (500, "INTERNAL")
    assert "secret" not in answer.body.decode()


def test_before_the_model_is_loaded_requests_are_told_to_come_again(inside: Callable[..., Inside]) -> None:
    running = inside(http_port=0)
    port = running.bound.http
    assert port is not None
    refused = ask(port, "/classify", picture())
    assert (refused.status, refused.reason) == (503, "NOT_READY")
    assert "retry-after" in refused.headers
    assert ask(port, "/v2/health/ready").status == 503
    assert ask(port, "/v2/health/live").status == 200
    assert ask(port, "/v2/models/any/ready").status == 503
    assert ask(port, "/v1/models").json == {"models": []}
