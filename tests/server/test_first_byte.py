"""A call is counted before its message is read, and what is read need not be a message."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, rich_status

CLASSIFY = "/glimpse.v1.ImageClassifier/Classify"
METHODS = [CLASSIFY, "/glimpse.v1.ImageClassifier/DescribeModel", "/grpc.health.v1.Health/Check"]


@pytest.mark.parametrize("message", [b"\xff\xff\xff", b"hello", b"\x12\x05abc"])
@pytest.mark.parametrize(
    "method", [CLASSIFY, "/glimpse.v1.ImageClassifier/DescribeModel", "/grpc.health.v1.Health/Check"]
)
def test_bytes_that_are_no_message_are_the_caller_s_fault(server: RunningServer, method: str, message: bytes) -> None:
    with grpc.insecure_channel(server.target) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as refused:
            call(message, timeout=TIMEOUT)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert rich_status(refused.value)[1].reason == "MALFORMED_MESSAGE"


def test_a_call_that_ends_without_a_message_is_the_caller_s_fault(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.stream_unary(CLASSIFY)(iter(()), timeout=TIMEOUT)
    assert rich_status(refused.value)[1].reason == "MALFORMED_MESSAGE"


def test_calls_that_never_send_their_message_take_no_more_than_their_places(
    start_server: Callable[..., RunningServer], picture: Callable[[int], pb.Image]
) -> None:
    running = start_server("--max-images-in-flight=8", "--max-images-per-request=4", "--max-batch-size=4")
    running.wait_for("serving")
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait(TIMEOUT)
        yield from ()

    with grpc.insecure_channel(running.target) as channel, ThreadPoolExecutor(8) as waiting:
        call: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(CLASSIFY)
        stuck = [call.future(nothing()) for _ in range(8)]
        stub = ImageClassifierStub(channel)
        request = pb.ClassifyRequest(images=[picture(1)])

        def refused() -> grpc.RpcError | None:
            try:
                stub.Classify(request, timeout=TIMEOUT)
            except grpc.RpcError as error:
                return error
            return None

        # The eight arrive in their own time; from then on there is no place. One that arrives while the eighth place is
        # taken by a call of ours is refused in its stead, and tries again.
        error = None
        for _ in range(10_000):
            stuck = [call.future(nothing()) if each.done() else each for each in stuck]
            if (error := waiting.submit(refused).result()) is not None:
                break
        assert error is not None
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert rich_status(error)[1].reason == "SHARE_FULL"  # all of them are this connection's
        for each in stuck:
            each.cancel()
        silent.set()
        # And their places come back.
        assert any(waiting.submit(refused).result() is None for _ in range(10_000))


def test_images_in_flight_are_bounded_by_their_bytes_too(
    start_server: Callable[..., RunningServer], picture: Callable[[int], pb.Image]
) -> None:
    running = start_server("--max-bytes-in-flight=40000", "--max-message-bytes=30000", "--max-image-bytes=30000")
    running.wait_for("serving")
    with grpc.insecure_channel(running.target) as channel:
        stub = ImageClassifierStub(channel)
        request = pb.ClassifyRequest(images=[picture(seed) for seed in range(4)])  # 23 kB
        assert 20_000 < request.ByteSize() < 30_000

        def outcome(_: int) -> str:
            try:
                return f"{len(stub.Classify(request, timeout=TIMEOUT).results)} results"
            except grpc.RpcError as error:
                return str(rich_status(error)[1].reason)

        with ThreadPoolExecutor(16) as callers:
            outcomes = set(callers.map(outcome, range(400)))
    # One address meets its own share first, or what other requests of it keep for those that wait.
    assert outcomes > {"4 results"}
    assert outcomes <= {"4 results", "QUEUE_FULL", "SHARE_FULL"}
