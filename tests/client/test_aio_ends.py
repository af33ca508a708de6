"""How bulk work on an event loop ends: in peace, early, cancelled or closed; and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from glimpse.client import AsyncClient, StreamBrokenError
from glimpse.v1 import classifier_pb2 as pb
from tests.client.loops import on_a_loop, ours
from tests.client.scripted import Context, ScriptedServer, stream_response

Requests = Iterator[pb.ClassifyStreamRequest]
Responses = Iterator[pb.ClassifyStreamResponse]


async def without_end() -> AsyncIterator[tuple[int, bytes]]:
    while True:
        yield 0, b"cat"


class Ends:
    """How a server sees each stream end."""

    def __init__(self, scripted: ScriptedServer) -> None:
        self.said: list[str] = []
        self._ended = threading.Event()
        scripted.stream = self._stream

    async def next(self) -> list[str]:
        """What the end of the next stream was."""
        assert await asyncio.to_thread(self._ended.wait, 30), "the stream goes on"
        self._ended.clear()
        said, self.said = self.said, []
        return said

    def _stream(self, requests: Requests, context: Context) -> Responses:
        gone = threading.Event()

        def over() -> None:
            gone.set()
            self.said.append("over")
            self._ended.set()

        context.add_callback(over)
        yield from map(stream_response, requests)
        if not gone.wait(1):  # a cancelled stream's requests end, too, and its end is told a moment later
            self.said.append("half-closed by the client")


@on_a_loop
async def test_a_finished_run_ends_the_stream_in_peace(scripted: ScriptedServer) -> None:
    ends = Ends(scripted)
    async with AsyncClient(scripted.target) as client:
        assert len([answer async for answer in client.classify_many(enumerate([b"cat", b"dog"]))]) == 2
        assert await ends.next() == ["half-closed by the client", "over"]


@on_a_loop
async def test_a_run_that_is_closed_cancels_the_stream_and_leaves_no_task(scripted: ScriptedServer) -> None:
    ends = Ends(scripted)
    async with AsyncClient(scripted.target) as client:
        async with contextlib.aclosing(client.classify_many(without_end())) as answers:
            await anext(answers)
            assert ours() == {"glimpse-bulk-read", "glimpse-bulk-receive", "glimpse-bulk-send"}
        assert not ours()
        assert await ends.next() == ["over"]


@on_a_loop
async def test_a_loop_that_is_left_cancels_the_stream(scripted: ScriptedServer) -> None:
    ends = Ends(scripted)
    async with AsyncClient(scripted.target) as client:
        async for _ in client.classify_many(without_end()):
            break
        gc.collect()  # where the interpreter counts references it has happened by now
        assert await ends.next() == ["over"]


@pytest.mark.parametrize("where", ["while it waits for an answer", "while it works on one"])
@on_a_loop
async def test_a_consumer_that_is_cancelled_cancels_the_stream_and_leaves_no_task(
    scripted: ScriptedServer, where: str
) -> None:
    ends = Ends(scripted)
    reached = asyncio.Event()

    async def one_and_no_more() -> AsyncIterator[tuple[int, bytes]]:
        yield 0, b"cat"
        await asyncio.Event().wait()

    async def consume(client: AsyncClient) -> None:
        async for _ in client.classify_many(one_and_no_more()):
            reached.set()
            if where == "while it works on one":
                await asyncio.Event().wait()

    async with AsyncClient(scripted.target) as client:
        consumer = asyncio.create_task(consume(client))
        await reached.wait()
        await asyncio.sleep(0)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        del consumer
        if where == "while it waits for an answer":
            assert not ours()
        assert await ends.next() == ["over"]
    assert not ours()  # where it worked on one, Python closes the run as it finds time, and the client at the latest


@on_a_loop
async def test_a_client_that_is_closed_meanwhile_ends_the_run(scripted: ScriptedServer) -> None:
    waiting = asyncio.Event()

    async def one_and_no_more() -> AsyncIterator[tuple[int, bytes]]:
        yield 0, b"cat"
        waiting.set()
        await asyncio.Event().wait()

    async def consume(client: AsyncClient) -> None:
        async for _ in client.classify_many(one_and_no_more()):
            pass

    client = AsyncClient(scripted.target)
    suspended = client.classify_many(without_end())
    await anext(suspended)
    consumer = asyncio.create_task(consume(client))
    await waiting.wait()
    await client.close()
    with pytest.raises(StreamBrokenError, match="closed"):
        await consumer
    with pytest.raises(StreamBrokenError, match="closed"):
        [answer async for answer in suspended]
    with pytest.raises(StreamBrokenError, match="closed"):
        [answer async for answer in client.classify_many([(0, b"cat")])]


@on_a_loop
async def test_an_iterable_that_never_goes_on_does_not_keep_the_program_from_ending(scripted: ScriptedServer) -> None:
    """`asyncio.run` waits for the threads of the loop's own pool; the reader is none of them."""
    over = threading.Event()

    def stuck() -> Iterator[tuple[int, bytes]]:
        yield 0, b"cat"
        over.wait(60)

    async with AsyncClient(scripted.target) as client:
        async with contextlib.aclosing(client.classify_many(stuck())) as answers:
            await anext(answers)
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 30)
    over.set()
