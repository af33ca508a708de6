"""The queue of a worker whose engine ends, hangs or has no memory, and engines whose workers do."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glimpse.server.batching.batch_queue import Answer
from glimpse.server.engine import records
from glimpse.server.engine.queue_set import QueueSet
from glimpse.server.engine.remote_queue import RemoteQueue
from glimpse.server.errors import OverloadedError, UnavailableError
from glimpse.server.fair_queue import Lane
from glimpse.server.runtime import memory_budget
from glimpse.server.runtime.memory_budget import MemoryBudget
from tests.server.engine.engines import Bench, run, until, value

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def test_an_engine_that_ends_fails_what_is_in_flight_with_a_hint() -> None:
    async def scene(bench: Bench) -> None:
        lost = threading.Event()
        queue = bench.worker(lost=lost.set)
        assert queue.trouble() is None
        futures = [queue.submit(bench.image(i)) for i in range(3)]
        await bench.begun()
        await asyncio.to_thread(bench.host.close)
        for future in futures:
            with pytest.raises(UnavailableError, match="being replaced") as caught:
                await asyncio.wrap_future(future)
            assert caught.value.retry_after
        assert lost.is_set()
        assert "being replaced" in (queue.trouble() or "")
        with pytest.raises(UnavailableError):
            queue.submit(bench.image(1))
        fresh = Bench()
        try:
            fresh.connect(queue)
            fresh.let(10)
            assert queue.trouble() is None
            assert await value(queue.submit(fresh.image(8))) == 8
        finally:
            fresh.close()

    run(scene)


def test_an_image_that_comes_as_an_engine_is_replaced_comes_after_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine refuses whoever begins with an image, and nobody would connect the worker again."""

    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        bench.let(10)
        assert await value(queue.submit(bench.image(1))) == 1
        queue._end()
        assert queue._memory is not None
        arena, sent = queue._memory.arena, list[Future[Answer]]()
        decoder = threading.Thread(target=lambda: sent.append(queue.submit(bench.image(2))))
        clear = arena.clear

        def clear_late() -> None:  # the connection has been opened, and nothing has been said
            decoder.start()
            decoder.join(0.05)
            clear()

        monkeypatch.setattr(arena, "clear", clear_late)
        bench.connect(queue)
        await asyncio.to_thread(decoder.join)
        assert await value(sent[0]) == 2
        assert queue.connected

    run(scene)


def test_an_image_that_comes_as_another_model_does_is_asked_for_its_own_outputs() -> None:
    """An output has another number in the other model, and what lies in its place is somebody else's answer."""

    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        other = replace(bench.facts, output_shapes={"embedding": (3,), **bench.facts.output_shapes})
        theirs: list[socket.socket] = []

        class Late(dict[frozenset[str], int]):
            """Another engine comes after the outputs have been looked up."""

            def get(self, key: frozenset[str], default: Any = None) -> Any:
                found = super().get(key, default)
                ours, end = socket.socketpair()
                theirs.append(end)
                queue.connect(ours, other)
                return found

        assert queue._mask(frozenset({"probabilities"}))
        queue._masks = Late(queue._masks)
        with pytest.raises(UnavailableError, match="being replaced"):
            queue.submit(bench.image(1))
        queue.submit(bench.image(1))
        for each in theirs:
            each.close()

    run(scene)


def test_a_worker_that_says_nonsense_loses_its_own_connection_only() -> None:
    async def scene(bench: Bench) -> None:
        good, bad = bench.worker(), bench.worker()
        assert bad._link._socket is not None
        bad._link._socket.send(bytes([99] * 40))
        await until(lambda: not bad.connected)
        bench.let()
        assert await value(good.submit(bench.image(4))) == 4

    run(scene)


@pytest.mark.parametrize(
    ("slot", "lane", "ticket"),
    [(64, 0, 9), (0, 5, 9), (0, 0, 0)],
    ids=["a slot that is not there", "a lane without a name", "a ticket of before"],
)
def test_an_image_that_cannot_be_ends_the_connection(slot: int, lane: int, ticket: int) -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        assert queue._link._socket is not None
        queue._link._socket.send(records.lane(0, Lane("a")) + records.submit(slot, lane, 1, ticket, None, 0.0))
        await until(lambda: not queue.connected)

    run(scene)


def test_the_waiting_images_of_a_worker_that_has_gone_are_dropped() -> None:
    async def scene(bench: Bench) -> None:
        gone, stays = bench.worker(), bench.worker()
        first = stays.submit(bench.image(1))
        await bench.begun()
        for i in range(100, 103):
            gone.submit(bench.image(i))
        await until(lambda: bench.batcher.depth() == 3)
        gone._end()
        await until(lambda: bench.host.workers == 1)
        second = stays.submit(bench.image(2))
        bench.let(100)
        assert [await value(first), await value(second)] == [1, 2]
        assert not {100, 101, 102} & {each for batch in bench.network.batches for each in batch}

    run(scene)


