"""The batcher, with a fake clock and a fake model; threads are real."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest

from glimpse.models.outputs import DEFAULT_OUTPUTS, LOGITS, PROBABILITIES, Outputs
from glimpse.server.batching.batch_queue import Slot
from glimpse.server.batching.batcher import Batcher
from glimpse.server.batching.streams import Streams
from glimpse.server.errors import DeadlineExceededError, InternalError, OverloadedError, Reason, UnavailableError
from glimpse.server.fair_queue import NO_LANE, Lane
from tests.server.fake_executor import SECOND, SHAPE, WAIT, Bench, Observed, benches, value


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    with benches() as build:
        yield build


def test_a_lone_image_is_computed_at_once(make: Callable[..., Bench]) -> None:
    bench = make()
    future = bench.submit(7)
    assert bench.model.values() == [7]
    bench.release(0.5)
    answer = future.result(WAIT)
    assert (answer.batch_size, answer.queue_seconds, answer.compute_seconds) == (1, 0.0, 0.5)


def test_what_arrives_while_the_device_is_busy_forms_the_next_batch(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    futures = [bench.submit(i) for i in (1, 2, 3)]
    bench.release(2.0)
    assert bench.model.values()[:3] == [1, 2, 3]
    bench.release()
    assert [value(future) for future in futures] == [1, 2, 3]
    assert futures[0].result().batch_size == 3
    assert futures[0].result().queue_seconds == 2.0


def test_a_batch_is_padded_up_to_a_warm_size_and_the_padding_is_not_answered(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    futures = [bench.submit(i) for i in (1, 2, 3)]
    bench.release()
    assert len(bench.model.values()) == 4
    bench.release()
    for future in futures:
        future.result(WAIT)
    bench.batcher.close(WAIT)
    report = bench.observed.batches[-1]
    assert (report.size, report.padded_size) == (3, 4)


def test_a_batch_is_never_larger_than_the_largest_size(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    futures = [bench.submit(i) for i in range(6)]
    bench.release()
    assert bench.model.values() == [0, 1, 2, 3]
    bench.release()
    assert bench.model.values() == [4, 5]
    bench.release()
    assert [value(future) for future in futures] == list(range(6))


def test_a_full_batch_is_gathered_while_the_device_computes(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    futures = [bench.submit(i) for i in range(4)]
    # Composed, so cancelling comes too late although the device is still busy.
    while bench.batcher.depth():
        threading.Event().wait(0.001)
    assert not futures[0].cancel()
    bench.release()
    assert bench.model.values() == [0, 1, 2, 3]


def test_less_than_a_full_batch_stays_open_until_the_device_is_free(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    early = bench.submit(1)
    late = bench.submit(2)
    assert early.cancel()
    bench.release()
    assert bench.model.values() == [2]
    bench.release()
    assert value(late) == 2


def test_cancelling_an_image_leaves_its_neighbours_unharmed(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    futures = [bench.submit(i) for i in (1, 2, 3)]
    assert futures[1].cancel()
    bench.release()
    assert bench.model.values() == [1, 3]
    bench.release()
    assert [value(futures[0]), value(futures[2])] == [1, 3]
    with pytest.raises(CancelledError):
        futures[1].result(WAIT)
    assert bench.observed.cancelled_images == 1


def test_an_expired_image_never_reaches_the_model_and_is_told_so(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    late = bench.submit(1, deadline=bench.clock.now + 1.0)
    alive = bench.submit(2, deadline=bench.clock.now + 60.0)
    bench.release(1.5)
    assert bench.model.values() == [2]
    bench.release()
    assert value(alive) == 2
    with pytest.raises(DeadlineExceededError, match=r"1\.500 s in the queue"):
        late.result(WAIT)
    assert bench.observed.expired_images == 1


def test_a_failing_batch_fails_alone_and_the_worker_lives_on(make: Callable[..., Bench]) -> None:
    bench = make()
    failed = bench.occupy()
    after = bench.submit(1)
    bench.release(RuntimeError("a kernel that does not work"))
    with pytest.raises(InternalError):
        failed.result(WAIT)
    bench.model.values()
    bench.release()
    assert value(after) == 1
    bench.batcher.close(WAIT)
    assert [report.ok for report in bench.observed.batches] == [False, True]


def test_a_full_queue_refuses_at_once_with_a_hint_from_the_measured_rate(make: Callable[..., Bench]) -> None:
    bench = make(capacity=8)
    bench.occupy()
    warm_up = [bench.submit(i) for i in range(4)]
    bench.release(0.1)
    bench.model.values()
    bench.release(0.4)  # a batch of four takes 0.4 s
    for future in warm_up:
        future.result(WAIT)
    bench.occupy()
    staged = [bench.submit(i) for i in range(4)]
    while bench.batcher.depth():
        threading.Event().wait(0.001)
    waiting = [bench.submit(i) for i in range(8)]
    with pytest.raises(OverloadedError) as refused:
        bench.submit(9)
    assert refused.value.reason is Reason.QUEUE_FULL
    assert refused.value.retry_after == pytest.approx(0.8)
    for _ in range(4):
        bench.release()
    assert [value(future) for future in (*staged, *waiting)] == [*range(4), *range(8)]


def test_cancelled_images_make_room_in_a_full_queue(make: Callable[..., Bench]) -> None:
    bench = make(capacity=2)
    bench.occupy()
    gone = [bench.submit(i) for i in range(2)]
    for future in gone:
        future.cancel()
    stays = bench.submit(5)
    bench.release()
    bench.release()
    assert value(stays) == 5


def test_a_lone_caller_rides_in_the_next_batch_beside_a_bulk_caller(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    bulk = [bench.submit(i, lane=Lane("bulk")) for i in range(1, 4)]
    lone = bench.submit(100, lane=Lane("lone"))
    while bench.batcher.depth():
        threading.Event().wait(0.001)
    bench.release()
    assert bench.model.values() == [1, 100, 2, 3]
    bench.release()
    assert value(lone) == 100
    assert [value(future) for future in bulk] == [1, 2, 3]


def test_an_answer_survives_the_reuse_of_the_staging_buffer(make: Callable[..., Bench]) -> None:
    bench = make()
    first = bench.occupy()
    bench.release()
    kept = first.result(WAIT).outputs[PROBABILITIES]
    for i in range(4):
        again = bench.submit(i)
        bench.release()
        again.result(WAIT)
    assert kept[0] == 255


def test_closing_answers_what_is_queued_and_refuses_what_comes_later(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    queued = bench.submit(1)
    closing = threading.Thread(target=bench.batcher.close)
    closing.start()
    bench.release()
    bench.release()
    closing.join(WAIT)
    assert value(queued) == 1
    with pytest.raises(UnavailableError):
        bench.submit(2)


def test_a_gathered_batch_waits_for_the_device_whatever_wakes_its_worker(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    futures = [bench.submit(i) for i in range(4)]
    while bench.batcher.depth():
        threading.Event().wait(0.001)
    with bench.batcher._changed:
        bench.batcher._changed.notify_all()
    threading.Event().wait(0.05)
    assert bench.model.begun.empty()
    bench.release()
    assert bench.model.values() == [0, 1, 2, 3]
    bench.release()
    assert [value(future) for future in futures] == [0, 1, 2, 3]


BOTH = frozenset({PROBABILITIES, LOGITS})


def test_each_answer_of_a_batch_holds_the_outputs_that_it_asked_for(make: Callable[..., Bench]) -> None:
    bench = make(outputs=BOTH)
    bench.occupy()
    asked = [DEFAULT_OUTPUTS, BOTH, frozenset({LOGITS})]
    futures = [bench.submit(10 + number, outputs=outputs) for number, outputs in enumerate(asked)]
    for _ in range(2):
        bench.release()
    answers = [{name: float(row[0]) for name, row in future.result(WAIT).outputs.items()} for future in futures]
    assert answers == [{PROBABILITIES: 10}, {PROBABILITIES: 11, LOGITS: 11 + SECOND}, {LOGITS: 12 + SECOND}]
    assert bench.model.asked == [DEFAULT_OUTPUTS, BOTH], "what nobody asks for is not computed"


@pytest.mark.parametrize("outputs", [frozenset(), frozenset({"embedding"}), frozenset({PROBABILITIES, "embedding"})])
def test_an_output_that_the_network_lacks_costs_its_own_request(
    make: Callable[..., Bench], outputs: frozenset[str]
) -> None:
    bench = make(outputs=BOTH)
    with pytest.raises(ValueError, match=r"outputs must be some of \['logits', 'probabilities'\]"):
        bench.submit(1, outputs=outputs)
    assert bench.batcher.depth() == 0


def test_one_that_was_never_started_is_closed_at_once() -> None:
    def never(*_: Any) -> Outputs:
        raise AssertionError

    idle = Batcher(never, input_shape=SHAPE, batch_sizes=(1,), capacity=1, observer=Observed())
    assert idle.close()


def test_what_waits_is_told_by_lane(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.occupy()
    for lane in ("a", "a", "b"):
        bench.submit(1, lane=Lane(lane))
    assert (bench.batcher.depth(), [bench.batcher.ahead(Lane(lane)) for lane in "abc"]) == (3, [3, 3, 2])


def test_a_model_that_answers_too_few_fails_its_batch_alone(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.model.answers = 1
    bench.occupy()
    futures = [bench.submit(i) for i in range(2)]
    bench.release()
    bench.release()
    for future in futures:
        with pytest.raises(InternalError):
            future.result(WAIT)
    bench.model.answers = None
    alone = bench.submit(3)
    bench.release()
    assert value(alone) == 3


def test_pixels_of_another_shape_cost_their_own_request_and_no_worker(make: Callable[..., Bench]) -> None:
    bench = make()
    with pytest.raises(ValueError, match=r"\(2, 2, 3\)"):
        bench.batcher.submit(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        bench.batcher.submit(np.zeros((1, 1, 3), np.float32))
    alone = bench.submit(3)
    bench.release()
    assert value(alone) == 3


def test_every_image_of_many_threads_is_answered_exactly_once(make: Callable[..., Bench]) -> None:
    bench = make(capacity=1000)
    for _ in range(1000):
        bench.release()
    answers: queue.Queue[tuple[int, float]] = queue.Queue()

    def caller(name: int) -> None:
        for i in range(20):
            number = (name * 20 + i) % 250
            answers.put((number, value(bench.submit(number, lane=Lane(str(name))))))

    threads = [threading.Thread(target=caller, args=(name,)) for name in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert answers.qsize() == 200
    assert all(asked == answered for asked, answered in list(answers.queue))
    assert bench.batcher.close(WAIT)
    assert bench.batcher._watch.lost() == [], "images that were answered are kept"


# --- several streams


def all_ended(bench: Bench) -> bool:
    """Wait until no worker is left."""
    for _ in range(int(WAIT / 0.001)):
        if len(bench.batcher._workers.ended) == len(bench.batcher._workers.threads):
            return True
        threading.Event().wait(0.001)
    return False


def test_workers_end_when_there_is_nothing_to_do_and_come_back(make: Callable[..., Bench]) -> None:
    bench = make(idle_seconds=0.01, streams=Streams(2))
    for number in (1, 2):
        assert all_ended(bench)
        future = bench.submit(number)
        assert bench.model.values() == [number]
        bench.release()
        assert value(future) == number


def test_images_that_come_while_workers_end_are_all_answered(make: Callable[..., Bench]) -> None:
    bench = make(idle_seconds=0.0002)
    for number in range(300):
        bench.release()
        assert value(bench.submit(number % 200)) == number % 200
        threading.Event().wait(0.0001 * (number % 5))


def test_without_a_thread_to_compute_in_images_are_refused_until_there_is(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is left in the queue, where nobody would compute it, and no worker is forgotten."""

    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    bench = make(idle_seconds=0.01, streams=Streams(2))
    assert all_ended(bench)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        for number in range(4):
            with pytest.raises(OverloadedError, match="as many as it may have") as refused:
                bench.submit(number)
            assert refused.value.retry_after
        slot = Slot(np.zeros(SHAPE, np.uint8), NO_LANE, None, 0.0, Future())
        bench.batcher.put([slot])
        assert isinstance(slot.future.exception(0), OverloadedError)
    assert bench.batcher.depth() == 0
    future = bench.submit(5)
    assert bench.model.values() == [5]
    bench.release()
    assert value(future) == 5
    assert bench.batcher.trouble() is None


def test_workers_that_have_ended_can_be_closed(make: Callable[..., Bench]) -> None:
    bench = make(idle_seconds=0.001)
    assert all_ended(bench)
    assert bench.batcher.close(WAIT)
    with pytest.raises(UnavailableError):
        bench.submit(1)
