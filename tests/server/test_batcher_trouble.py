"""The batcher when the device hangs, dies or has too little memory: a fake clock, a fake model, real threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models.outputs import PROBABILITIES, Outputs
from glimpse.server.batching.executor import Executor
from glimpse.server.batching.streams import Streams
from glimpse.server.errors import InternalError, Reason, UnavailableError
from tests.server.fake_executor import WAIT, Bench, FakeClock, benches, value


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    with benches() as build:
        yield build


# --- a device that hangs


def test_a_batch_that_computes_too_long_fails_what_waits_and_refuses_what_comes(make: Callable[..., Bench]) -> None:
    bench = make(stuck_seconds=60.0, batch_sizes=(1, 2))
    hung = bench.occupy()
    staged = [bench.submit(i) for i in (1, 2)]
    while bench.batcher.depth():
        threading.Event().wait(0.001)
    queued = bench.submit(3)
    bench.clock.now += 60.0
    assert bench.batcher.trouble() is None
    assert not queued.done()
    bench.clock.now += 1.0
    assert bench.batcher.trouble() == "A batch of 1 image has been computing for 61 s."
    for future in (hung, *staged, queued):
        with pytest.raises(UnavailableError, match="61 s") as refused:
            future.result(0)
        assert refused.value.reason is Reason.RUNTIME_STUCK
    assert bench.batcher.depth() == 0
    with pytest.raises(UnavailableError, match="61 s") as refused:
        bench.submit(4)
    assert refused.value.reason is Reason.RUNTIME_STUCK


def test_new_images_are_refused_before_anybody_has_asked_for_the_trouble(make: Callable[..., Bench]) -> None:
    bench = make(stuck_seconds=60.0)
    bench.occupy()
    bench.clock.now += 61.0
    with pytest.raises(UnavailableError):
        bench.submit(4)


def test_a_batch_that_comes_back_after_all_ends_the_trouble(make: Callable[..., Bench]) -> None:
    bench = make(stuck_seconds=60.0)
    bench.occupy()
    bench.clock.now += 61.0
    assert bench.batcher.trouble() is not None
    bench.release()
    while bench.batcher.trouble() is not None:
        threading.Event().wait(0.001)
    after = bench.submit(5)
    assert bench.model.values() == [5]
    bench.release()
    assert value(after) == 5


def test_it_closes_though_trouble_has_emptied_the_queue_meanwhile(make: Callable[..., Bench]) -> None:
    """A worker that waits for what is queued has to be told when it is gone."""
    bench = make(stuck_seconds=60.0, batch_sizes=(1, 2))
    bench.occupy()
    queued = bench.submit(1)
    with ThreadPoolExecutor(1) as thread:
        closed = thread.submit(bench.batcher.close, WAIT)
        while not bench.batcher._closed:
            threading.Event().wait(0.001)
        threading.Event().wait(0.1)  # until the workers have seen that it is not the end yet
        bench.clock.now += 61.0
        assert bench.batcher.trouble() is not None
        assert isinstance(queued.exception(0), UnavailableError)
        while sum(worker.is_alive() for worker in bench.batcher._workers.threads) > 1:  # the one that hangs is left
            threading.Event().wait(0.001)
        assert not closed.done()
        bench.release()
        assert closed.result(2 * WAIT), "a worker waits for ever"


def test_closing_waits_no_longer_than_it_is_told_for_a_worker_that_hangs(make: Callable[..., Bench]) -> None:
    bench = make()
    hung = bench.occupy()
    assert not bench.batcher.close(0.05)
    assert not hung.done()
    bench.release()
    assert bench.batcher.close(WAIT)
    assert value(hung) == 255


def test_of_two_streams_only_the_one_that_hangs_loses_its_batch(make: Callable[..., Bench]) -> None:
    bench = make(stuck_seconds=60.0, streams=Streams(2))
    bench.occupy()
    bench.clock.now += 50.0
    healthy = bench.submit(7)
    assert bench.model.values() == [7]
    bench.clock.now += 11.0
    assert bench.batcher.trouble() == "A batch of 1 image has been computing for 61 s."
    assert not healthy.done()
    bench.release()
    bench.release()
    assert value(healthy) == 7


@pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit(), KeyboardInterrupt()])
def test_a_worker_that_dies_fails_its_batch_and_is_told_for_good(
    make: Callable[..., Bench], error: BaseException
) -> None:
    bench = make()
    lost = bench.occupy()
    bench.release(error)
    with pytest.raises(InternalError):
        lost.result(WAIT)
    trouble = bench.batcher.trouble()
    assert trouble is not None
    assert type(error).__name__ in trouble
    bench.clock.now += 1e6
    assert bench.batcher.trouble() == trouble
    with pytest.raises(UnavailableError, match="has died"):
        bench.submit(2)


def test_an_observer_that_fails_is_told_as_a_dead_worker_too(make: Callable[..., Bench]) -> None:
    bench = make()

    def fails(_: Any) -> None:
        raise OSError("no room for metrics")

    bench.observed.batch = fails  # type: ignore[assignment,method-assign]
    lost = bench.occupy()
    bench.release()
    with pytest.raises(InternalError):
        lost.result(WAIT)
    assert "OSError" in (bench.batcher.trouble() or "")


# --- too little memory


class SmallMemory:
    """A model that holds so many images at once; answers each with its first pixel's value."""

    def __init__(self, holds: int) -> None:
        self.holds = holds
        self.sizes: list[int] = []

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        self.sizes.append(len(pixels))
        if len(pixels) > self.holds:
            raise MemoryError
        return {name: pixels[:, 0, 0, :1].astype(np.float32) for name in outputs}


