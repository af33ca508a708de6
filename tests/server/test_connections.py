"""The kernel's view of connections, with a real gRPC server on IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import grpc
import grpc.aio
import pytest

from glimpse.server.sockets import connections
from glimpse.server.sockets.connections import Endpoint
from tests.server.isolation import open_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells this on Linux only")
_BYTES = 3_000_000


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:192.0.2.1:40000", Endpoint("192.0.2.1", 40000)),
        ("ipv6:%5B2001:db8::1%5D:40000", Endpoint("2001:db8::1", 40000)),
        ("ipv6:[2001:db8::1]:40000", Endpoint("2001:db8::1", 40000)),
        ("ipv6:%5B::ffff:192.0.2.1%5D:1", Endpoint("192.0.2.1", 1)),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", Endpoint("fe80::1", 1)),
        ("unix:/run/glimpse.sock", None),
        ("ipv4:host:1", None),
        ("", None),
    ],
)
def test_a_peer_as_grpc_writes_it_is_an_address_and_a_port(peer: str, expected: Endpoint | None) -> None:
    assert connections.endpoint(peer) == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_bytes_of_an_unfinished_call_count_and_its_connection_is_closed(host: str) -> None:
    asyncio.run(_counted_and_closed(host))


async def _counted_and_closed(host: str) -> None:
    begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handle(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        async for _ in requests:
            begun.set_result(context.peer())
        return b""

    server = grpc.aio.server()
    handler: Any = grpc.stream_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("service", {"Method": handler}),))
    port = server.add_insecure_port("[::]:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            call: Any = channel.stream_unary("/service/Method")()
            await call.write(bytes(_BYTES))
            peer = connections.endpoint(await asyncio.wait_for(begun, 10))
            assert peer is not None
            (found,) = connections.accepted(port)
            assert found.peer == peer
            assert _BYTES < found.received < _BYTES + 10_000
            assert not connections.close(port, Endpoint("192.0.2.1", 1))
            assert connections.close(port, peer)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await call
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.stop(0)


def test_bytes_are_counted_again_and_again_and_no_descriptor_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
        port = listening.getsockname()[1]
        clients, accepted = [], []
        for _ in range(5):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            accepted.append(stack.enter_context(listening.accept()[0]))
        peers = [f"ipv4:127.0.0.1:{client.getsockname()[1]}" for client in clients]
        files = open_files()
        counters, elsewhere = connections.Counters(port), connections.Counters(1)
        for times in range(1, 6):
            for number, (client, server) in enumerate(zip(clients, accepted, strict=True)):
                client.sendall(bytes(1000 * number))
                received = 0
                while received < 1000 * number:
                    received += len(server.recv(65_536))
            expected = {peer: times * 1000 * number for number, peer in enumerate(peers)}
            assert counters.received([*peers, "ipv4:192.0.2.1:1", "unix:/run/x"]) == expected
        assert elsewhere.received(peers) == {}
        assert open_files() < files + 5  # of 25 looks; threads of other tests open and close some meanwhile
        # A descriptor that is another connection's now tells nothing of the one that it was.
        accepted[0].close()
        assert peers[0] not in counters.received(peers)
