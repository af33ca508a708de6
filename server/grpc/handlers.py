"""gRPC handlers of the four kinds of methods: who calls is known before anything is read of what they send.

gRPC would read and parse the message of a unary call by itself, before anyone could refuse it, and wait for it as long
as it takes. On the wire a single message and a stream of one are the same: so all methods are served as
streams of bytes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc.aio

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.control import AccessControl
from glimpse.server.access.unauthenticated import UnauthenticatedCalls
from glimpse.server.calls import Method
from glimpse.server.fair_queue import Lane
from glimpse.server.grpc.call import GrpcCall
from glimpse.server.grpc.call_ends import parsed
from glimpse.server.grpc.decompression import Decompressor, decompress_short, is_compressed
from glimpse.server.grpc.stream_messages import StreamMessages

Handler = Callable[[Any, Any], Any]
Gate = Callable[[Lane], AbstractContextManager[None]]
Parse = Callable[[bytes], Any]


class Handlers:
    """Makes the handler of one method from the servicer's function for it, `inner`, and the parser of its messages."""

    def __init__(self, method: Method, access: AccessControl, decompressor: Decompressor) -> None:
        """Serve the calls of `method` to whom `access` lets in."""
        self._method, self._access, self._decompressor = method, access, decompressor

    def unary(self, inner: Handler, parse: Parse | None, gate: Gate) -> Handler:
        """One message and one answer, of a method that classifies; `gate` gives places to its calls."""
        receive, decompress = self._access.uploads.receive, self._decompressor.decompress
        send = self._access.unread.send

        async def handle(_: AsyncIterator[bytes], context: Any) -> Any:
            surrounding = self._around(context)
            async with surrounding as call:
                with gate(call.lane):
                    call.traffic.waiting += 1
                    try:
                        # Not by the iterator: left before its end, each would make a task for asyncio to close it.
                        message = await receive(call.who, call.peer, context.read)
                    finally:
                        call.traffic.waiting -= 1
                    call.complete = time.monotonic()
                    if message is not grpc.aio.EOF:
                        call.take(len(message))
                        if is_compressed(message):
                            message = await decompress(message)
                        request = parsed(message, parse)
                        del message  # the request has what it needs of it
                        answer = await inner(request, context)
                        send(call)
                        return answer
                return await surrounding.no_message()  # which has given its place back

        return handle

    def stream(self, inner: Handler, parse: Parse, gate: Gate) -> Handler:
        """Messages and answers as they come, of a method that classifies; `gate` gives places to its calls."""
        watched, receiving, decompressor = self._access.streams.watched, self._access.receiving, self._decompressor

        async def handle(_: Any, context: Any) -> Any:
            async with self._around(context) as call:
                with gate(call.lane), watched(call):
                    messages = StreamMessages(receiving, decompressor, call, read=context.read, parse=parse)
                    return await inner(messages, context)

        return handle

    def public_call(self, inner: Handler, parse: Parse | None, calls: UnauthenticatedCalls, *, single: bool) -> Handler:
        """One message of a method that anybody may call; one answer or, where it is not `single`, as many as come."""

        async def handle(_: AsyncIterator[bytes], context: Any) -> None:
            surrounding = self._around(context)
            async with surrounding as call:
                with calls.place(call, streams=not single):
                    message = await calls.receive(call, context.read, decompress_short)
                    if message is grpc.aio.EOF:
                        await surrounding.no_message()
                    answer = await inner(parsed(message, parse), context)
                    if single:  # with its place, which whoever does not take the answer goes on holding
                        await context.write(answer)

        return handle

    def public_stream(self, inner: Handler, parse: Parse | None, calls: UnauthenticatedCalls) -> Handler:
        """Messages and answers as they come, of a method that anybody may call."""
        watched = self._access.streams.watched

        async def messages(call: CallContext, context: Any) -> AsyncIterator[Any]:
            while (message := await calls.receive(call, context.read, decompress_short)) is not grpc.aio.EOF:
                yield parsed(message, parse)

        async def handle(_: AsyncIterator[bytes], context: Any) -> None:
            async with self._around(context) as call:
                with calls.place(call, streams=True), watched(call):
                    async for answer in inner(messages(call, context), context):
                        await context.write(answer)

        return handle

    def _around(self, context: Any) -> GrpcCall:
        return GrpcCall(self._method, self._access, context)
