"""The event loop is woken once for all events of gRPC that have come, and leaves none behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CALLS = """
import asyncio, sys
import grpc, grpc.aio
from glimpse.server.grpc import wakeups
if sys.argv[1] == "once":
    wakeups.wake_once()
    wakeups.wake_once()

woken, answered = 0, 0

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        async def answer(request, context):
            return request
        return grpc.unary_unary_rpc_method_handler(answer)

async def calls():
    global woken, answered
    loop = asyncio.get_running_loop()
    add = loop.add_reader
    def counted(file, callback, *arguments):
        def wake():
            global woken
            woken += 1
            callback(*arguments)
        add(file, wake)
    loop.add_reader = counted
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/a/b")
        for _ in range(3):
            found = await asyncio.gather(*[call(b"%d" % number) for number in range(100)])
            assert found == [b"%d" % number for number in range(100)]
            answered += len(found)
    await server.stop(None)
    print(answered, woken)

asyncio.run(calls())
"""


def calls(how: str) -> tuple[int, int]:
    """Calls that were answered, and how often the event loop was woken for them."""
    command = [sys.executable, "-c", _CALLS, how]
    answered, woken = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout.split()
    return int(answered), int(woken)


@pytest.mark.skipif(sys.platform == "win32", reason="asyncio has no readers there")
def test_all_events_that_have_come_are_taken_at_once() -> None:
    (answered, woken), (_, usual) = calls("once"), calls("usual")
    assert answered == 300
    assert woken < usual / 2
