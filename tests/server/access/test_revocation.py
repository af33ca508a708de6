"""Revocation: streams that are open when a token is removed, expires or is given to somebody else are ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.rates import Allowance
from glimpse.server.access.tokens import Tokens
from glimpse.server.errors import Reason
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.access.inside import Inside, bearer, channel, entry, replace, told, until
from tests.server.conftest import TIMEOUT

Start = Callable[..., Inside]
_PIECE = pb.ClassifyRequest(images=[pb.Image(encoded=b"x")])


class Stream:
    """An open ClassifyStream, which asks when it is told to."""

    def __init__(self, through: grpc.Channel, token: str) -> None:
        self._outbox: SimpleQueue[pb.ClassifyStreamRequest | None] = SimpleQueue()
        requests = iter(self._outbox.get, None)
        self.call = ImageClassifierStub(through).ClassifyStream(requests, timeout=TIMEOUT, metadata=bearer(token))
        self.asked = 0

    def ask(self, *, images: int = 1) -> str:
        """What a piece is told, or how the stream ended."""
        self.asked += 1
        self.send(images=images)
        try:
            answer = next(self.call)
        except grpc.RpcError as error:
            return told(error)
        return str(answer.error.reason)

    def send(self, *, images: int = 1) -> None:
        request = pb.ClassifyRequest(images=[pb.Image(encoded=b"x")] * images)
        self._outbox.put(pb.ClassifyStreamRequest(id=str(self.asked), request=request))

    def end(self) -> str:
        """How a stream that says nothing more ends."""
        with pytest.raises(grpc.RpcError) as ended:
            next(self.call)
        return told(ended.value)

    def close(self) -> None:
        self._outbox.put(None)
        self.call.cancel()


@pytest.fixture
def streams() -> Iterator[Callable[[grpc.Channel, str], Stream]]:
    opened: list[Stream] = []

    def begin(through: grpc.Channel, token: str) -> Stream:
        opened.append(Stream(through, token))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def test_a_removed_token_ends_its_streams_the_silent_ones_too(
    inside: Start, file: Path, tmp_path: Path, streams: Callable[[grpc.Channel, str], Stream]
) -> None:
    audit = tmp_path / "audit.jsonl"
    file.write_text(entry("alice", "a") + entry("alice", "a2") + entry("bob", "b"))
    running = inside(tokens=file, reload_seconds=0.05, audit_log=audit)
    with channel(running.target) as caller:
        speaking, silent, other, bob = (streams(caller, token) for token in ("a", "a", "a2", "b"))
        assert [each.ask() for each in (speaking, silent, other, bob)] == ["NOT_READY"] * 4
        replace(file, entry("alice", "a2") + entry("bob", "b"))
        assert silent.end() == "TOKEN_REFUSED"
        assert speaking.ask() == "TOKEN_REFUSED"
        # Another token of the same holder, and another holder's, go on.
        assert [each.ask() for each in (other, bob)] == ["NOT_READY"] * 2

        def lines() -> list[tuple[str, str, str]]:
            written = [json.loads(line) for line in audit.read_text().splitlines()]
            return [(line["identity"], line["code"], line["reason"]) for line in written if "piece" not in line]

        until(lambda: len(lines()) == 2)
        assert lines() == [("alice", "UNAUTHENTICATED", "TOKEN_REFUSED")] * 2


def test_an_expired_token_ends_its_streams(
    inside: Start, file: Path, streams: Callable[[grpc.Channel, str], Stream]
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    file.write_text(entry("alice", "a", f"expires = {soon.isoformat()}"))
    running = inside(tokens=file, reload_seconds=0.05)
    with channel(running.target) as caller:
        speaking, silent = streams(caller, "a"), streams(caller, "a")
        assert speaking.ask() == "NOT_READY"
        assert silent.end() == "TOKEN_REFUSED"
        assert speaking.ask() == "TOKEN_REFUSED"


def test_no_piece_is_answered_after_its_token_expired_between_two_looks(
    inside: Start, file: Path, streams: Callable[[grpc.Channel, str], Stream]
) -> None:
    now = datetime.now(UTC)
    file.write_text(entry("alice", "a", f"expires = {(now + timedelta(hours=1)).isoformat()}"))
    running = inside(tokens=file, reload_seconds=3600.0)
    with channel(running.target) as caller:
        speaking = streams(caller, "a")
        assert speaking.ask() == "NOT_READY"
        tokens = running.server._ports._access.tokens
        assert tokens is not None
        tokens._clock = lambda: now + timedelta(hours=2)
        for _ in range(10):
            speaking.send()
        assert speaking.end() == "TOKEN_REFUSED"


def test_a_stream_of_reflection_ends_with_its_token(inside: Start, file: Path) -> None:
    file.write_text(entry("alice", "a"))
    running = inside(tokens=file, reload_seconds=0.05)
    outbox: SimpleQueue[reflection_pb2.ServerReflectionRequest | None] = SimpleQueue()
    with channel(running.target) as caller:
        answers = ServerReflectionStub(caller).ServerReflectionInfo(
            iter(outbox.get, None), timeout=TIMEOUT, metadata=bearer("a")
        )
        outbox.put(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert next(answers).list_services_response.service
        replace(file, entry("bob", "b"))
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        outbox.put(None)
    assert told(ended.value) == "TOKEN_REFUSED"


def test_a_changed_allowance_takes_effect_on_an_open_stream(
    inside: Start, file: Path, streams: Callable[[grpc.Channel, str], Stream]
) -> None:
    file.write_text(entry("alice", "a"))
    running = inside(tokens=file, reload_seconds=0.05)
    with channel(running.target) as caller:
        stream = streams(caller, "a")
        assert [stream.ask(images=3) for _ in range(3)] == ["NOT_READY"] * 3
        replace(file, entry("alice", "a", "images_per_second = 0.001", "burst = 2"))
        until(lambda: stream.ask(images=3) == "TOO_MANY_IMAGES")


def test_a_file_that_cannot_be_used_ends_no_stream(
    inside: Start, file: Path, streams: Callable[[grpc.Channel, str], Stream]
) -> None:
    file.write_text(entry("alice", "a"))
    running = inside(tokens=file, reload_seconds=0.05)
    with channel(running.target) as caller:
        stream = streams(caller, "a")
        assert stream.ask() == "NOT_READY"
        replace(file, "useless")
        until(lambda: running.server._ports._access.stale)
        assert stream.ask() == "NOT_READY"


def test_a_token_that_is_given_to_another_is_revoked_for_the_old_holder(file: Path) -> None:
    file.write_text(entry("alice", "a"))
    tokens = Tokens(file, Allowance(5.0, 64))
    holder, credential = tokens.authenticate(["Bearer a"])
    call = CallContext("", "", "", identity=holder.identity)
    assert credential.revoked(call) is None
    file.write_text(entry("bob", "a"))
    tokens.look()
    revoked = credential.revoked(call)
    assert revoked is not None
    assert revoked.reason is Reason.TOKEN_REFUSED
