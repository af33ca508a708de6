"""What surrounds every RPC: its id, who calls, its log line, its metrics, its line in the audit log."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from server import status
from server.doors import tokens
from server.doors.keeper import OPEN, Keeper
from server.doors.visit import LANE_KEY, Visit, visiting
from server.errors import InvalidRequestError, Reason, ServiceError, defect
from server.metrics import Metrics
from server.sampling import LeftOut, Sampled
from server.tracing import Tracing
from server.turns import Lane

_log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)  # the same one, for its level

REQUEST_ID_KEY = "x-request-id"
# Ways to end that a caller cannot bring about at will: a defect of ours is told each time.
_OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
_LEFT = {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}  # of a watch: its caller has seen enough
_MOMENT = 0.1  # seconds
# A message above the limit is refused when its first bytes are there, with which it says how large it is, and a caller
# sends them with the call itself. Whoever leaves amid a message has been sending for a while: gRPC shows both alike.
_AT_ONCE = 0.02  # seconds from the beginning of the call
_REFUSED_BY_GRPC = "gRPC refused the message by itself: it is above GLIMPSE_MAX_MESSAGE_BYTES."
_MAX_ID = 128  # characters; a caller's id goes into every log line

Handler = Callable[[Any, Any], Any]
Gate = Callable[[Lane], AbstractContextManager[None]]


class Observability(grpc.aio.ServerInterceptor):
    """Gives every RPC an id (the caller's `x-request-id` or a fresh one), counts it, times it and logs it.

    Before anything is read of a request, its caller has shown who they are, and has a place and a turn.
    """

    def __init__(
        self,
        metrics: Metrics,
        gates: Mapping[str, Gate],
        keeper: Keeper,
        tracing: Tracing | None = None,
        *,
        log_calls: bool = False,
    ) -> None:
        """Record into `metrics` and, where there are traces, into `tracing`; let in whom `keeper` knows.

        A method that has one of `gates` is let through it before its request is read. `log_calls`: a line at level info
        for calls that went well, too.
        """
        self._log_calls = log_calls
        self._tracing = tracing
        self._metrics = metrics
        self._gates = gates
        self._keeper = keeper
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}  # by method, of which there are a few
        # Strangers, and those who have shown who they are: neither take the other's lines.
        self._sampled = Sampled(_tell_left_out), Sampled(_tell_left_out)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler; an unknown method has none."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, path: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        _, service, name = path.split("/", 2)
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        method = _Method(self._metrics, self._keeper, self._tracing, (kind, service, name), log_calls=self._log_calls)
        method.sampled = self._sampled
        gate = self._gates.get(path, _open)
        if not handler.request_streaming:
            # gRPC would read and parse the message by itself, before anyone could refuse it, and wait for it as long as
            # it takes. On the wire a lone message and a stream of one are the same.
            if handler.unary_unary is not None:
                read = method.unary(handler.unary_unary, handler.request_deserializer, gate)
                return grpc.stream_unary_rpc_method_handler(read, None, handler.response_serializer)
            if handler.unary_stream is not None and not inspect.isasyncgenfunction(handler.unary_stream):
                read = method.unary(handler.unary_stream, handler.request_deserializer, gate)
                return grpc.stream_stream_rpc_method_handler(read, None, handler.response_serializer)
        requests, responses = (
            "stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming)
        )
        form = f"{requests}_{responses}"
        inner = getattr(handler, form)
        # gRPC looks at the kind of function to know how it answers, so each kind keeps its own.
        wrapped = method.generator(inner) if inspect.isasyncgenfunction(inner) else method.coroutine(inner, gate)
        make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = getattr(grpc, f"{form}_rpc_method_handler")
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


_KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


def _open(_: Lane) -> AbstractContextManager[None]:
    return nullcontext()


class _Method:
    """What all calls of one method have in common."""

    sampled: tuple[Sampled, Sampled]  # lines of calls that failed: of strangers, and of known callers

    def __init__(
        self,
        metrics: Metrics,
        keeper: Keeper,
        tracing: Tracing | None,
        labels: tuple[str, str, str],
        *,
        log_calls: bool,
    ) -> None:
        self._log_calls = log_calls
        self._tracing = tracing
        self._metrics = metrics
        self._keeper = keeper
        _, self._service, method = labels
        self._name = f"{self._service}/{method}"
        self._counts = metrics.rpc(*labels)

    def unary(self, inner: Handler, parse: Callable[[bytes], Any] | None, gate: Gate) -> Handler:
        receive = self._keeper.uploads.receive

        async def handle(_: AsyncIterator[bytes], context: Any) -> Any:
            async with self._around(context) as visit:
                with gate(visit.lane):
                    # Not by the iterator: left before its end, each would make a task for asyncio to close it.
                    message = await receive(visit.who, context.read)
                    visit.complete = time.monotonic()
                    if message is grpc.aio.EOF:
                        # Gone, or above the limit of bytes, of which gRPC tells the caller by itself: then this call
                        # is cancelled, a moment after the end of its messages.
                        visit.refused_by_grpc = time.monotonic() - visit.begun < _AT_ONCE
                        await asyncio.sleep(_MOMENT)
                        visit.refused_by_grpc = False
                        raise _malformed("The call ended without a message.")
                    try:
                        request = parse(message) if parse is not None else message
                    except DecodeError as error:
                        raise _malformed(f"These {len(message)} bytes are no message of this method.") from error
                    del message  # the request has its own copy
                    return await inner(request, context)

        return handle

    def coroutine(self, inner: Handler, gate: Gate) -> Handler:
        async def handle(request: Any, context: Any) -> Any:
            async with self._around(context) as visit:
                with gate(visit.lane):
                    return await inner(request, context)

        return handle

    def generator(self, inner: Handler) -> Handler:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._around(context):
                async for response in inner(request, context):
                    yield response

        return handle

    @asynccontextmanager
    async def _around(self, context: Any) -> AsyncIterator[Visit]:
        metadata = context.invocation_metadata() or ()
        visit, authorization = _visit(metadata, self._name, context.peer())
        visiting.set(visit)
        structlog.contextvars.bind_contextvars(request_id=visit.request_id, rpc=visit.method)
        self._trace(visit, metadata)
        context.set_trailing_metadata(((REQUEST_ID_KEY, visit.request_id),))
        self._counts.began()
        code, reason = grpc.StatusCode.OK, ""
        try:
            self._keeper.identify(visit, self._service, authorization, context)
            yield visit
        except asyncio.CancelledError:
            code = _ended_by_peer(context)
            if visit.refused_by_grpc and code is grpc.StatusCode.CANCELLED:
                code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise
        except GeneratorExit:  # the caller left between two answers, and Python has found the generator since
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = _code(context.code())
            raise
        except ServiceError as error:
            code, reason = status.code(error), error.reason.value
            self._metrics.request_rejected(error.reason)
            await self._abort(context, error)
        except Exception as error:  # noqa: BLE001 - gRPC would answer UNKNOWN and tell the caller our internals
            if (gone := _only(_cannot_send, error)) is not None:
                # gRPC cannot send because the call is over; it passes that over in silence, if it gets it bare.
                code = _ended_by_peer(context)
                raise gone from None
            if _only(_cannot_parse, error) is not None:  # of a stream, whose messages gRPC parses as they come
                refused = _malformed("A message of this stream cannot be read.")
                code, reason = status.code(refused), refused.reason.value
                self._metrics.request_rejected(refused.reason)
                await self._abort(context, refused)
            code, reason = grpc.StatusCode.INTERNAL, Reason.INTERNAL.value
            _log.exception("a defect of the service")
            await self._abort(context, defect())
        finally:
            details = _REFUSED_BY_GRPC if visit.refused_by_grpc else context.details()
            self._tell(visit, code, reason, time.monotonic() - visit.begun, details or None)

    def _trace(self, visit: Visit, metadata: Any) -> None:
        if self._tracing is None:
            return
        visit.trace = self._tracing.call(visit.method, metadata, visit.peer)
        if visit.trace is not None:
            structlog.contextvars.bind_contextvars(trace_id=visit.trace.trace_id)

    def _tell(self, visit: Visit, code: grpc.StatusCode, reason: str, seconds: float, details: str | None) -> None:
        trace = visit.trace
        self._counts.ended(code.name, seconds, None if trace is None else trace.exemplar)
        self._log(visit, code, reason, seconds, details)
        if trace is not None:
            trace.end(code.name, reason=reason, request_id=visit.request_id, images=visit.images, model=visit.model)
        if self._keeper.audit is not None and self._service != OPEN:
            self._keeper.audit.write(visit, code=code.name, reason=reason, seconds=seconds)

    def _log(self, visit: Visit, code: grpc.StatusCode, reason: str, seconds: float, details: str | None) -> None:
        # One line a call would cost more than a small network does; what went wrong is told, but of many like it from
        # one caller a few. Probes and watches of the health are no news, however they end.
        log, more = _log.info, dict[str, Any]()
        usual = code is grpc.StatusCode.OK or (self._service == OPEN and code in _LEFT)
        left_out = (
            0 if usual or code in _OURS else self.sampled[bool(visit.identity)].left_out(visit.who, code.name, reason)
        )
        if left_out:
            more = {"left_out": left_out}
        elif usual or left_out is None:
            if self._log_calls and code is grpc.StatusCode.OK and self._service != OPEN:
                more = {"model": visit.model, "images": visit.images, "bytes": visit.bytes}
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
            peer=visit.peer,
            details=details,
            **more,
        )

    async def _abort(self, context: Any, error: ServiceError) -> None:
        trailers = (*context.trailing_metadata(), *status.trailers(error))
        try:
            await context.abort(status.code(error), error.message, trailers)
        except grpc.aio.AbortError as aborted:
            # gRPC keeps this exception with the call, and its traceback leads back to the call: a circle that only a
            # look for garbage would end. In a flood of refusals that is thousands of calls. Since Python 3.12 a frame
            # knows its caller, and so the refusal's own traceback leads to a frame that holds the refusal.
            task = asyncio.current_task()
            if task is not None:
                task.add_done_callback(partial(_let_go, (aborted, error)))
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
    """Have exceptions of a call that is over hold on to nothing."""
    for error in errors:
        error.__traceback__ = error.__context__ = None


def _malformed(what: str) -> InvalidRequestError:
    return InvalidRequestError(
        Reason.MALFORMED_MESSAGE, f"{what} Send one message, as glimpse/v1/classifier.proto defines it."
    )


def _ended_by_peer(context: Any) -> grpc.StatusCode:
    """CANCELLED or DEADLINE_EXCEEDED: gRPC ends the handler alike, but only an expired deadline leaves no time."""
    remaining = context.time_remaining()
    expired = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED


def _only(kind: Callable[[BaseException], bool], error: BaseException) -> BaseException | None:
    """The error of that kind, also where several tasks of a stream met it at once; None where there is any other."""
    if isinstance(error, BaseExceptionGroup):
        leaves = [_only(kind, each) for each in error.exceptions]
        return leaves[0] if all(leaf is not None for leaf in leaves) else None
    return error if kind(error) else None


def _cannot_parse(error: BaseException) -> bool:
    return isinstance(error, DecodeError)


def _cannot_send(error: BaseException) -> bool:
    """gRPC's error for a call that is over. It has no public name, so it is known by the one that it has."""
    return any(each.__name__ == "ExecuteBatchError" for each in type(error).__mro__)


def _code(value: Any) -> grpc.StatusCode:
    """grpc.aio hands back the number of the code that it was given."""
    return value if isinstance(value, grpc.StatusCode) else status.CODES[int(value)]


def _visit(metadata: Any, method: str, peer: str) -> tuple[Visit, list[str]]:
    """What a call's metadata says of who calls, and whatever it has for `authorization`."""
    request_id = client = ""
    authorization = []
    for key, value in metadata:
        if key == REQUEST_ID_KEY:
            # It goes into logs and back into a header, so it must be plain text.
            if not request_id and 0 < len(value) <= _MAX_ID and value.isascii() and value.isprintable():
                request_id = value
        elif key == LANE_KEY:
            client = client or value
        elif key == tokens.KEY:
            authorization.append(value)
    return Visit(request_id or _fresh_id(), method, peer, client), authorization


def _fresh_id() -> str:
    # No secret; asking the kernel for one would cost a system call.
    return f"{random.getrandbits(128):032x}"
