"""What surrounds every RPC: its id, its log line, its metrics."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from server import status
from server.errors import InvalidRequestError, Reason, ServiceError, defect
from server.metrics import Metrics

# It has no public name.
_ExecuteBatchError: type[BaseException] = importlib.import_module("grpc._cython.cygrpc").ExecuteBatchError

_log = structlog.get_logger(__name__)

REQUEST_ID_KEY = "x-request-id"
_MAX_ID = 128  # characters; a caller's id goes into every log line

Handler = Callable[[Any, Any], Any]
Gate = Callable[[], AbstractContextManager[None]]


class Observability(grpc.aio.ServerInterceptor):
    """Gives every RPC an id (the caller's `x-request-id` or a fresh one), counts it, times it and logs it."""

    def __init__(self, metrics: Metrics, gates: Mapping[str, Gate]) -> None:
        """Record into `metrics`; a method that has one of `gates` is let through it before its request is read."""
        self._metrics = metrics
        self._gates = gates

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler; an unknown method has none."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        _, service, method = handler_call_details.method.split("/", 2)
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        rpc = _Rpc(self._metrics, (kind, service, method), _request_id(handler_call_details.invocation_metadata))
        if handler.unary_unary is not None:
            # gRPC would read and parse the message by itself, before anyone could refuse it. On the wire a lone message
            # and a stream of one are the same.
            gate = self._gates.get(handler_call_details.method, nullcontext)
            read = rpc.unary(handler.unary_unary, handler.request_deserializer, gate)
            return grpc.stream_unary_rpc_method_handler(read, None, handler.response_serializer)
        requests, responses = (
            "stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming)
        )
        name = f"{requests}_{responses}"
        inner = getattr(handler, name)
        # gRPC looks at the kind of function to know how it answers, so each kind keeps its own.
        wrapped = rpc.generator(inner) if inspect.isasyncgenfunction(inner) else rpc.coroutine(inner)
        make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = getattr(grpc, f"{name}_rpc_method_handler")
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


_KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class _Rpc:
    """One call of one method."""

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str], request_id: str) -> None:
        self._metrics = metrics
        self._labels = labels
        self._request_id = request_id

    def unary(self, inner: Handler, parse: Callable[[bytes], Any] | None, gate: Gate) -> Handler:
        async def handle(requests: AsyncIterator[bytes], context: Any) -> Any:
            async with self._around(context):
                with gate():
                    message = await anext(aiter(requests), None)
                    if message is None:
                        raise _malformed("The call ended without a message.")
                    try:
                        request = parse(message) if parse is not None else message
                    except DecodeError as error:
                        raise _malformed(f"These {len(message)} bytes are no message of this method.") from error
                    del message  # the request has its own copy
                    return await inner(request, context)

        return handle

    def coroutine(self, inner: Handler) -> Handler:
        async def handle(request: Any, context: Any) -> Any:
            async with self._around(context):
                return await inner(request, context)

        return handle

    def generator(self, inner: Handler) -> Handler:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._around(context):
                async for response in inner(request, context):
                    yield response

        return handle

    @asynccontextmanager
    async def _around(self, context: Any) -> AsyncIterator[None]:
        kind, service, method = self._labels
        structlog.contextvars.bind_contextvars(request_id=self._request_id, rpc=f"{service}/{method}")
        context.set_trailing_metadata(((REQUEST_ID_KEY, self._request_id),))
        self._metrics.rpc_started.labels(*self._labels).inc()
        begun = time.monotonic()
        code = grpc.StatusCode.OK
        try:
            yield
        except asyncio.CancelledError:
            code = _ended_by_peer(context)
            raise
        except grpc.aio.AbortError:
            code = _code(context.code())
            raise
        except ServiceError as error:
            code = status.code(error)
            self._metrics.request_rejected(error.reason)
            await self._abort(context, error)
        except Exception as error:  # noqa: BLE001 - gRPC would answer UNKNOWN and tell the caller our internals
            if (gone := _peer_gone(error)) is not None:
                code = _ended_by_peer(context)
                raise gone from None
            code = grpc.StatusCode.INTERNAL
            _log.exception("a defect of the service")
            await self._abort(context, defect())
        finally:
            seconds = time.monotonic() - begun
            self._metrics.rpc_handled.labels(kind, service, method, code.name).inc()
            self._metrics.rpc_seconds.labels(*self._labels).observe(seconds)
            # One line a call would cost more than a small network does; what went wrong is always told.
            log = _log.debug if code is grpc.StatusCode.OK else _log.info
            details = context.details() or None
            log("rpc", code=code.name, seconds=round(seconds, 6), peer=context.peer(), details=details)

    async def _abort(self, context: Any, error: ServiceError) -> None:
        trailers = (*context.trailing_metadata(), *status.trailers(error))
        await context.abort(status.code(error), error.message, trailers)


def _malformed(what: str) -> InvalidRequestError:
    return InvalidRequestError(
        Reason.MALFORMED_MESSAGE, f"{what} Send one message, as glimpse/v1/classifier.proto defines it."
    )


def _ended_by_peer(context: Any) -> grpc.StatusCode:
    """CANCELLED or DEADLINE_EXCEEDED: gRPC ends the handler alike, but only an expired deadline leaves no time."""
    remaining = context.time_remaining()
    expired = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED


def _peer_gone(error: BaseException) -> BaseException | None:
    """The error with which gRPC says that it cannot send because the call is over; None for any other error.

    It can come before the handler is cancelled, and from several tasks of a stream at once. gRPC itself passes it over
    in silence, if it gets it bare.
    """
    if isinstance(error, BaseExceptionGroup):
        leaves = [_peer_gone(each) for each in error.exceptions]
        return leaves[0] if all(leaf is not None for leaf in leaves) else None
    return error if isinstance(error, _ExecuteBatchError) else None


def _code(value: Any) -> grpc.StatusCode:
    """grpc.aio hands back the number of the code that it was given."""
    return value if isinstance(value, grpc.StatusCode) else status.CODES[int(value)]


def _request_id(metadata: Any) -> str:
    for key, value in metadata or ():
        # It goes into logs and back into a header, so it must be plain text.
        if key == REQUEST_ID_KEY and isinstance(value, str) and 0 < len(value) <= _MAX_ID:
            return value if value.isascii() and value.isprintable() else uuid.uuid4().hex
    return uuid.uuid4().hex
