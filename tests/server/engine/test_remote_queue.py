"""A worker's queue and an engine's host, over real sockets and shared memory; the network answers when it is let to."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest

from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.server.batching.batch_queue import Answer
from glimpse.server.engine import records
from glimpse.server.engine.queue_set import QueueSet
from glimpse.server.errors import DeadlineExceededError, InternalError, OverloadedError, Reason
from glimpse.server.fair_queue import Lane
from tests.server.engine.engines import Bench, run, until, value

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def test_images_of_the_loop_and_of_threads_get_their_own_answers() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        bench.let(1000)
        ours = [queue.submit(bench.image(i)) for i in range(20)]
        threads = [asyncio.to_thread(queue.submit, bench.image(i)) for i in range(20, 40)]
        futures = [*ours, *await asyncio.gather(*threads)]
        assert [await value(each) for each in futures] == list(range(40))
        assert queue.outstanding == 0

    run(scene)


def test_an_answer_is_free_as_soon_as_nobody_has_it() -> None:
    """Without a look for garbage: the maps of an explanation may be megabytes."""

    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        bench.let(10)
        answered = queue.submit(bench.image(1))
        assert await value(answered) == 1
        bench.network.error = RuntimeError("inside")
        refused = queue.submit(bench.image(2))
        with pytest.raises(InternalError):
            await asyncio.wrap_future(refused)
        cancelled = queue.submit(bench.image(3))
        cancelled.cancel()
        await until(lambda: queue.outstanding == 0)
        kept = [weakref.ref(each) for each in (answered, refused, cancelled)]
        del answered, refused, cancelled
        await asyncio.sleep(0)  # the loop lets go of what it has called last
        assert [each() for each in kept] == [None] * 3

    gc.disable()
    try:
        run(scene)
    finally:
        gc.enable()


def test_slots_are_used_again_many_times() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        bench.let(10_000)
        for turn in range(40):
            futures = [queue.submit(bench.image((turn + i) % 256)) for i in range(4)]
            assert [await value(each) for each in futures] == [(turn + i) % 256 for i in range(4)]

    run(scene, slots=4)


def test_only_the_outputs_asked_for_are_in_an_answer() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        bench.let(10)
        both = await asyncio.wrap_future(queue.submit(bench.image(3), outputs=frozenset({LOGITS, PROBABILITIES})))
        assert {name: values[0] for name, values in both.outputs.items()} == {LOGITS: 1003, PROBABILITIES: 3}
        assert (await asyncio.wrap_future(queue.submit(bench.image(3)))).outputs.keys() == {PROBABILITIES}

    run(scene)


def test_pixels_may_be_changed_once_they_are_submitted() -> None:
    async def scene(bench: Bench) -> None:
        queue, pixels = bench.worker(), bench.image(5)
        future = queue.submit(pixels)
        pixels[:] = 9
        bench.let()
        assert await value(future) == 5

    run(scene)


def test_wrong_pixels_and_outputs_are_refused_before_a_slot_is_taken() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        with pytest.raises(ValueError, match="pixels must be uint8"):
            queue.submit(np.zeros((1, 1, 3), np.uint8))
        with pytest.raises(ValueError, match="outputs must be some of"):
            queue.submit(bench.image(0), outputs=frozenset({"nonsense"}))
        bench.let()
        assert await value(queue.submit(bench.image(1))) == 1

    run(scene, slots=1)


def test_a_full_arena_refuses_until_an_answer_has_come() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        first = [queue.submit(bench.image(i)) for i in (1, 2)]
        with pytest.raises(OverloadedError, match="2 images are in the queue") as caught:
            queue.submit(bench.image(3))
        assert caught.value.reason is Reason.QUEUE_FULL
        assert caught.value.retry_after is not None
        bench.let(10)
        assert [await value(each) for each in first] == [1, 2]
        assert await value(queue.submit(bench.image(3))) == 3

    run(scene, slots=2)


def test_a_full_queue_in_the_engine_is_told_as_its_own_error() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        first = queue.submit(bench.image(1))
        await bench.begun()
        others = [queue.submit(bench.image(i)) for i in (2, 3, 4)]
        with pytest.raises(OverloadedError, match="2 images are in the queue"):
            await asyncio.wrap_future(others[2])
        bench.let(10)
        assert [await value(each) for each in (first, *others[:2])] == [1, 2, 3]

    run(scene, capacity=2)


def test_a_cancelled_image_is_not_computed_and_its_slot_is_free_again() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        first = queue.submit(bench.image(1))
        await bench.begun()
        second = queue.submit(bench.image(2))
        await until(lambda: bench.batcher.depth() == 1)
        assert second.cancel()
        await until(lambda: queue.outstanding == 1)
        third = queue.submit(bench.image(3))
        bench.let(10)
        assert [await value(first), await value(third)] == [1, 3]
        assert all(2 not in batch for batch in bench.network.batches)

    run(scene, slots=2)


def test_who_leaves_during_the_batch_frees_the_slot_only_at_its_end() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        first = queue.submit(bench.image(1))
        await bench.begun()
        first.cancel()
        with pytest.raises(OverloadedError):
            queue.submit(bench.image(2))
        bench.let(10)
        await until(lambda: queue.outstanding == 0)
        assert await value(queue.submit(bench.image(2))) == 2

    run(scene, slots=1)


def test_a_future_that_was_cancelled_before_is_given_up() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        future: Future[Answer] = Future()
        future.cancel()
        queue.submit(bench.image(1), future=future)
        bench.let(10)
        await until(lambda: queue.outstanding == 0)
        with pytest.raises(CancelledError):
            future.result(0)

    run(scene)


def test_a_deadline_that_has_passed_ends_as_in_one_process() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        first = queue.submit(bench.image(1))
        await bench.begun()
        late = queue.submit(bench.image(2), deadline=time.monotonic() + 0.01)
        await asyncio.sleep(0.02)
        bench.let(10)
        with pytest.raises(DeadlineExceededError, match="could not be ready by the deadline"):
            await asyncio.wrap_future(late)
        assert await value(first) == 1

    run(scene)


def test_a_batch_that_fails_is_told_to_each_of_its_images() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        bench.network.error = RuntimeError("inside")
        bench.let(10)
        with pytest.raises(InternalError, match="The model failed on this batch"):
            await asyncio.wrap_future(queue.submit(bench.image(1)))
        bench.network.error = None
        assert await value(queue.submit(bench.image(2))) == 2

    run(scene)


def test_workers_take_turns_and_a_lane_of_two_workers_is_one() -> None:
    """The first worker has many images of one party, the second has one each of that party and of another."""

    async def scene(bench: Bench) -> None:
        one, other = bench.worker(), bench.worker()
        first = one.submit(bench.image(255), lane=Lane("opener"))
        await bench.begun()
        many = [one.submit(bench.image(i), lane=Lane("greedy", "a")) for i in range(1, 7)]
        await until(lambda: bench.batcher.depth() == 5)  # one more is gathered
        same = other.submit(bench.image(100), lane=Lane("greedy", "a"))
        await until(lambda: bench.batcher.depth() == 6)
        fair = other.submit(bench.image(200), lane=Lane("modest"))
        await until(lambda: bench.batcher.depth() == 7)
        bench.let(100)
        await asyncio.gather(*map(asyncio.wrap_future, [first, *many, same, fair]))
        order = [each for batch in bench.network.batches[1:] for each in batch]
        assert order.index(200) == 1
        assert order.index(100) == 7

    run(scene, sizes=(1,))


def test_more_lanes_than_there_are_numbers_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        first = queue.submit(bench.image(255))
        await bench.begun()
        futures = [queue.submit(bench.image(i), lane=Lane(f"party {i % 5}")) for i in range(15)]
        await until(lambda: bench.batcher.depth() == 14)  # one more is gathered
        bench.let(100)
        await asyncio.gather(*map(asyncio.wrap_future, [first, *futures]))
        order = [each for batch in bench.network.batches[1:] for each in batch]
        assert order == list(range(15))

    monkeypatch.setattr("glimpse.server.engine.remote_queue._MOST_LANES", 2)
    run(scene, sizes=(1,))


def test_the_answers_of_a_batch_come_with_one_write_a_worker() -> None:
    async def scene(bench: Bench) -> None:
        queue = bench.worker()
        first = queue.submit(bench.image(0))
        await bench.begun()
        futures = [queue.submit(bench.image(i)) for i in range(3)]
        await until(lambda: bench.batcher.depth() == 3)
        taken: list[int] = []
        real = queue._link._heard

        def answered(found: Sequence[records.Record]) -> None:
            taken.append(len(found))
            real(found)

        queue._link._heard = answered
        bench.let()
        await asyncio.wrap_future(first)
        bench.let()
        await asyncio.gather(*map(asyncio.wrap_future, futures))
        assert taken == [1, 3]

    run(scene)


def test_estimates_follow_what_the_engine_publishes() -> None:
    async def scene(bench: Bench) -> None:
        queue, other = bench.worker(), bench.worker()
        assert (queue.depth(), queue.ahead(Lane("a")), queue.seconds_to_compute(9)) == (0, 0, 0.0)
        first = queue.submit(bench.image(0))
        await bench.begun()
        futures = [other.submit(bench.image(i), lane=Lane("b")) for i in range(3)]
        await until(lambda: queue.depth() == 3)
        assert other.ahead(Lane("b")) >= 3
        assert queue.ahead(Lane("c")) >= 1
        bench.let(100)
        await asyncio.gather(*map(asyncio.wrap_future, [first, *futures]))
        await until(lambda: queue.depth() == 0)
        await until(lambda: queue.seconds_to_compute(9) == bench.batcher.seconds_to_compute(9) > 0)

    run(scene)


def test_of_several_engines_the_one_with_the_fewest_is_asked() -> None:
    async def scene(bench: Bench) -> None:
        other = Bench()
        try:
            first, second = bench.worker(), other.worker()
            both = QueueSet([first, second])
            futures = [both.submit(bench.image(i)) for i in range(6)]
            assert (first.outstanding, second.outstanding) == (3, 3)
            bench.let(10)
            other.let(10)
            assert [await value(each) for each in futures] == list(range(6))
            await asyncio.to_thread(bench.host.close)
            await until(lambda: not first.connected)
            assert both.trouble() is None
            assert await value(both.submit(bench.image(9))) == 9
            assert second.trouble() is None
        finally:
            other.close()

    run(scene)
