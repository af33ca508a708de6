"""How requests reach the server: `grpc.aio` calls of bytes, whose every end is an `Answer` and never an exception."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from itertools import count, cycle
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from glimpse.client.channel import SERVICE
from glimpse.client.connection import Connection
from glimpse.client.load.tally import STAGES, Answer, Request
from glimpse.v1 import classifier_pb2 as pb

Metadata = Callable[[], tuple[tuple[str, str], ...]]


def open_channels(connection: Connection, count: int, *, retries: bool) -> list[grpc.aio.Channel]:
    """So many connections for the event loop that runs; the first calls connect.

    Args:
        connection: where to, and what is needed to get in.
        count: how many.
        retries: whether gRPC repeats calls that the server has no room for.

    Raises:
        OSError: a file of the certificates cannot be read.
        ValueError: it holds no such thing.
    """
    credentials = connection.credentials()
    options: list[tuple[str, int | str]] = [
        *connection.options(repeat_all=True),
        ("grpc.enable_retries", int(retries)),
        # gRPC would share one connection between channels to the same server.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if credentials is None:
        return [grpc.aio.insecure_channel(connection.target, options=options) for _ in range(count)]
    return [grpc.aio.secure_channel(connection.target, credentials, options=options) for _ in range(count)]


class Call(Protocol):
    """Sends a request and comes back with what became of it."""

    async def __call__(self, request: Request, timeout: float) -> Answer:  # noqa: ASYNC109  (it travels with the call)
        """Answer within so many seconds."""


class Unary:
    """`Classify`, the connections in turn."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], metadata: Metadata) -> None:
        # Bytes in, bytes out: the requests were made before.
        self._methods: Any = cycle([channel.unary_unary(f"/{SERVICE}/Classify") for channel in channels])
        self._metadata = metadata

    async def __call__(self, request: Request, timeout: float) -> Answer:  # noqa: ASYNC109
        """Call."""
        try:
            reply = await next(self._methods)(request.body, timeout=timeout, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            return Answer(error=reason(error))
        return read(pb.ClassifyResponse.FromString(reply))


class Streams:
    """`ClassifyStream`: so many streams in turn, each with a window of requests that wait for their answers."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], metadata: Metadata, *, streams: int, window: int) -> None:
        turns = cycle(channels)
        self._streams = [_Stream(next(turns), metadata, window) for _ in range(streams)]
        self._next = cycle(self._streams)

    async def __call__(self, request: Request, timeout: float) -> Answer:  # noqa: ASYNC109
        """Send over the next stream."""
        return await next(self._next).ask(request, timeout)

    async def close(self) -> None:
        """End all streams."""
        for stream in self._streams:
            await stream.close()


class _Stream:
    """One stream, opened anew after it broke."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata, window: int) -> None:
        self._method: Any = channel.stream_stream(f"/{SERVICE}/ClassifyStream")
        self._metadata = metadata
        self._room = asyncio.Semaphore(window)
        self._writing = asyncio.Lock()  # gRPC takes one message at a time
        self._ids = count()
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None

    async def ask(self, request: Request, timeout: float) -> Answer:  # noqa: ASYNC109
        number = str(next(self._ids))
        try:
            async with asyncio.timeout(timeout), self._room:
                answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
                self._waiting[number] = answer
                async with self._writing:
                    if self._call is None:
                        self._open()
                    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader hears why
                        await self._call.write(pb.ClassifyStreamRequest(id=number).SerializeToString() + request.body)
                return await answer
        except TimeoutError:
            return Answer(error="DEADLINE_EXCEEDED")
        finally:
            self._waiting.pop(number, None)

    def _open(self) -> None:
        self._call = self._method(metadata=self._metadata())
        self._reader = asyncio.create_task(self._read(self._call))

    async def _read(self, call: Any) -> None:
        why = "STREAM_ENDED"
        try:
            async for reply in call:
                message = pb.ClassifyStreamResponse.FromString(reply)
                waiting = self._waiting.get(message.id)
                if waiting is not None and not waiting.done():  # else it came after its time
                    refused = message.HasField("error")
                    waiting.set_result(
                        Answer(error=message.error.reason or _name(message.error.code))
                        if refused
                        else read(message.response)
                    )
        except grpc.aio.AioRpcError as error:
            # Where a write meets the end of its call, grpc.aio says INTERNAL, and what the server said is lost.
            hidden = error.code() is grpc.StatusCode.INTERNAL and not error.trailing_metadata()
            why = "STREAM_BROKE" if hidden else reason(error)
        finally:
            self._call = None
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(Answer(error=why))

    async def close(self) -> None:
        if self._call is not None:
            self._call.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


def read(response: pb.ClassifyResponse) -> Answer:
    """What a load test needs of a response: the images' errors, and the stages of the one that took longest."""
    images = tuple(
        (each.error.reason or _name(each.error.code)) if each.HasField("error") else "" for each in response.results
    )
    slowest: tuple[float, ...] | None = None
    batch = 0
    for each in response.results:
        if each.HasField("error"):  # it did not reach all stages
            continue
        timing = each.timing
        stages = tuple(getattr(timing, f"{stage}_seconds") for stage in STAGES[:-1])
        if slowest is None or sum(stages) > sum(slowest):
            slowest, batch = stages, timing.batch_size
    return Answer(images=images, stages=slowest, batch=batch)


def reason(error: grpc.aio.AioRpcError) -> str:
    """Glimpse's reason where the status has one, gRPC's code otherwise."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                for packed in status_pb2.Status.FromString(value).details:
                    info = error_details_pb2.ErrorInfo()
                    if packed.Unpack(info) and info.reason:
                        return str(info.reason)
    return error.code().name


def _name(code: int) -> str:
    return next((each.name for each in grpc.StatusCode if each.value[0] == code), "UNKNOWN")
