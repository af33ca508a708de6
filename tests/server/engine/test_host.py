"""The engine's end: batches of several workers, composed when the device is free and answered at once."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.server.batching.streams import Streams
from glimpse.server.engine import host, records
from glimpse.server.engine.arena import Layout
from glimpse.server.engine.connection import Connection
from glimpse.server.engine.flight import Flight
from glimpse.server.errors import InternalError, OverloadedError, UnavailableError
from glimpse.server.fair_queue import Lane
from tests.server.engine.engines import WAIT, Bench, run, until, value

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

BOTH = frozenset({LOGITS, PROBABILITIES})


def test_images_of_several_workers_share_a_batch_and_get_their_own_answers() -> None:
    """One, two and five images a worker: their pixels and outputs are copied one by one, and all at once."""

    async def scene(bench: Bench) -> None:
        workers = [bench.worker() for _ in range(3)]
        await bench.connected()
        first = workers[0].submit(bench.image(0))
        await bench.begun()
        futures = [
            (10 * number + i, workers[number].submit(bench.image(10 * number + i), lane=Lane(f"{number}")))
            for number, images in enumerate((1, 2, 5))
            for i in range(images)
        ]
        await asyncio.sleep(0)  # they are sent at the end of the turn
        bench.let(2)
        await bench.begun()
        assert [await value(future) for _, future in futures] == [expected for expected, _ in futures]
        assert sorted(bench.network.batches[1]) == sorted(expected for expected, _ in futures)
        assert await value(first) == 0

    run(scene, sizes=(1, 8))


def test_each_answer_of_a_shared_batch_holds_the_outputs_it_asked_for() -> None:
    async def scene(bench: Bench) -> None:
        one, other = bench.worker(), bench.worker()
        await bench.connected()
        first = one.submit(bench.image(0))
        await bench.begun()
        logits = one.submit(bench.image(1), outputs=frozenset({LOGITS}))
        both = [other.submit(bench.image(i), outputs=BOTH) for i in (2, 3, 4)]
        await asyncio.sleep(0)
        bench.let(2)
        assert (await asyncio.wrap_future(logits)).outputs.keys() == {LOGITS}
        for number, future in enumerate(both, 2):
            outputs = (await asyncio.wrap_future(future)).outputs
            assert {name: values[0] for name, values in outputs.items()} == {
                LOGITS: 1000 + number,
                PROBABILITIES: number,
            }
        assert await value(first) == 0
        assert len(bench.network.batches) == 2

    run(scene, sizes=(1, 4))


def test_what_comes_while_the_device_is_busy_is_one_batch_of_all_workers() -> None:
    """Nobody reads it before the batch has ended; then nothing has to wake up for it to be computed."""

    async def scene(bench: Bench) -> None:
        one, other = bench.worker(), bench.worker()
        await bench.connected()
        first = one.submit(bench.image(0))
        await bench.begun()
        futures = []
        for i in range(1, 5):
            futures.append((one if i % 2 else other).submit(bench.image(i)))
            await asyncio.sleep(0)
        bench.let(2)
        assert [await value(each) for each in (first, *futures)] == [0, 1, 2, 3, 4]
        assert sorted(bench.network.batches[1]) == [1, 2, 3, 4]

    run(scene, sizes=(1, 4))


def test_a_device_that_has_been_idle_computes_the_next_image_at_once() -> None:
    """Again and again: whoever reads while the device is busy hands over to whoever reads while it is not."""

    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        bench.let(1000)
        for turn in range(200):
            assert await value(queue.submit(bench.image(turn))) == turn

    run(scene)


def test_a_worker_that_comes_to_a_closed_host_is_sent_away() -> None:
    """Else it would take itself for connected, and wait."""

    async def scene(bench: Bench) -> None:
        await asyncio.to_thread(bench.host.close)
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(WAIT)
            bench.host.add(theirs)
            assert theirs.fileno() == -1
            assert ours.recv(1) == b""

    run(scene)


def test_a_worker_that_goes_during_its_batch_costs_the_others_nothing() -> None:
    async def scene(bench: Bench) -> None:
        gone, stays = bench.worker(), bench.worker()
        await bench.connected()
        first = stays.submit(bench.image(0))
        await bench.begun()
        for i in range(100, 104):
            gone.submit(bench.image(i))
        futures = [stays.submit(bench.image(i)) for i in range(1, 5)]
        await asyncio.sleep(0)
        bench.let()
        await bench.begun()  # a batch of both
        gone._end()
        await until(lambda: bench.host.workers == 1)
        bench.let(100)
        assert [await value(each) for each in (first, *futures)] == [0, 1, 2, 3, 4]

    run(scene, sizes=(1, 8))


def test_an_image_that_was_given_up_is_not_answered_when_its_batch_comes_back() -> None:
    """The device hangs, all are told so, and then it answers after all: no slot is free twice."""

    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        futures = [queue.submit(bench.image(i)) for i in range(3)]
        await bench.begun()
        bench.batcher._watch._stuck_seconds = 0.0
        assert bench.batcher.trouble() is not None
        for future in futures:
            with pytest.raises(UnavailableError, match="does not respond"):
                await asyncio.wrap_future(future)
        bench.batcher._watch._stuck_seconds = 1000.0
        bench.let(100)
        assert [await value(queue.submit(bench.image(i))) for i in range(10, 20)] == list(range(10, 20))
        assert queue._memory is not None
        assert sorted(queue._memory.free) == list(range(64))

    run(scene)


def test_of_many_images_at_once_those_beyond_the_queue_are_refused() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        first = queue.submit(bench.image(0))
        await bench.begun()
        futures = [queue.submit(bench.image(i)) for i in range(1, 7)]
        await until(lambda: bench.batcher.depth() == 4)
        for future in futures[4:]:
            with pytest.raises(OverloadedError, match="4 images are in the queue"):
                await asyncio.wrap_future(future)
        bench.let(100)
        assert [await value(each) for each in (first, *futures[:4])] == [0, 1, 2, 3, 4]

    run(scene, capacity=4, sizes=(1, 8))


def test_beside_a_gpu_several_threads_copy_a_large_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one worker, too; and each image gets its own answer."""
    monkeypatch.setattr(host, "_MUCH", 1)
    monkeypatch.setattr(host, "_PIECE", 3)
    copied: list[tuple[str, int]] = []
    gather = Connection.gather

    def noted(self: Connection, flights: Sequence[Flight], staging: NDArray[np.uint8]) -> None:
        copied.append((threading.current_thread().name, len(flights)))
        gather(self, flights, staging)

    monkeypatch.setattr(Connection, "gather", noted)

    async def scene(bench: Bench) -> None:
        one, other = bench.worker(), bench.worker()
        await bench.connected()
        busy = []
        for _ in range(2):
            busy.append(one.submit(bench.image(0)))
            await bench.begun()
        copied.clear()
        futures = [(one if i < 8 else other).submit(bench.image(i)) for i in range(1, 11)]
        await until(lambda: bench.batcher.depth() == 2)
        bench.let(100)
        assert [await value(each) for each in (*busy, *futures)] == [0, 0, *range(1, 11)]

    run(scene, sizes=(1, 8), streams=Streams(2, gpu=True))
    assert all(name.startswith("batcher-copies") for name, _ in copied)
    assert max(images for _, images in copied) <= 3
    assert sum(images for _, images in copied) == 10


