"""The batcher where the device has several streams, and how callers share what a batch holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models.outputs import Outputs
from glimpse.server.batching.batch_queue import Slot
from glimpse.server.batching.streams import Streams
from glimpse.server.fair_queue import NO_LANE, Lane
from tests.server.fake_executor import SHAPE, WAIT, Bench, benches, value


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    with benches() as build:
        yield build


def test_streams_that_are_free_share_what_waits(make: Callable[..., Bench]) -> None:
    bench = make(streams=Streams(2), batch_sizes=(1, 2, 4, 8))
    for _ in range(2):
        bench.occupy()
    futures = [bench.submit(i) for i in range(6)]
    bench.release()  # one stream becomes free: it takes all that waits
    assert sorted(bench.model.values()[:6]) == list(range(6))
    bench.release()
    bench.release()
    for future in futures:
        future.result(WAIT)


def test_as_many_batches_are_computed_at_once_as_there_are_streams(make: Callable[..., Bench]) -> None:
    bench = make(streams=Streams(3))
    for _ in range(3):
        bench.occupy()  # returns once it is on the device
    waiting = bench.submit(1)
    assert not waiting.done()
    assert bench.batcher.depth() == 1
    bench.release()
    assert bench.model.values() == [1]


def test_a_burst_on_an_idle_device_is_split_between_its_streams(make: Callable[..., Bench]) -> None:
    bench = make(streams=Streams(2), batch_sizes=(1, 2, 4, 8))
    bench.burst(range(6))
    first, second = bench.model.values(), bench.model.values()
    assert sorted(first[:3] + second[:3]) == list(range(6))


class SlowToGather:
    """An image that is copied when it is let to."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[np.uint8]:
        self.begun.set()
        assert self.go.wait(WAIT)
        return np.full(SHAPE, 7, np.uint8)


def test_a_worker_that_waits_for_another_to_gather_is_told_when_it_has(make: Callable[..., Bench]) -> None:
    bench = make(streams=Streams(2), batch_sizes=(1,))
    workers, condition = bench.batcher._workers.threads, bench.batcher._changed
    slow = SlowToGather()
    bench.batcher._queue.put(Slot(slow, NO_LANE, None, 0.0, Future()))  # type: ignore[arg-type]
    bench.burst([8])
    assert slow.begun.wait(WAIT)
    while len(condition._waiters) < len(workers) - 1:  # type: ignore[attr-defined]  # they have seen it gather
        threading.Event().wait(0.001)
    assert bench.model.begun.empty()
    slow.go.set()
    assert {bench.model.values()[0], bench.model.values()[0]} == {7, 8}


def until_gathered(bench: Bench, left: int = 0) -> None:
    """Wait until a batch has been taken that no stream computes yet, and only so many images wait."""
    while not bench.batcher._composer.staged or bench.batcher.depth() != left:
        threading.Event().wait(0.001)


def test_beside_a_gpu_a_full_batch_is_gathered_while_all_streams_compute(make: Callable[..., Bench]) -> None:
    bench = make(streams=Streams(2, gpu=True))
    for _ in range(2):
        bench.occupy()
    bench.burst(range(4))
    until_gathered(bench)
    assert bench.model.begun.empty()
    bench.release()
    assert sorted(bench.model.values()) == [0, 1, 2, 3]


def test_beside_a_gpu_no_more_than_one_batch_is_gathered_ahead(make: Callable[..., Bench]) -> None:
    bench = make(streams=Streams(2, gpu=True))
    for _ in range(2):
        bench.occupy()
    bench.burst(range(8))
    until_gathered(bench, left=4)
    with bench.batcher._changed:
        assert not bench.batcher._composer.may_compose()


def test_beside_a_gpu_fewer_than_a_full_batch_wait_until_a_stream_is_free(make: Callable[..., Bench]) -> None:
    """Others may come meanwhile, with whom they are computed."""
    bench = make(streams=Streams(2, gpu=True))
    for _ in range(2):
        bench.occupy()
    bench.burst(range(3))
    with bench.batcher._changed:
        assert not bench.batcher._composer.may_compose()
    bench.submit(3)
    until_gathered(bench)
    bench.release()
    assert sorted(bench.model.values()) == [0, 1, 2, 3]


def test_beside_a_gpu_the_next_batch_is_gathered_while_answers_are_given(make: Callable[..., Bench]) -> None:
    """By a thread of its own: the streams and the answers of a batch take one each, and one has a batch gathered."""
    bench = make(streams=Streams(2, gpu=True))
    giving, go = threading.Event(), threading.Event()

    def slowly(_: Future[Any]) -> None:
        giving.set()
        assert go.wait(WAIT)

    first = bench.occupy()
    first.add_done_callback(slowly)
    bench.occupy()
    bench.burst(range(4))
    until_gathered(bench)
    bench.release()
    assert giving.wait(WAIT)
    assert sorted(bench.model.values()) == [0, 1, 2, 3]
    bench.burst(range(4, 8))
    until_gathered(bench)
    go.set()


def test_streams_that_are_cores_gather_nothing_ahead(make: Callable[..., Bench]) -> None:
    bench = make(streams=Streams(2))
    for _ in range(2):
        bench.occupy()
    bench.burst(range(4))
    with bench.batcher._changed:
        assert not bench.batcher._composer.may_compose()
    bench.release()  # one of the two: whoever has computed it gathers the next
    assert sorted(bench.model.values()) == [0, 1, 2, 3]


