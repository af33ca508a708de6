"""What Envoy does with a call on its way, between a real client and two small real servers that tell what came."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from glimpse.client.channel import MAX_MESSAGE_BYTES, SERVICE
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc
from tests.deploy.balancer import Balancer
from tests.deploy.tools import tool

_TIMEOUT = 60.0  # seconds
_LARGE = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
_REQUEST = pb.ClassifyRequest(images=[pb.Image(encoded=b"image")])
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Seen:
    """A call as it reached a server."""

    replica: int
    metadata: Mapping[str, str]
    seconds: float | None  # until its deadline
    images: int


@dataclass
class Told:
    """What the servers have seen, and what each is to answer with."""

    seen: list[Seen] = field(default_factory=list)
    refuses: dict[int, grpc.StatusCode] = field(default_factory=dict)


class Telling(classifier_pb2_grpc.ImageClassifierServicer):
    """Answers with nothing and remembers who asked."""

    def __init__(self, replica: int, told: Told) -> None:
        self._replica, self._told = replica, told

    def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:  # noqa: N802 - the contract's name
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        self._told.seen.append(Seen(self._replica, metadata, context.time_remaining(), len(request.images)))
        code = self._told.refuses.get(self._replica)
        if code is not None:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "1234"),))
            context.abort(code, "as it was told to")
        return pb.ClassifyResponse(results=[pb.ImageResult() for _ in request.images])

    def ClassifyStream(self, request_iterator: Any, context: Any) -> Iterator[pb.ClassifyStreamResponse]:  # noqa: N802 - likewise
        for piece in request_iterator:
            yield pb.ClassifyStreamResponse(id=piece.id, response=self.Classify(piece.request, context))

    def DescribeModel(self, request: pb.DescribeModelRequest, context: Any) -> pb.DescribeModelResponse:  # noqa: N802 - likewise
        return pb.DescribeModelResponse(architecture=f"replica {self._replica}")


class Pair:
    """Two servers and Envoy in front of them."""

    def __init__(self, folder: Path) -> None:
        self.told = Told()
        self.healths, self._servers, self.ports = [], [], []
        for replica in range(2):
            server = grpc.server(ThreadPoolExecutor(8), options=_LARGE)
            health = HealthServicer()
            health.set(SERVICE, _SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(health, server)
            telling = Telling(replica, self.told)  # type: ignore[abstract]
            classifier_pb2_grpc.add_ImageClassifierServicer_to_server(telling, server)
            self.ports.append(server.add_insecure_port("127.0.0.1:0"))
            server.start()
            self.healths.append(health)
            self._servers.append(server)
        self.envoy = Balancer(self.ports, folder)
        self.channel = grpc.insecure_channel(self.envoy.target, options=[*_LARGE, ("grpc.enable_retries", 0)])
        self.stub = classifier_pb2_grpc.ImageClassifierStub(self.channel)

    def serve(self, *replicas: int) -> None:
        """Let exactly those be SERVING, and return when Envoy calls them in turn and no other."""
        for number, health in enumerate(self.healths):
            health.set(SERVICE, _SERVING if number in replicas else _NOT_SERVING)
        self.envoy.wait_until_healthy({self.ports[number] for number in replicas})
        # What its main thread knows, the thread that forwards calls learns a moment later.
        end = time.monotonic() + _TIMEOUT
        while self._called() != set(replicas):
            assert time.monotonic() < end, f"Envoy should call {replicas}, and calls {self._called()}"
        self.told.seen.clear()

    def _called(self) -> set[int]:
        """Who gets the next six calls."""
        self.told.seen.clear()
        for _ in range(6):
            with contextlib.suppress(grpc.RpcError):
                self.stub.Classify(_REQUEST, timeout=_TIMEOUT)
        return {seen.replica for seen in self.told.seen}

    def close(self) -> None:
        self.channel.close()
        self.envoy.close()
        for server in self._servers:
            server.stop(0).wait()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    tool("envoy")  # skips before anything is started
    running = Pair(tmp_path_factory.mktemp("envoy"))
    try:
        running.serve(0, 1)
        yield running
    finally:
        running.close()


@pytest.fixture
def pair(started: Pair) -> Iterator[Pair]:
    """Both serve and nothing has been called."""
    started.told.seen.clear()
    yield started
    started.told.refuses.clear()
    started.serve(0, 1)


def test_a_deadline_reaches_the_server(pair: Pair) -> None:
    pair.stub.Classify(_REQUEST, timeout=1000)
    pair.stub.Classify(_REQUEST)
    with_deadline, without = (seen.seconds for seen in pair.told.seen)
    assert with_deadline is not None
    assert 900 < with_deadline < 1100  # gRPC sends it rounded
    # No deadline is the end of time: Envoy sets none of its own, such as its usual 15 seconds.
    assert without is None or without > 1e6


def test_callers_keep_the_token_and_the_request_id_that_they_bring(pair: Pair) -> None:
    brought = {"authorization": "Bearer abc", "x-request-id": "mine-1"}
    pair.stub.Classify(_REQUEST, timeout=_TIMEOUT, metadata=tuple(brought.items()))
    (seen,) = pair.told.seen
    assert {key: seen.metadata[key] for key in brought} == brought


@pytest.mark.parametrize("brought", [(), (("glimpse-client", "alice"), ("x-forwarded-for", "198.51.100.1"))])
def test_callers_are_named_after_their_address_whatever_they_say(
    pair: Pair, brought: tuple[tuple[str, str], ...]
) -> None:
    pair.stub.Classify(_REQUEST, timeout=_TIMEOUT, metadata=brought)
    (seen,) = pair.told.seen
    assert seen.metadata["glimpse-client"] == "127.0.0.1"
    # For a caller on its own machine Envoy appends an address of that machine other than the loopback's.
    *forged, appended = str(seen.metadata["x-forwarded-for"]).split(",")
    assert forged == [value for key, value in brought if key == "x-forwarded-for"]
    ipaddress.ip_address(appended.strip())  # it is one
    assert appended not in forged
    assert seen.metadata["x-request-id"]


def test_the_largest_message_passes_and_is_sent_again_to_the_other_replica(pair: Pair) -> None:
    pair.told.refuses[0] = grpc.StatusCode.UNAVAILABLE
    large = pb.ClassifyRequest(images=[pb.Image(encoded=bytes(MAX_MESSAGE_BYTES - 100))])
    for _ in range(4):
        pair.stub.Classify(large, timeout=_TIMEOUT)
    assert [seen.replica for seen in pair.told.seen].count(0) > 0
    assert [seen.replica for seen in pair.told.seen].count(1) == 4


def test_a_full_replica_is_told_to_the_caller_with_the_hint_and_not_asked_again(pair: Pair) -> None:
    pair.told.refuses.update(dict.fromkeys(range(2), grpc.StatusCode.RESOURCE_EXHAUSTED))
    with pytest.raises(grpc.RpcError) as refused:
        pair.stub.Classify(_REQUEST, timeout=_TIMEOUT)
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("grpc-retry-pushback-ms", "1234") in {(key, value) for key, value in refused.value.trailing_metadata()}
    assert len(pair.told.seen) == 1


def test_a_replica_that_says_not_serving_gets_no_calls_until_it_serves_again(pair: Pair) -> None:
    """A replica that says that it is not serving gets no calls, and is called again when it serves."""
    pair.serve(1)
    for _ in range(4):
        pair.stub.Classify(_REQUEST, timeout=_TIMEOUT)
    assert [seen.replica for seen in pair.told.seen] == [1] * 4
    pair.serve(0, 1)
    for _ in range(4):
        pair.stub.Classify(_REQUEST, timeout=_TIMEOUT)
    assert sorted(seen.replica for seen in pair.told.seen) == [0, 0, 1, 1]


def test_where_no_replica_serves_callers_are_told_at_once(pair: Pair) -> None:
    pair.serve()
    with pytest.raises(grpc.RpcError) as refused:
        pair.stub.Classify(_REQUEST, timeout=_TIMEOUT)
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert pair.told.seen == []


def test_short_deadlines_of_one_caller_throw_no_replica_out(pair: Pair) -> None:
    pair.told.refuses.update(dict.fromkeys(range(2), grpc.StatusCode.DEADLINE_EXCEEDED))
    for _ in range(30):
        with pytest.raises(grpc.RpcError):
            pair.stub.Classify(_REQUEST, timeout=_TIMEOUT)
    pair.told.refuses.clear()
    assert pair.envoy.healthy() == set(pair.ports)
    assert len(pair.stub.Classify(_REQUEST, timeout=_TIMEOUT).results) == 1


def test_health_is_answered_and_cannot_be_watched(pair: Pair) -> None:
    health = health_pb2_grpc.HealthStub(pair.channel)
    asked = health_pb2.HealthCheckRequest(service=SERVICE)
    assert health.Check(asked, timeout=_TIMEOUT).status == _SERVING
    with pytest.raises(grpc.RpcError) as refused:
        next(iter(health.Watch(asked, timeout=_TIMEOUT)))
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_what_is_not_named_is_not_reached(pair: Pair) -> None:
    private: Any = pair.channel.unary_unary("/glimpse.v1.Private/Method")
    with pytest.raises(grpc.RpcError) as refused:
        private(b"", timeout=_TIMEOUT)
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_stream_is_a_conversation_and_stays_with_one_replica(pair: Pair) -> None:
    outbox: SimpleQueue[pb.ClassifyStreamRequest | None] = SimpleQueue()
    call = pair.stub.ClassifyStream(iter(outbox.get, None), timeout=_TIMEOUT)
    for number in range(5):
        # Each piece is sent only after the answer to the one before: nothing is held back on the way.
        outbox.put(pb.ClassifyStreamRequest(id=str(number), request=_REQUEST))
        assert next(call).id == str(number)
    outbox.put(None)
    assert list(call) == []
    assert len({seen.replica for seen in pair.told.seen}) == 1


def test_more_calls_at_once_than_a_connection_carries_wait_and_are_answered(pair: Pair) -> None:
    calls = [pair.stub.Classify.future(_REQUEST, timeout=_TIMEOUT) for _ in range(300)]
    assert [len(call.result().results) for call in calls] == [1] * 300
    assert [seen.replica for seen in pair.told.seen].count(0) == 150
