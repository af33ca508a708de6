"""Strangers who are refused again and again fill neither the log nor the audit log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from glimpse.server.access.audit import Audit
from glimpse.server.access.call_context import CallContext
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.access.inside import IN, Inside, bearer, channel, classify, entry, until
from tests.server.conftest import TIMEOUT

SECRET = "n0body-must-see-this-t0ken"  # noqa: S105 - of a test
MANY = 400


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def counted(file: Path) -> int:
    """Calls that the lines of an audit log tell of, those that were left out included."""
    return sum(line.get("left_out", 0) + ("request_id" in line) for line in lines_of(file))


def flood(caller: grpc.Channel, kind: str) -> None:
    """Calls that are refused, each for the same reason."""
    path = "/glimpse.v1.ImageClassifier/Classify"
    raw: Any = caller.unary_unary(path, request_serializer=None, response_deserializer=None)
    stub = ImageClassifierStub(caller)
    calls: dict[str, Callable[[], Any]] = {
        "TOKEN_REFUSED": lambda: raw.future(b"", metadata=bearer("wrong"), timeout=TIMEOUT),
        "TOKEN_MISSING": lambda: raw.future(b"", timeout=TIMEOUT),
        "MALFORMED_MESSAGE": lambda: raw.future(b"\xff\xff", metadata=bearer(SECRET), timeout=TIMEOUT),
        IN: lambda: stub.Classify.future(pb.ClassifyRequest(), metadata=bearer(SECRET), timeout=TIMEOUT),
    }
    waiting = [calls[kind]() for _ in range(MANY)]
    for call in waiting:
        assert call.exception() is not None


@pytest.mark.parametrize("kind", ["TOKEN_REFUSED", "TOKEN_MISSING", "MALFORMED_MESSAGE"])
def test_a_flood_of_one_refusal_writes_a_few_lines_with_a_count(
    inside: Callable[..., Inside], tmp_path: Path, kind: str
) -> None:
    tokens, file = tmp_path / "tokens.toml", tmp_path / "audit.jsonl"
    tokens.write_text(entry("alice", SECRET))
    running = inside(tokens=tokens, audit_log=file)
    with structlog.testing.capture_logs() as logged:
        with channel(running.target) as caller:
            flood(caller, kind)
            assert classify(caller, bearer(SECRET)) == IN
        audit = running.server._ports._access.audit
        assert audit is not None

        async def sum_up() -> None:
            audit._sampled.close()

        running._loop.run(sum_up())
        until(lambda: audit._queue.empty() and counted(file) >= MANY + 1)
    refused = [line for line in logged if line["event"] == "rpc" and line["reason"] == kind]
    assert 5 <= len(refused) < MANY / 4
    # A server of an earlier test may sum up meanwhile what it left out, for another reason.
    told = [line for line in logged if line["event"] == "rpcs left out of the log" and line["reason"] == kind]
    assert len(refused) + sum(line.get("left_out", 0) for line in [*refused, *told]) <= MANY
    audited = lines_of(file)
    mine = [line for line in audited if line.get("reason") == kind]
    if kind == "MALFORMED_MESSAGE":  # of alice, who has shown who she is
        assert len(mine) == MANY
    else:
        assert 5 <= len(mine) < MANY / 4
    assert counted(file) == MANY + 1
    assert [line["identity"] for line in audited if line.get("reason") == IN] == ["alice"]


def test_what_was_let_in_has_its_line_each_time(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    stranger = CallContext("an id", "a method", "ipv4:192.0.2.7:40000", images=2)
    alice = CallContext("an id", "a method", "ipv4:192.0.2.7:40000", identity="alice")
    for _ in range(100):
        audit.write(stranger, code="OK", reason="", seconds=0.1)
        audit.write(stranger, code="CANCELLED", reason="", seconds=0.1)
        audit.write(stranger, code="INTERNAL", reason="INTERNAL", seconds=0.1)
        audit.write(alice, code="RESOURCE_EXHAUSTED", reason="RATE_LIMITED", seconds=0.1)
        audit.write(stranger, code="OK", reason="", seconds=0.1, stream_id="p")
    audit.close()
    assert len(lines_of(tmp_path / "audit.jsonl")) == 500


def test_the_port_makes_no_other_caller_and_a_neighbour_has_his_line(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    for port in range(1000):
        call = CallContext("an id", "a method", f"ipv4:192.0.2.7:{40000 + port}")
        audit.write(call, code="UNAUTHENTICATED", reason="TOKEN_MISSING", seconds=0.1)
        inside = CallContext("an id", "a method", f"ipv6:%5B2001:db8::{port:x}%5D:{40000 + port}")
        audit.write(inside, code="UNAUTHENTICATED", reason="TOKEN_MISSING", seconds=0.1)
    audit.write(
        CallContext("neighbour", "a method", "ipv4:192.0.2.8:1"),
        code="UNAUTHENTICATED",
        reason="TOKEN_MISSING",
        seconds=0.1,
    )
    audit.close()
    written = lines_of(tmp_path / "audit.jsonl")
    assert "neighbour" in [line.get("request_id") for line in written]
    assert len(written) < 40
    assert counted(tmp_path / "audit.jsonl") == 2001
