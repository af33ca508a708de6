"""More calls at once than a server can answer, from a caller who sends as fast as a processor can."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import DecodeError

from glimpse.server.access.control import AccessControl
from glimpse.server.calls import Calls
from glimpse.server.errors import OverloadedError, Reason
from glimpse.server.fair_queue import Lane
from glimpse.server.floods.guard import Guard
from glimpse.server.floods.traffic import Traffic
from glimpse.server.grpc.interceptors import CallInterceptor
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.settings import Settings
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, rich_status

_CALLS = 4000  # four times what a connection may have open at once


def told(call: Any) -> str:
    """OK, the reason and that there is a hint, or what gRPC says by itself."""
    if call.code() is grpc.StatusCode.OK:
        return "OK"
    trailers = {key for key, _ in call.trailing_metadata() or ()}
    if "grpc-status-details-bin" not in trailers:
        return f"{call.code().name}: {call.details()}"
    hint = "with a hint" if "grpc-retry-pushback-ms" in trailers else "without a hint"
    return f"{call.code().name} {rich_status(call)[1].reason} {hint}"


@pytest.mark.ci
def test_whoever_sends_as_fast_as_a_connection_takes_it_is_refused_by_name(
    start_server: Callable[..., RunningServer],
) -> None:
    # So few places that a machine with many cores cannot keep up either.
    running = start_server("--max-images-in-flight=4", "--max-images-per-request=2", "--max-batch-size=2")
    running.wait_for("serving")
    raw = pb.RawPixels(height=32, width=32, data=bytes(32 * 32 * 3))
    request = pb.ClassifyRequest(images=[pb.Image(raw=raw)]).SerializeToString()
    with grpc.insecure_channel(running.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        grpc.channel_ready_future(channel).result(TIMEOUT)
        send: Any = channel.unary_unary("/glimpse.v1.ImageClassifier/Classify")
        calls = [send.future(request, timeout=2 * TIMEOUT) for _ in range(_CALLS)]
        for call in calls:
            call.exception()  # waits for its end
        ends = Counter(told(call) for call in calls)
    full = {f"RESOURCE_EXHAUSTED {reason} with a hint" for reason in ("QUEUE_FULL", "SHARE_FULL")}
    assert ends.keys() <= full | {"OK"}, ends
    assert ends["OK"], ends
    assert ends.keys() & full, "it was a flood"


class _Full(classifier_pb2_grpc.ImageClassifierServicer):
    async def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:  # noqa: N802 - the contract's name
        raise OverloadedError(Reason.QUEUE_FULL, "There is no room.", retry_after=1.0)


class _Refusing(Guard):
    """Takes everybody for one who floods."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = True

    def refused(self, peer: str, forwarded: str = "", port: int = 0) -> Traffic:
        return self.began(peer, forwarded, port)


@pytest.mark.parametrize("flooded", [False, True])
@pytest.mark.parametrize("method", ["Classify", "NoSuch"])
def test_nothing_of_a_refused_call_is_left_for_the_garbage_collector(method: str, *, flooded: bool) -> None:
    async def refusals(number: int) -> int:
        access, guard = AccessControl(Settings()), _Refusing() if flooded else Guard()  # type: ignore[call-arg]  # defaults
        server = grpc.aio.server(interceptors=[CallInterceptor(Calls(Metrics(), access, guard=guard), {})])
        classifier_pb2_grpc.add_ImageClassifierServicer_to_server(_Full(), server)  # type: ignore[abstract]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            send: Any = channel.unary_unary(f"/glimpse.v1.ImageClassifier/{method}")
            expected = grpc.StatusCode.RESOURCE_EXHAUSTED if method == "Classify" else grpc.StatusCode.UNIMPLEMENTED
            for _ in range(number):
                try:
                    await send(b"", timeout=TIMEOUT)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is expected  # noqa: PT017 - of each of many
            for _ in range(100):  # turns of the loop, for the end of the last one
                await asyncio.sleep(0.01)
                if not (left := _contexts()):
                    break
        await server.stop(0)
        return left

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(refusals(20)) == 0
    finally:
        gc.enable()


def _contexts() -> int:
    """What gRPC keeps of calls on the server's side."""
    return sum(type(each).__name__ == "_ServicerContext" for each in gc.get_objects())


def test_nothing_of_a_message_that_cannot_be_read_is_left_either() -> None:
    """It may have 16 MiB, and what came compressed was a thousandth of that."""

    async def broken(number: int) -> int:
        access = AccessControl(Settings())  # type: ignore[call-arg]  # all have defaults
        gates = {f"/glimpse.v1.ImageClassifier/{name}": _in for name in ("Classify", "ClassifyStream")}
        server = grpc.aio.server(interceptors=[CallInterceptor(Calls(Metrics(), access), gates)])
        classifier_pb2_grpc.add_ImageClassifierServicer_to_server(_Reading(), server)  # type: ignore[abstract]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for method in ["Classify", "ClassifyStream"] * number:
                call: Any = channel.stream_stream(f"/glimpse.v1.ImageClassifier/{method}")(timeout=TIMEOUT)
                await call.write(bytes(1000))
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
                del call
            for _ in range(100):  # turns of the loop, for the end of the last one
                await asyncio.sleep(0.01)
                if not (left := sum(isinstance(each, DecodeError) for each in gc.get_objects())):
                    break
        await server.stop(0)
        return left

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(broken(5)) == 0
    finally:
        gc.enable()


class _Reading(classifier_pb2_grpc.ImageClassifierServicer):
    async def ClassifyStream(self, requests: AsyncIterator[Any], _: Any) -> None:  # type: ignore[override]  # noqa: N802 - the contract's name
        async def read() -> None:
            async for _ in requests:
                pass

        async with asyncio.TaskGroup() as readers:
            readers.create_task(read())


def _in(_: Lane) -> AbstractContextManager[None]:
    return nullcontext()
