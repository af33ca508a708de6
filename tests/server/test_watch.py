"""What the batcher's workers have in hand, with a fake clock."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np

from glimpse.server.batching.batch_queue import Slot
from glimpse.server.batching.watch import Watch
from glimpse.server.fair_queue import NO_LANE
from tests.server.fake_executor import FakeClock


def batch(images: int) -> list[Slot]:
    return [Slot(np.zeros((1, 1, 3), np.uint8), NO_LANE, None, 0.0, Future()) for _ in range(images)]


def watch(stuck_seconds: float = 60.0) -> tuple[Watch, FakeClock]:
    clock = FakeClock()
    return Watch(stuck_seconds, clock), clock


def test_of_several_batches_that_hang_the_one_that_has_for_longest_is_told() -> None:
    for order in ((3, 5), (5, 3)):
        hands, clock = watch()
        for worker, images in zip(("batcher-0", "batcher-1"), order, strict=True):
            hands.took(worker, batch(images))
        hands.began("batcher-1")
        clock.now += 10.0
        hands.began("batcher-0")
        clock.now += 61.0
        assert hands.trouble() == f"A batch of {order[1]} images has been computing for 71 s."


def test_batches_that_hang_for_as_long_as_one_another_are_told_as_one() -> None:
    hands, clock = watch()
    for worker in ("batcher-0", "batcher-1"):
        hands.took(worker, batch(4))
        hands.began(worker)
    clock.now += 61.0
    assert hands.trouble() == "A batch of 4 images has been computing for 61 s."


def test_a_batch_that_is_back_does_not_hang_however_long_its_answers_take() -> None:
    hands, clock = watch()
    hands.took("batcher-0", batch(1))
    hands.began("batcher-0")
    clock.now += 61.0
    assert hands.trouble() is not None
    hands.ended("batcher-0")
    assert hands.trouble() is None


def test_a_batch_that_waits_does_not_hang_but_is_lost_where_another_hangs() -> None:
    """A batch that waits for the device does not hang, but is lost where another does."""
    hands, clock = watch(stuck_seconds=0.5)
    computing, waiting = batch(1), batch(2)
    hands.took("batcher-0", computing)
    hands.took("batcher-1", waiting)
    clock.now += 1.0
    assert hands.trouble() is None
    hands.began("batcher-0")
    clock.now += 0.5
    assert hands.trouble() is None
    assert hands.lost() == waiting
    clock.now += 0.1
    assert hands.trouble() is not None
    assert hands.lost() == [*computing, *waiting]


def test_what_is_answered_is_in_no_hand() -> None:
    hands, clock = watch()
    hands.took("batcher-0", batch(1))
    hands.began("batcher-0")
    hands.ended("batcher-0")
    hands.gave("batcher-0")
    hands.gave("batcher-0")  # or emptied by somebody else before
    clock.now += 61.0
    assert hands.lost() == []


def test_a_worker_that_dies_loses_what_it_had_in_hand_if_it_had_anything() -> None:
    hands, _ = watch()
    had = batch(2)
    hands.took("batcher-1", had)
    assert hands.died("batcher-0", OSError()) == []
    assert hands.died("batcher-1", ValueError()) == had
    assert hands.lost() == []
    assert hands.trouble() == "The thread batcher-1 of the batcher has died of ValueError."