def test_a_worker_that_does_not_read_stops_nobody() -> None:
    """Its socket takes next to nothing, so that answers wait in the engine, and come when it reads again."""

    async def scene(bench: Bench) -> None:
        slow, other = RemoteQueue(bench.facts, slots=64), bench.worker()
        bench.queues.append(slow)
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        bench.host.add(theirs)
        slow.connect(ours, bench.facts)
        slow._loop.remove_reader(ours)
        bench.let(1000)
        futures = [slow.submit(bench.image(i)) for i in range(63)]  # with the next one, all that the batcher takes
        assert await value(other.submit(bench.image(77))) == 77
        await until(lambda: bench.batcher.depth() == 0)
        slow._loop.add_reader(ours, slow._link._readable)
        assert [await value(each) for each in futures] == list(range(63))

    run(scene)


def test_an_engine_that_does_not_read_makes_no_worker_wait() -> None:
    """What its socket does not take is sent when there is room, in order, whoever submits."""

    async def scene(bench: Bench) -> None:
        queue = RemoteQueue(bench.facts, slots=64)
        bench.queues.append(queue)
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        queue.connect(ours, bench.facts)
        lane = Lane("x" * 3000)
        futures = [await asyncio.to_thread(queue.submit, bench.image(i), lane=lane) for i in range(32)]
        futures += [queue.submit(bench.image(i), lane=Lane(f"{i}" * 300)) for i in range(32, 64)]
        await asyncio.sleep(0)
        assert queue._link.blocked
        bench.let(1000)
        bench.host.add(theirs)
        assert [await value(each) for each in futures] == list(range(64))

    run(scene)


def test_closing_waits_for_the_answers_and_refuses_new_images() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        future = queue.submit(bench.image(6))
        await bench.begun()
        closing = asyncio.create_task(asyncio.to_thread(queue.close, 60.0))
        await until(lambda: queue._closed)
        with pytest.raises(UnavailableError, match="shutting down"):
            queue.submit(bench.image(7))
        bench.let()
        assert await closing
        assert await value(future) == 6
        await until(lambda: bench.host.workers == 0)

    run(scene)


def test_closing_with_a_limit_gives_up_what_hangs() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        future = queue.submit(bench.image(6))
        await bench.begun()
        assert not await asyncio.to_thread(queue.close, 0.01)
        with pytest.raises(UnavailableError, match="shutting down"):
            await asyncio.wrap_future(future)

    run(scene)


def test_several_engines_without_one_that_answers_are_in_trouble() -> None:
    async def scene(bench: Bench) -> None:
        both = QueueSet([RemoteQueue(bench.facts, slots=1), RemoteQueue(bench.facts, slots=1)])
        assert "being replaced" in (both.trouble() or "")
        with pytest.raises(UnavailableError, match="being replaced"):
            both.submit(bench.image(1))
        assert both.close(0.0)

    run(scene)


def _shared_memory() -> int:
    """Arenas that are mapped into this process."""
    return Path("/proc/self/maps").read_text().count("memfd:glimpse-arena")


def test_a_late_queue_takes_memory_with_the_first_image_alone() -> None:
    """And gives it back when it is closed, although somebody keeps the futures."""

    async def scene(bench: Bench) -> None:
        before = _shared_memory()
        queue = bench.worker(late=True)
        await until(lambda: bench.host.workers == 1)
        assert (queue.trouble(), queue.depth(), queue.ahead(Lane("a"))) == (None, 0, 0)
        assert _shared_memory() == before
        bench.let(1000)
        threads = [asyncio.to_thread(queue.submit, bench.image(i)) for i in range(20)]  # each may be the first
        kept = await asyncio.gather(*threads)
        assert [await value(each) for each in kept] == list(range(20))
        assert _shared_memory() > before
        assert await asyncio.to_thread(queue.close, 60.0)
        await until(lambda: bench.host.workers == 0 and _shared_memory() == before)
        with pytest.raises(UnavailableError, match="shutting down"):
            queue.submit(bench.image(7))

    gc.disable()  # it is not what finds the memory
    try:
        run(scene)
    finally:
        gc.enable()


def test_a_late_queue_without_memory_refuses_images_until_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker(late=True)
        bench.let(10)
        monkeypatch.setattr(memory_budget, "available", lambda: MemoryBudget(1000, "a test"))
        with pytest.raises(OverloadedError, match=r"images that a worker may have in flight take .* \(a test\)"):
            queue.submit(bench.image(1))
        monkeypatch.undo()
        assert await value(queue.submit(bench.image(2))) == 2

    run(scene)