def device(model: Any, sizes: tuple[int, ...], clock: FakeClock | None = None) -> Executor:
    return Executor(
        model,
        alone=model,
        sizes=sizes,
        out_of_memory=lambda error: isinstance(error, MemoryError),
        clock=clock or FakeClock(),
    )


def staging(rows: int) -> NDArray[np.uint8]:
    return np.arange(rows, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8)


@pytest.mark.parametrize(
    ("sizes", "count", "holds", "tried"),
    [
        ((1, 2, 4, 8), 8, 4, [8, 4, 4]),
        ((1, 2, 4, 8), 8, 2, [8, 4, 2, 2, 2, 2]),
        ((1, 2, 4, 8), 7, 4, [8, 4, 4]),
        ((1, 2, 4, 8), 5, 4, [8, 4, 1]),
        ((1, 2, 4, 8), 3, 1, [4, 2, 1, 1, 1]),
        # The last piece of 5 is padded to 8, for which there is no room behind it.
        ((1, 2, 4, 8, 16, 21), 21, 8, [21, 8, 8, 8]),
        ((1, 3), 3, 1, [3, 1, 1, 1]),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_all_are_answered(
    sizes: tuple[int, ...], count: int, holds: int, tried: list[int]
) -> None:
    model = SmallMemory(holds)
    computed = device(model, sizes).compute(staging(sizes[-1]), count, alone=False)
    assert model.sizes == tried
    assert computed.ok
    assert computed.halved
    assert [int(row[PROBABILITIES][0]) for row in computed.rows if row is not None] == list(range(count))


def test_an_image_that_does_not_fit_by_itself_fails_alone() -> None:
    class Picky(SmallMemory):
        def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
            if 2 in pixels[:, 0, 0, 0]:
                raise MemoryError
            return super().__call__(pixels, outputs)

    computed = device(Picky(4), (1, 2, 4)).compute(staging(4), 4, alone=False)
    assert [None if row is None else int(row[PROBABILITIES][0]) for row in computed.rows] == [0, 1, None, 3]
    assert (computed.ok, len(computed.parts)) == (False, 3)


def test_another_failure_in_a_piece_fails_that_piece_alone_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SmallMemory):
        def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
            answers = super().__call__(pixels, outputs)
            if 3 in pixels[:, 0, 0, 0]:
                raise RuntimeError("a kernel that does not work")
            return answers

    model = Broken(2)
    computed = device(model, (1, 2, 4)).compute(staging(4), 4, alone=False)
    assert [None if row is None else int(row[PROBABILITIES][0]) for row in computed.rows] == [0, 1, None, None]
    assert (computed.ok, len(computed.parts)) == (False, 2)
    assert model.sizes == [4, 2, 2]
    assert [line.getMessage() for line in caplog.records] == [
        "a batch of 4 images does not fit into memory; 2 at once from now on",
        "a batch of 2 images failed",
    ]
    assert "a kernel that does not work" in caplog.text


def test_the_lower_ceiling_is_kept_and_after_ten_minutes_one_size_more_is_tried() -> None:
    clock = FakeClock()
    model = SmallMemory(2)
    tight = device(model, (1, 2, 4, 8), clock)
    tight.compute(staging(8), 8, alone=False)
    assert tight.largest == 2
    clock.now += 599.0
    assert tight.largest == 2
    clock.now += 1.0
    assert tight.largest == 4
    tight.compute(staging(8), 4, alone=False)  # there still is no room
    assert tight.largest == 2
    model.holds = 8
    for expected in (4, 8):
        clock.now += 600.0
        assert tight.largest == expected
        tight.compute(staging(8), expected, alone=False)
        assert tight.largest == expected
    clock.now += 600.0
    assert tight.largest == 8


def test_of_a_ceiling_that_was_lowered_twice_only_the_next_size_is_tried_again() -> None:
    clock = FakeClock()
    tight = device(SmallMemory(1), (1, 2, 4, 8), clock)
    tight.compute(staging(8), 8, alone=False)
    assert tight.largest == 1
    clock.now += 600.0
    assert tight.largest == 2


def test_a_ceiling_that_another_stream_has_lowered_meanwhile_stays_as_low() -> None:
    def shared(pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        if len(pixels) == 4:
            tight._smaller(2)  # the other stream's batch did not fit either, and it was smaller
            raise MemoryError
        return {name: pixels[:, 0, 0, :1].astype(np.float32) for name in outputs}

    tight = device(shared, (1, 2, 4))
    assert tight.compute(staging(4), 4, alone=False).ok
    assert tight.largest == 1


def test_a_batch_composed_before_the_ceiling_came_down_is_computed_in_pieces() -> None:
    model = SmallMemory(2)
    tight = device(model, (1, 2, 4, 8))
    tight.compute(staging(8), 4, alone=False)
    model.sizes.clear()
    computed = tight.compute(staging(8), 7, alone=False)
    assert model.sizes == [2, 2, 2, 1]
    assert (computed.ok, len(computed.parts), computed.halved) == (True, 4, False)
    assert [int(row[PROBABILITIES][0]) for row in computed.rows if row is not None] == list(range(7))


def test_after_a_batch_that_did_not_fit_no_larger_one_is_composed(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    futures = [bench.submit(i) for i in range(4)]
    while bench.batcher.depth():
        threading.Event().wait(0.001)
    waiting = [bench.submit(i) for i in range(4, 8)]
    bench.release()
    assert bench.model.values() == [0, 1, 2, 3]
    bench.release(MemoryError())
    assert bench.model.values() == [0, 1]
    bench.release()
    assert bench.model.values() == [2, 3]
    bench.release()
    for expected in ([4, 5], [6, 7]):
        assert bench.model.values() == expected
        bench.release()
    assert [value(future) for future in (*futures, *waiting)] == list(range(8))
    bench.batcher.close(WAIT)
    assert bench.observed.halvings == 1
    assert all(report.ok for report in bench.observed.batches)


def test_the_seconds_of_a_halved_batch_are_not_expected_of_the_next(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    futures = [bench.submit(i) for i in (1, 2)]
    bench.release(0.1)
    assert bench.model.values() == [1, 2]
    for outcome, expected in ((MemoryError(), [1]), (5.0, [2])):
        bench.release(outcome)
        assert bench.model.values() == expected
    bench.release(5.0)
    for future in futures:
        future.result(WAIT)
    assert bench.batcher.seconds_to_compute(2) == pytest.approx(0.2)  # one by one, for the ceiling has come down
    bench.clock.now += 600.0
    assert bench.batcher.seconds_to_compute(2) == pytest.approx(0.1)


def test_the_seconds_of_a_batch_that_failed_are_not_expected_of_the_next(make: Callable[..., Bench]) -> None:
    bench = make()
    failing = bench.occupy()
    bench.clock.now += 5.0
    bench.release(RuntimeError("a kernel that does not work"))
    with pytest.raises(InternalError):
        failing.result(WAIT)
    assert bench.batcher.seconds_to_compute(1) == 0.0