def test_a_batch_that_was_taken_before_the_end_is_gathered_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, it would cost the batcher a thread, which is logged as a defect. The threads that copy end."""
    monkeypatch.setattr(host, "_MUCH", 0)

    async def scene(bench: Bench) -> None:
        worker = bench.worker()
        await bench.connected()
        worker.submit(bench.image(1))
        await bench.begun()
        (connection,) = bench.host._connections.values()
        taken = list(connection.computing.values())
        bench.host.close()
        assert len(taken) == 1
        assert bench.host.gather(taken, np.zeros((4, *bench.facts.layout.pixels_shape), np.uint8)) == taken

    before = set(threading.enumerate())
    run(scene, streams=Streams(2, gpu=True))
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT)
        assert not thread.is_alive()


def test_a_part_of_a_batch_that_fails_fails_alone() -> None:
    """A batch that does not fit into memory is computed in parts, each with images of both workers."""

    async def scene(bench: Bench) -> None:
        one, other = bench.worker(), bench.worker()
        await bench.connected()
        first = one.submit(bench.image(0))
        await bench.begun()
        futures = [(one if i % 2 else other).submit(bench.image(i)) for i in range(1, 5)]
        await asyncio.sleep(0)
        bench.let()
        await bench.begun()
        bench.network.error = MemoryError()
        bench.let()
        await bench.begun()  # half of it
        assert [len(batch) for batch in bench.network.batches] == [1, 4, 2]
        bench.network.error = RuntimeError("inside")
        bench.let()
        await bench.begun()
        bench.network.error = None
        bench.let()
        ends = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        assert sum(isinstance(end, InternalError) for end in ends) == 2
        found = [int(end.outputs[PROBABILITIES][0]) for end in ends if not isinstance(end, BaseException)]
        assert found == [i for i, end in enumerate(ends, 1) if not isinstance(end, InternalError)]
        assert await value(first) == 0

    run(scene, sizes=(1, 2, 4))


@pytest.mark.parametrize("mask", [0, 1 << 5], ids=["none", "one that is not there"])
def test_outputs_that_a_model_lacks_end_the_connection(mask: int) -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        assert queue._link._socket is not None
        queue._link._socket.send(records.lane(0, Lane("a")) + records.submit(0, 0, mask, 1, None, 0.0))
        await until(lambda: not queue.connected)

    run(scene)


def test_an_image_belongs_to_whoever_takes_it_first() -> None:
    """Cancelled, computed or refused: one of them, once."""
    ours, theirs = socket.socketpair()
    layout = Layout.of((1, 1, 3), {PROBABILITIES: (10,), LOGITS: (10,)}, (1,))
    with ours, theirs:
        connection = Connection(1, layout, theirs, lambda: None)
        connection._busy = bytearray(2)

        def flight(ticket: int) -> Flight:
            made = Flight(connection, ticket, 0, Lane("a"), None, time.monotonic(), BOTH)
            connection.waiting[ticket] = made
            return made

        begun, refused = flight(1), flight(2)
        assert begun.begin()
        assert not begun.begin()
        assert begun.cancelled()  # it is not among those that wait
        begun.refuse(InternalError("first"))
        begun.refuse(InternalError("second"))
        refused.refuse(InternalError("third"))
        assert not refused.begin()
        found = records.Inbox().take(ours.recv(4096))
        assert [(each.ticket, str(each.error)) for each in found if isinstance(each, records.Refused)] == [
            (1, "first"),
            (2, "third"),
        ]
        assert np.frombuffer(connection._busy, np.uint8).sum() == 0
