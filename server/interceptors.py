"""What surrounds every RPC: its id, its log line, its metrics."""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import structlog

from server import status
from server.errors import InternalError
from server.metrics import Metrics

_log = structlog.get_logger(__name__)

REQUEST_ID_KEY = "x-request-id"
_MAX_ID = 128  # characters; a caller's id goes into every log line

Handler = Callable[[Any, Any], Any]


class Observability(grpc.aio.ServerInterceptor):
    """Gives every RPC an id (the caller's `x-request-id` or a fresh one), counts it, times it and logs it."""

    def __init__(self, metrics: Metrics) -> None:
        """Record into `metrics`."""
        self._metrics = metrics

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
            # gRPC cancels the handler for both; only an expired deadline leaves no time.
            remaining = context.time_remaining()
            expired = remaining is not None and remaining <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = _code(context.code())
            raise
        except Exception:  # noqa: BLE001 - gRPC would answer UNKNOWN and tell the caller our internals
            code = grpc.StatusCode.INTERNAL
            _log.exception("a defect of the service")
            defect = InternalError("The service failed. Its log has the details under this request's x-request-id.")
            await context.abort(code, defect.message, (*context.trailing_metadata(), *status.trailers(defect)))
        finally:
            seconds = time.monotonic() - begun
            self._metrics.rpc_handled.labels(kind, service, method, code.name).inc()
            self._metrics.rpc_seconds.labels(*self._labels).observe(seconds)
            # One line a call would cost more than a small network does; what went wrong is always told.
            log = _log.debug if code is grpc.StatusCode.OK else _log.info
            details = context.details() or None
            log("rpc", code=code.name, seconds=round(seconds, 6), peer=context.peer(), details=details)


def _code(value: Any) -> grpc.StatusCode:
    """grpc.aio hands back the number of the code that it was given."""
    return value if isinstance(value, grpc.StatusCode) else status.CODES[int(value)]


def _request_id(metadata: Any) -> str:
    for key, value in metadata or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and 0 < len(value) <= _MAX_ID:
            return value
    return uuid.uuid4().hex
