"""What surrounds every RPC: its id, who calls, its log line, its metrics, its line in the audit log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf import descriptor_pool

from glimpse.server import status
from glimpse.server.access import fields
from glimpse.server.access.arrival import REQUEST_ID_KEY, arrive
from glimpse.server.access.call_context import CallContext, current_call
from glimpse.server.access.control import OPEN, AccessControl
from glimpse.server.access.pieces import Pieces
from glimpse.server.access.unauthenticated import UnauthenticatedCalls
from glimpse.server.access.unpacking import packed
from glimpse.server.call_ends import cannot_send, content_refused, ended_by_peer, malformed, only, parsed, status_of
from glimpse.server.errors import ServiceError, defect
from glimpse.server.fair_queue import Lane
from glimpse.server.guard import Guard
from glimpse.server.metrics import Metrics
from glimpse.server.sampling import LeftOut, Sampled
from glimpse.server.tracing import Tracing

_log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)  # the same one, for its level

# Ways to end that a caller cannot bring about at will: a defect of ours is told each time.
_OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
_LEFT = {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}  # of a watch: its caller has seen enough
_MOMENT = 0.1  # seconds
# A message above the limit is refused when its first bytes are there, with which it says how large it is, and a caller
# sends them with the call itself. Whoever leaves amid a message has been sending for a while: gRPC shows both alike.
_AT_ONCE = 0.02  # seconds from the beginning of the call
_REFUSED_BY_GRPC = "gRPC refused the message because it exceeds GLIMPSE_MAX_MESSAGE_BYTES."
_FAREWELL = 1.0  # seconds that a caller has to take the word that the server ends the call
_FLOODED = "Too many calls from your address had no message, were reset, or were refused. Send fewer of them."
_FRAMES = 64  # bytes that HTTP/2 says around a message, and to have more of them

Handler = Callable[[Any, Any], Any]
Gate = Callable[[Lane], AbstractContextManager[None]]
Parse = Callable[[bytes], Any]


class Observability(grpc.aio.ServerInterceptor):
    """Gives every RPC an id (the caller's `x-request-id` or a fresh one), counts it, times it and logs it.

    Before anything is read of a request, its caller has shown who they are, and has a place and a turn.
    """

    def __init__(
        self,
        metrics: Metrics,
        gates: Mapping[str, Gate],
        access: AccessControl,
        tracing: Tracing | None = None,
        *,
        checks: UnauthenticatedCalls | None = None,
        guard: Guard | None = None,
        log_calls: bool = False,
        most_fields: int = fields.LEAST,
    ) -> None:
        """Record into `metrics` and, where there are traces, into `tracing`; let in whom `access` knows.

        A method that has one of `gates` is let through it before its request is read. All others have a small budget of
        their own; `checks` is that of health checks, if not the one that `access` has for the main port. `log_calls`: a
        line at level info for calls that went well, too. `guard` is told what became of each call. `most_fields`: bytes
        of a message through a gate that are not contents of its fields, see `server.access.fields`.
        """
        self._checks = access.checks if checks is None else checks
        self._log_calls = log_calls
        self._most_fields = most_fields
        self._guard = Guard() if guard is None else guard
        self._tracing = tracing
        self._metrics = metrics
        self._gates = gates
        self._access = access
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}  # by method, of which there are a few
        # Strangers, and those who have shown who they are: neither take the other's lines.
        self._sampled = Sampled(_tell_left_out), Sampled(_tell_left_out)
        self._unknown: grpc.RpcMethodHandler[Any, Any] = grpc.stream_unary_rpc_method_handler(self._no_method)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler; an unknown method gets one that says so."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return self._unknown
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, path: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        _, service, name = path.split("/", 2)
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        gate = self._gates.get(path)
        write = _counted(handler.response_serializer, classifies=gate is not None)
        method = _Method(
            self._metrics,
            self._access,
            self._tracing,
            (kind, service, name),
            guard=self._guard,
            gated=gate is not None,
            log_calls=self._log_calls,
        )
        method.sampled = self._sampled
        inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_stream
        parse: Any = handler.request_deserializer
        # gRPC would read and parse a lone message by itself, before anyone could refuse it, and wait for it as long as
        # it takes. On the wire a lone message and a stream of one are the same.
        lone = handler.unary_unary is not None
        if gate is not None and parse is not None:
            parse = fields.bounded(parse, descriptor_pool.Default(), f"{service}.{name}", self._most_fields)
        if gate is not None and lone:
            return grpc.stream_unary_rpc_method_handler(method.unary(inner, parse, gate), None, write)
        if gate is not None:
            return grpc.stream_stream_rpc_method_handler(method.stream(inner, parse, gate), None, write)
        # A method that anybody may call. Its messages are read as they are, so that their length is known.
        calls = self._checks if service == OPEN else self._access.questions
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(method.conversation(inner, parse, calls), None, write)
        return grpc.stream_stream_rpc_method_handler(method.question(inner, parse, calls, lone=lone), None, write)

    async def _no_method(self, _: Any, context: Any) -> None:
        """What gRPC answers to a method that there is not; only here its caller is known."""
        call, _authorization = arrive(context.invocation_metadata() or (), "", context.peer(), self._access.proxies)
        traffic = self._guard.began(call.peer, call.address)
        self._guard.ended(traffic, "UNIMPLEMENTED", received=0, gated=False, seconds=0.0)
        await _end(context, grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


_KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class _Method:
    """What all calls of one method have in common."""

    sampled: tuple[Sampled, Sampled]  # lines of calls that failed: of strangers, and of known callers

    def __init__(
        self,
        metrics: Metrics,
        access: AccessControl,
        tracing: Tracing | None,
        labels: tuple[str, str, str],
        *,
        guard: Guard,
        gated: bool,
        log_calls: bool,
    ) -> None:
        self._log_calls = log_calls
        self._guard = guard
        self._gated = gated
        self._tracing = tracing
        self._metrics = metrics
        self._access = access
        _, self._service, method = labels
        self._name = f"{self._service}/{method}"
        self._counts = metrics.rpc(*labels)

    def unary(self, inner: Handler, parse: Parse | None, gate: Gate) -> Handler:
        receive, unpack = self._access.uploads.receive, self._access.unpacking.unpack
        send = self._access.unread.send

        async def handle(_: AsyncIterator[bytes], context: Any) -> Any:
            async with self._around(context) as call:
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
                        if packed(message):
                            message = await unpack(message)
                        request = parsed(message, parse)
                        del message  # the request has its own copy
                        answer = await inner(request, context)
                        send(call)
                        return answer
                return await _no_message(call)  # which has given its place back

        return handle

    def stream(self, inner: Handler, parse: Parse, gate: Gate) -> Handler:
        held, receiving, unpacking = self._access.streams.held, self._access.receiving, self._access.unpacking

        async def handle(_: Any, context: Any) -> Any:
            async with self._around(context) as call:
                with gate(call.lane), held(call):
                    pieces = Pieces(receiving, unpacking, call, read=context.read, parse=parse)
                    return await inner(pieces, context)

        return handle

    def question(self, inner: Handler, parse: Parse | None, calls: UnauthenticatedCalls, *, lone: bool) -> Handler:
        """One message, and one answer or, where it is not `lone`, as many as come."""

        async def handle(_: AsyncIterator[bytes], context: Any) -> None:
            async with self._around(context) as call:
                with calls.place(call, streams=not lone):
                    message = await calls.receive(call, context.read)
                    if message is grpc.aio.EOF:
                        await _no_message(call)
                    answer = await inner(parsed(message, parse), context)
                    if lone:  # with its place, which whoever does not take the answer goes on holding
                        await context.write(answer)

        return handle

    def conversation(self, inner: Handler, parse: Parse | None, calls: UnauthenticatedCalls) -> Handler:
        """Messages and answers as they come."""
        held = self._access.streams.held

        async def messages(call: CallContext, context: Any) -> AsyncIterator[Any]:
            while (message := await calls.receive(call, context.read)) is not grpc.aio.EOF:
                yield parsed(message, parse)

        async def handle(_: AsyncIterator[bytes], context: Any) -> None:
            async with self._around(context) as call:
                with calls.place(call, streams=True), held(call):
                    async for answer in inner(messages(call, context), context):
                        await context.write(answer)

        return handle

    @asynccontextmanager
    async def _around(self, context: Any) -> AsyncIterator[CallContext]:
        metadata = context.invocation_metadata() or ()
        call, authorization = arrive(metadata, self._name, context.peer(), self._access.proxies)
        if self._guard.refuses:
            await self._refuse_flood(call, context)
        call.traffic = self._guard.began(call.peer, call.address)
        current_call.set(call)
        structlog.contextvars.bind_contextvars(request_id=call.request_id, rpc=call.method)
        self._trace(call, metadata)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        self._counts.began()
        code, reason = grpc.StatusCode.OK, ""
        try:
            self._access.identify(call, self._service, authorization, context)
            yield call
        except asyncio.CancelledError:
            why = call.ended_by_us()
            code, reason = _cancelled(call, context) if why is None else (status.code(why), why.reason.value)
            if why is not None:
                await self._send_away(call, context, why)
            raise
        except GeneratorExit:  # the caller left between two answers, and Python has found the generator since
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = status_of(context.code())
            raise
        except ServiceError as error:
            code, reason = status.code(error), error.reason.value
            await self._refuse(call, context, error)
        except Exception as error:  # noqa: BLE001 - gRPC would answer UNKNOWN and tell the caller our internals
            if (gone := only(cannot_send, error)) is not None:
                # gRPC cannot send because the call is over; it passes that over in silence, if it gets it bare.
                code = ended_by_peer(context)
                raise gone from None
            code, reason, refused = content_refused(error)
            if refused is None:
                _log.exception("a defect of the service")
            await self._refuse_content(call, context, code, refused)
        finally:
            self._access.leave(call)
            details = _REFUSED_BY_GRPC if call.refused_by_grpc else context.details()
            self._tell(call, code, reason, time.monotonic() - call.begun, details or None)

    async def _refuse_flood(self, call: CallContext, context: Any) -> None:
        """Refuse a call of those who flood, before anything is read, counted, traced or logged: thousands may wait."""
        if self._guard.refused(call.peer, call.address) is not None:
            await _end(context, grpc.StatusCode.RESOURCE_EXHAUSTED, _FLOODED)

    def _trace(self, call: CallContext, metadata: Any) -> None:
        if self._tracing is None:
            return
        call.trace = self._tracing.call(call.method, metadata, call.peer)
        if call.trace is not None:
            structlog.contextvars.bind_contextvars(trace_id=call.trace.trace_id)

    def _tell(self, call: CallContext, code: grpc.StatusCode, reason: str, seconds: float, details: str | None) -> None:
        trace = call.trace
        self._counts.ended(code.name, seconds, None if trace is None else trace.exemplar)
        self._guard.ended(call.traffic, code.name, received=call.received, gated=self._gated, seconds=seconds)
        self._log(call, code, reason, seconds, details)
        if trace is not None:
            trace.end(code.name, reason=reason, request_id=call.request_id, images=call.images, model=call.model)
        if self._access.audit is not None and self._service != OPEN:
            self._access.audit.write(call, code=code.name, reason=reason, seconds=seconds)

    def _log(self, call: CallContext, code: grpc.StatusCode, reason: str, seconds: float, details: str | None) -> None:
        # One line a call would cost more than a small network does; what went wrong is told, but of many like it from
        # one caller a few. Probes and watches of the health are no news, however they end.
        log, more = _log.info, dict[str, Any]()
        usual = code is grpc.StatusCode.OK or (self._service == OPEN and code in _LEFT)
        left_out = (
            0 if usual or code in _OURS else self.sampled[bool(call.identity)].left_out(call.who, code.name, reason)
        )
        if left_out:
            more = {"left_out": left_out}
        elif usual or left_out is None:
            if self._log_calls and code is grpc.StatusCode.OK and self._service != OPEN:
                more = {"model": call.model, "images": call.images, "bytes": call.bytes}
            elif not _level.isEnabledFor(logging.DEBUG):  # structlog finds that out after all the work
                return
            else:
                log = _log.debug
        # Not context.peer(): where the call is over and gone, gRPC's code would crash the process.
        log(
            "rpc",
            code=code.name,
            reason=reason or None,
            seconds=round(seconds, 6),
            peer=call.peer,
            details=details,
            **more,
        )

    async def _send_away(self, call: CallContext, context: Any, why: ServiceError) -> None:
        """Tell a caller why the server ends the call; where they take no answers, close their connection."""
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._refuse(call, context, why)
        except Exception as error:
            # gRPC cannot send where an answer waits to be taken, or where the caller has gone meanwhile.
            if not (isinstance(error, TimeoutError) or cannot_send(error)):
                raise
            if not call.address:  # a proxy's connection is many callers'
                self._access.closing.close(call.peer)

    async def _refuse(self, call: CallContext, context: Any, error: ServiceError) -> None:
        self._metrics.request_rejected(error.reason)
        if call.suspect:
            await self._access.hold_back()
        await self._abort(call, context, error)

    async def _refuse_content(
        self, call: CallContext, context: Any, code: grpc.StatusCode, refused: Exception | None
    ) -> None:
        """End a call as `content_refused` says."""
        if refused is None:
            await self._abort(call, context, defect())
        elif isinstance(refused, ServiceError):
            await self._refuse(call, context, refused)
        else:
            await _end(context, code, str(refused), refused)

    async def _abort(self, call: CallContext, context: Any, error: ServiceError) -> None:
        self._access.unread.send(call)
        trailers = (*(context.trailing_metadata() or ()), *status.trailers(error))
        await _end(context, status.code(error), error.message, error, trailers=trailers)


async def _end(
    context: Any, code: grpc.StatusCode, message: str, *errors: BaseException, trailers: Sequence[tuple[str, Any]] = ()
) -> None:
    """End a call with a status, for `errors`, which nobody looks at afterwards."""
    try:
        await context.abort(code, message, trailers)
    except grpc.aio.AbortError as aborted:
        # gRPC keeps this exception with the call, and its traceback leads back to the call: a circle that only a look
        # for garbage would end. In a flood of refusals that is thousands of calls. Since Python 3.12 a frame knows its
        # caller, and so a refusal's own traceback leads to a frame that holds the refusal.
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(partial(_let_go, (aborted, *errors)))
        raise


def _tell_left_out(left_out: LeftOut) -> None:
    _log.info(
        "rpcs left out of the log",
        code=left_out.code or None,
        reason=left_out.reason or None,
        who=left_out.who or None,
        left_out=left_out.lines,
    )


def _let_go(errors: tuple[BaseException, ...], _: object) -> None:
    """Have exceptions of a call that is over, and those that they come from, hold on to nothing.

    A frame of theirs may hold the message, which is megabytes.
    """
    waiting, seen = list(errors), set[int]()
    while waiting:
        error = waiting.pop()
        if id(error) in seen:  # a group that one of its own comes from
            continue
        seen.add(id(error))
        waiting += [each for each in (error.__context__, error.__cause__) if each is not None]
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
        error.__traceback__ = error.__context__ = error.__cause__ = None


def _counted(serialize: Callable[[Any], bytes] | None, *, classifies: bool) -> Callable[[Any], bytes]:
    """The same serializer of answers, whose bytes are counted; `classifies`: of a method that does."""

    def write(answer: Any) -> bytes:
        message: bytes = answer if serialize is None else serialize(answer)
        traffic = current_call.get().traffic
        traffic.answered += len(message) + _FRAMES
        if classifies:
            traffic.served = True
        return message

    return write


def _cancelled(call: CallContext, context: Any) -> tuple[grpc.StatusCode, str]:
    """How a call ended that gRPC has cancelled."""
    code = ended_by_peer(context)
    refused = call.refused_by_grpc and code is grpc.StatusCode.CANCELLED
    return (grpc.StatusCode.RESOURCE_EXHAUSTED if refused else code), ""


async def _no_message(call: CallContext) -> NoReturn:
    """The caller has gone, or the message was above the limit of bytes.

    Of that gRPC tells the caller by itself: then this call is cancelled, a moment after the end of its messages.
    """
    call.refused_by_grpc = time.monotonic() - call.begun < _AT_ONCE
    await asyncio.sleep(_MOMENT)
    call.refused_by_grpc = False
    raise malformed("The call ended without a message.")