def counting(sizes: list[int]) -> Callable[[NDArray[np.uint8], frozenset[str]], Outputs]:
    """The whole device, which answers at once; the sizes of its batches go into `sizes`."""

    def compute_alone(pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        sizes.append(len(pixels))
        return {name: np.zeros((1, 3), np.float32) for name in outputs}

    return compute_alone


def test_the_whole_device_works_on_an_image_that_is_alone(make: Callable[..., Bench]) -> None:
    alone: list[int] = []
    bench = make(streams=Streams(2), alone=counting(alone))
    for _ in range(2):
        bench.submit(1).result(WAIT)
    assert alone == [1, 1]


def test_an_image_gets_the_whole_device_only_if_none_had_company_for_a_while(make: Callable[..., Bench]) -> None:
    wide: list[int] = []
    bench = make(streams=Streams(2), alone=counting(wide))
    bench.submit(1).result(WAIT)
    assert len(wide) == 1
    together = bench.burst(range(2))
    for _ in together:
        bench.model.values()
    for _ in together:
        bench.release()
    for future in together:
        future.result(WAIT)
    while bench.batcher._composer.computing:
        threading.Event().wait(0.001)
    until_narrow_ends = 0
    while len(wide) == 1:
        future = bench.submit(3)
        bench.release()
        future.result(WAIT)
        until_narrow_ends += 1
    assert until_narrow_ends == 9


def test_with_several_streams_no_batch_is_taken_before_one_is_free(make: Callable[..., Bench]) -> None:
    """Else whoever has the next turn would wait for one batch more."""
    bench = make(streams=Streams(2), batch_sizes=(1,))
    for _ in range(2):
        bench.occupy()
    bulk = [bench.submit(i, lane=Lane("bulk")) for i in (1, 2, 3)]
    threading.Event().wait(0.05)  # a worker has nothing to do all the while
    assert bench.batcher.depth() == 3
    lone = bench.submit(9, lane=Lane("lone"))
    bench.release()
    bench.release()
    assert {bench.model.values()[0], bench.model.values()[0]} == {1, 9}
    for _ in range(4):
        bench.release()
    for future in (*bulk, lone):
        future.result(WAIT)


def test_an_image_that_is_not_alone_gets_a_stream_of_its_own(make: Callable[..., Bench]) -> None:
    begun, go = threading.Event(), threading.Event()

    def alone(_: Any, outputs: frozenset[str]) -> Outputs:
        begun.set()
        go.wait(WAIT)
        return {name: np.zeros((1, 3), np.float32) for name in outputs}

    bench = make(streams=Streams(2), alone=alone)
    first = bench.submit(1)
    assert begun.wait(WAIT)
    second = bench.submit(2)
    assert bench.model.values() == [2]
    bench.release()
    second.result(WAIT)
    assert not first.done()
    go.set()
    first.result(WAIT)


def test_a_backlog_does_not_make_the_batch_of_a_lone_caller_long(make: Callable[..., Bench]) -> None:
    """The batch is filled up only as far as it takes twice as long as one of equal parts."""
    bench = make(batch_sizes=(1, 2, 4, 8), capacity=64)
    for size in (1, 2, 4, 8):
        bench.batcher._composer.estimate.add(size, float(size))
    bench.occupy()
    bulk = [bench.submit(i, lane=Lane("bulk", str(i % 3))) for i in range(1, 25)]
    while bench.batcher.depth() > 16:  # one full batch is gathered behind the device
        threading.Event().wait(0.001)
    lone = bench.submit(100, lane=Lane("lone"))
    bench.release()
    assert 100 not in bench.model.values()
    bench.release(8.0)
    batch = bench.model.values()
    assert (len(batch), 100 in batch) == (4, True)
    for _ in range(6):
        bench.release()
    assert value(lone) == 100
    for future in bulk:
        future.result(WAIT)


@pytest.mark.parametrize(("seconds", "batch"), [((1.0, 1.1, 1.2, 1.3), 8), ((1.0, 4.0, 8.0, 16.0), 4)])
def test_a_batch_is_filled_up_where_that_hardly_takes_longer(
    make: Callable[..., Bench], seconds: tuple[float, ...], batch: int
) -> None:
    bench = make(batch_sizes=(1, 2, 4, 8), capacity=64, streams=Streams(2))
    for size, each in zip((1, 2, 4, 8), seconds, strict=True):
        bench.batcher._composer.estimate.add(size, each)
    for _ in range(2):
        bench.occupy()
    bulk = [bench.submit(i, lane=Lane("bulk")) for i in range(1, 25)]
    lone = bench.submit(100, lane=Lane("lone"))
    bench.release()
    values = bench.model.values()
    assert (len(values), 100 in values) == (batch, True)
    for _ in range(20):
        bench.release()
    assert value(lone) == 100
    for future in bulk:
        future.result(WAIT)


def test_two_bulk_callers_share_a_full_batch(make: Callable[..., Bench]) -> None:
    bench = make(capacity=64, streams=Streams(2))
    for size in (1, 2, 4):
        bench.batcher._composer.estimate.add(size, float(size))
    for _ in range(2):
        bench.occupy()
    both = [bench.submit(i, lane=Lane(who)) for who, i in (("a", 1), ("b", 2)) for _ in range(8)]
    bench.release()
    assert sorted(bench.model.values()) == [1, 1, 2, 2]
    for _ in range(20):
        bench.release()
    for future in both:
        future.result(WAIT)
