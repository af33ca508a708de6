"""A gRPC server that does nothing: what an RPC costs in Python before there is a service.

A worker (`python -m tools.bench.echo`). It takes the service's requests and answers with bytes that were given to it,
so that as much goes over the wire in both directions. Nothing is parsed or made.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

from tools.bench.worker import serve

SERVICE = "glimpse.v1.ImageClassifier"
_THREADS = 32  # of the synchronous server
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def start(kind: str, unary: str, stream: str) -> int:
    """Serve until the process ends.

    Args:
        kind: ``aio`` or ``sync``.
        unary: what `Classify` answers, in hexadecimal.
        stream: what `ClassifyStream` answers to each request, likewise.

    Returns:
        The port.
    """
    answers = bytes.fromhex(unary), bytes.fromhex(stream)
    return _synchronous(*answers) if kind == "sync" else _asynchronous(*answers)


def _synchronous(unary: bytes, stream: bytes) -> int:
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=_OPTIONS)
    _add(server, lambda request, context: unary, lambda requests, context: (stream for _ in requests))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _KEPT.append(server)
    return int(port)


def _asynchronous(unary: bytes, stream: bytes) -> int:
    port: list[int] = []
    listening = threading.Event()

    async def classify(request: bytes, context: Any) -> bytes:
        return unary

    async def classify_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield stream

    async def run() -> None:
        server = grpc.aio.server(options=_OPTIONS)
        _add(server, classify, classify_stream)
        port.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        listening.set()
        await server.wait_for_termination()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    listening.wait()
    return port[0]


def _add(server: Any, classify: Callable[..., Any], classify_stream: Callable[..., Any]) -> None:
    """Without serialisers gRPC hands over and takes bytes as they are."""
    handler = grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Classify": grpc.unary_unary_rpc_method_handler(classify),
            "ClassifyStream": grpc.stream_stream_rpc_method_handler(classify_stream),
        },
    )
    server.add_generic_rpc_handlers((handler,))


_KEPT: list[grpc.Server] = []  # one that nothing refers to is stopped

if __name__ == "__main__":
    serve(lambda: {"start": start})
