"""The gRPC interceptor: no method is served without its calls being identified, counted, traced, logged and audited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pool import DescriptorPool

from glimpse.server.access.call_context import current_call
from glimpse.server.access.unauthenticated import UnauthenticatedCalls
from glimpse.server.calls import Calls
from glimpse.server.fields import Names
from glimpse.server.grpc import message_fields, pixel_messages
from glimpse.server.grpc.aborting import abort
from glimpse.server.grpc.decompression import Decompressor
from glimpse.server.grpc.handlers import Gate, Handlers
from glimpse.server.grpc.health import HEALTH

_FRAMES = 64  # bytes that HTTP/2 says around a message, and to have more of them
_KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handler of every method: before anything is read of a request, its caller has a place and a turn."""

    def __init__(
        self,
        calls: Calls,
        gates: Mapping[str, Gate],
        *,
        checks: UnauthenticatedCalls | None = None,
        max_message_bytes: int = 16 << 20,
        most_fields: int = message_fields.LEAST,
        readers: Mapping[str, pixel_messages.Reader] | None = None,
        probes: Collection[str] = (),
        pools: Mapping[str, DescriptorPool] | None = None,
        names: Mapping[str, Names] | None = None,
    ) -> None:
        """Wrap the methods of one port.

        Args:
            calls: what surrounds the calls of this port.
            gates: by method, what gives its calls a place before their request is read; those methods classify. All
                others have a small budget of their own.
            checks: the budget of health checks; None: that of the main port.
            max_message_bytes: of the largest message, decompressed, to a method with a gate.
            most_fields: bytes of a message to a method with a gate that are not contents of its fields, see
                `server.grpc.message_fields`.
            readers: by method, what reads some of its messages in protobuf's place, see `server.grpc.pixel_messages`.
            probes: methods that are health checks, besides those of grpc.health.v1.
            pools: by service, the pool of its messages, where that is not the default one.
            names: by method, what its messages call the fields that errors are about.
        """
        self._calls, self._gates = calls, gates
        self._checks = calls.access.checks if checks is None else checks
        self._most_fields, self._readers = most_fields, readers or {}
        self._probes, self._pools, self._names = probes, pools or {}, names or {}
        self._decompressor = Decompressor(max_message_bytes)
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}  # by method, of which there are a few
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
        gate, access = self._gates.get(path), self._calls.access
        write = _counted(handler.response_serializer, classifies=gate is not None)
        probe = service == HEALTH or path in self._probes
        names = self._names.get(path, {})
        method = self._calls.method(kind, service, name, classifies=gate is not None, probe=probe, names=names)
        handlers = Handlers(method, access, self._decompressor)
        inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_stream
        parse: Any = handler.request_deserializer
        single = handler.unary_unary is not None
        if gate is not None and parse is not None:
            pool = self._pools.get(service) or descriptor_pool.Default()
            parse = message_fields.bounded(parse, pool, f"{service}.{name}", self._most_fields)
            if (read := self._readers.get(path)) is not None:
                parse = pixel_messages.first(read, parse, self._most_fields)
        if gate is not None and single:
            return grpc.stream_unary_rpc_method_handler(handlers.unary(inner, parse, gate), None, write)
        if gate is not None:
            return grpc.stream_stream_rpc_method_handler(handlers.stream(inner, parse, gate), None, write)
        # A method that anybody may call. Its messages are read as they are, so that their length is known.
        calls = self._checks if probe else access.descriptions
        if handler.stream_stream is not None:
            public = handlers.public_stream(inner, parse, calls)
        else:
            public = handlers.public_call(inner, parse, calls, single=single)
        return grpc.stream_stream_rpc_method_handler(public, None, write)

    async def _no_method(self, _: Any, context: Any) -> None:
        """What gRPC answers to a method that does not exist; only here its caller is known."""
        self._calls.unknown_method(context.invocation_metadata() or (), context.peer())
        await abort(context, grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


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
