"""The queue in front of the device."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np

from glimpse.server.batching.batch_queue import Answer, BatchQueue, Slot
from glimpse.server.fair_queue import Lane

PIXELS = np.zeros((1, 1, 3), np.uint8)


def slot(lane: str = "a", deadline: float | None = None) -> Slot:
    return Slot(PIXELS, Lane(lane), deadline, 0.0, Future())


def queue_of(*slots: Slot) -> BatchQueue:
    queue = BatchQueue()
    for each in slots:
        queue.put(each)
    return queue


def test_a_lane_is_first_in_first_out() -> None:
    slots = [slot() for _ in range(3)]
    assert queue_of(*slots).take(2, now=0, ready_by=0).batch == slots[:2]


def test_lanes_take_turns_so_that_a_bulk_caller_cannot_starve_a_lone_one() -> None:
    bulk = [slot("bulk") for _ in range(100)]
    lone = slot("lone")
    taken = queue_of(*bulk, lone).take(4, now=0, ready_by=0).batch
    assert taken == [bulk[0], lone, bulk[1], bulk[2]]


def test_turns_go_on_across_batches() -> None:
    a, b, c = ([slot(name) for _ in range(2)] for name in "abc")
    queue = queue_of(*a, *b, *c)
    assert queue.take(2, now=0, ready_by=0).batch == [a[0], b[0]]
    assert queue.take(2, now=0, ready_by=0).batch == [c[0], a[1]]


def test_a_cancelled_slot_is_skipped_and_counted() -> None:
    gone, alive = slot(), slot()
    gone.future.cancel()
    taken = queue_of(gone, alive).take(2, now=0, ready_by=0)
    assert (taken.batch, taken.cancelled) == ([alive], 1)


def test_a_taken_slot_can_no_longer_be_cancelled() -> None:
    one = slot()
    queue_of(one).take(1, now=0, ready_by=0)
    assert not one.future.cancel()


def test_a_slot_whose_deadline_has_passed_is_never_computed() -> None:
    late, alive = slot(deadline=5.0), slot(deadline=5.1)
    taken = queue_of(late, alive).take(2, now=5.0, ready_by=5.0)
    assert (taken.batch, taken.expired) == ([alive], [late])


def test_a_slot_that_cannot_be_ready_in_time_gives_its_place_to_one_that_can() -> None:
    hopeless, alive = slot(deadline=5.0), slot(deadline=9.0)
    taken = queue_of(hopeless, alive).take(1, now=4.0, ready_by=6.0)
    assert (taken.batch, taken.expired) == ([alive], [hopeless])


def test_on_an_idle_device_a_hopeless_slot_is_tried_all_the_same() -> None:
    hopeless = slot(deadline=5.0)
    taken = queue_of(hopeless).take(1, now=4.0, ready_by=6.0)
    assert (taken.batch, taken.expired) == ([hopeless], [])


def test_dead_slots_do_not_use_up_the_batch() -> None:
    dead = [slot(deadline=1.0) for _ in range(10)]
    alive = [slot() for _ in range(2)]
    queue = queue_of(*dead, *alive)
    taken = queue.take(2, now=2.0, ready_by=2.0)
    assert taken.batch == alive
    assert taken.expired == dead
    assert len(queue) == 0


def test_those_who_cancelled_are_counted_as_cancelled_though_they_are_late_too() -> None:
    gone = [slot(deadline=1.0) for _ in range(2)]
    for each in gone:
        each.future.cancel()
    taken = queue_of(*gone).take(4, now=2.0, ready_by=2.0)
    assert (taken.batch, taken.expired, taken.cancelled) == ([], [], 2)


class JustCancelled(Future[Answer]):
    """Is cancelled by its caller's thread in the moment after it has been asked whether it is."""

    def cancelled(self) -> bool:
        before = super().cancelled()
        self.cancel()
        return before

    def set_running_or_notify_cancel(self) -> bool:
        self.cancel()
        return super().set_running_or_notify_cancel()


def test_a_slot_that_is_cancelled_while_it_is_taken_is_not_computed() -> None:
    gone = [Slot(PIXELS, Lane("a"), None, 0.0, JustCancelled()) for _ in range(2)]
    alive = slot()
    taken = queue_of(*gone, alive).take(4, now=0, ready_by=0)
    assert (taken.batch, taken.expired, taken.cancelled) == ([alive], [], 2)


def test_a_hopeless_slot_that_is_cancelled_while_it_is_taken_is_not_tried() -> None:
    gone = Slot(PIXELS, Lane("a"), 5.0, 0.0, JustCancelled())
    taken = queue_of(gone).take(1, now=4.0, ready_by=6.0)
    assert (taken.batch, taken.expired) == ([], [])


def test_no_more_hopeless_slots_are_tried_than_a_batch_holds() -> None:
    hopeless = [slot(deadline=5.0) for _ in range(3)]
    taken = queue_of(*hopeless).take(2, now=4.0, ready_by=6.0)
    assert (taken.batch, taken.expired) == (hopeless[:2], hopeless[2:])


def test_a_slot_that_can_be_ready_just_by_its_deadline_is_computed() -> None:
    hopeless, exact = slot(deadline=5.9), slot(deadline=6.0)
    taken = queue_of(hopeless, exact).take(2, now=4.0, ready_by=6.0)
    assert (taken.batch, taken.expired) == ([exact], [hopeless])


def test_what_is_ahead_of_a_newcomer_is_what_is_taken_before_it() -> None:
    queue = queue_of(slot("a"), slot("a"), slot("b"))
    assert [queue.ahead(Lane(lane)) for lane in "abc"] == [3, 3, 2]


def test_purging_removes_the_cancelled_and_keeps_the_order_of_the_others() -> None:
    slots = [slot("a"), slot("b"), slot("a"), slot("b")]
    queue = queue_of(*slots)
    slots[0].future.cancel()
    slots[1].future.cancel()
    assert queue.purge() == 2
    assert len(queue) == 2
    assert queue.take(9, now=0, ready_by=0).batch == slots[2:]
