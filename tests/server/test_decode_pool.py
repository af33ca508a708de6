"""The decoder threads."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from glimpse.server.decoding.pool import DecodePool
from glimpse.server.fair_queue import Lane

LONG = 60.0  # seconds; until a thread is called hung


class Held:
    """A pool of one thread, which is busy until it is let go."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pool = DecodePool(1, clock=lambda: self.now)
        self.done: list[str] = []
        self._go = threading.Event()
        begun = threading.Event()

        def hold() -> None:
            begun.set()
            assert self._go.wait(LONG)
            self.now += 8.0

        self._plug = self.pool.submit(Lane("plug"), hold)
        assert begun.wait(LONG)

    def submit(self, name: str, seconds: float = 0.0) -> None:
        def do() -> None:
            self.done.append(name)
            self.now += seconds

        self.last = self.pool.submit(Lane(name[0]), do)

    def let_go(self) -> None:
        self._go.set()
        self._plug.result(LONG)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.let_go()
    held.pool.close()


def test_a_bulk_caller_s_images_do_not_stand_before_a_lone_one(held: Held) -> None:
    for name in ("b1", "b2", "b3", "lone", "b4"):
        held.submit(name)
    held.let_go()
    held.last.result(LONG)
    assert held.done == ["b1", "lone", "b2", "b3", "b4"]


def test_what_is_cancelled_before_its_turn_never_runs_and_lets_go_of_its_image(held: Held) -> None:
    """What is cancelled before its turn never runs, and lets go of its image at once."""

    class Image:
        pass

    image = Image()
    there = weakref.ref(image)
    work = held.pool.submit(Lane("a"), lambda image=image: held.done.append(str(image)))  # type: ignore[misc]
    del image
    assert there() is not None
    assert work.cancel()
    gc.collect()
    assert there() is None
    held.submit("after")
    held.let_go()
    held.last.result(LONG)
    assert held.done == ["after"]


def test_what_has_begun_cannot_be_cancelled(held: Held) -> None:
    assert not held._plug.cancel()


def test_cancelled_work_does_not_pile_up_behind_a_busy_thread(held: Held) -> None:
    for _ in range(10_000):
        assert held.pool.submit(Lane("a"), lambda: None).cancel()
    assert held.pool.ahead(Lane("a")).items <= 512


def test_the_time_that_work_takes_is_expected_of_the_next(held: Held) -> None:
    assert held.pool.expected(3) == 0.0  # nothing is known
    held.submit("a", seconds=2.0)
    held.let_go()
    held.last.result(LONG)
    while len(held.pool._times._done) < 2:
        threading.Event().wait(0.001)
    assert held.pool.expected(3) == pytest.approx(3 * (8.0 + 2.0) / 2)


def test_closing_drops_what_has_not_begun(held: Held) -> None:
    held.submit("late")
    held.pool.close()
    assert held.last.cancelled()
    with pytest.raises(RuntimeError, match="stopped"):
        held.submit("later")
    held.let_go()
    assert held.done == []


def test_threads_side_by_side_need_less_time_for_the_same_work() -> None:
    now, begun, go = 0.0, threading.Barrier(3), threading.Event()
    pool = DecodePool(2, clock=lambda: now)

    def hold() -> None:
        begun.wait(LONG)
        assert go.wait(LONG)

    try:
        both = [pool.submit(Lane("a"), hold) for _ in range(2)]
        begun.wait(LONG)  # both threads are at work, and a third piece waits
        third = pool.submit(Lane("a"), lambda: None)
        assert pool.ahead(Lane("a")).items == 1
        now = 6.0
        go.set()
        for work in (*both, third):
            work.result(LONG)
        while len(pool._times._done) < 3:
            threading.Event().wait(0.001)
        assert pool.expected(5) == pytest.approx(5 * (6.0 + 6.0 + 0.0) / 3 / 2)
    finally:
        go.set()
        pool.close()
    for thread in pool._threads:  # which had nothing to do
        thread.join(LONG)
        assert not thread.is_alive()


def test_only_the_latest_times_are_expected_of_the_next(held: Held) -> None:
    for _ in range(64):
        held.submit("a", seconds=1.0)
    held.let_go()
    held.last.result(LONG)
    while held.pool.expected(1) != 1.0:  # the plug, which took 8 s, is the first to be forgotten
        threading.Event().wait(0.001)
    held.submit("a", seconds=65.0)
    held.last.result(LONG)
    while held.pool.expected(1) == 1.0:
        threading.Event().wait(0.001)
    assert held.pool.expected(1) == (63 * 1.0 + 65.0) / 64


def test_looking_for_cancelled_work_loses_none_that_is_wanted(held: Held) -> None:
    wanted = []
    for number in range(600):
        assert held.pool.submit(Lane("gone"), lambda: None).cancel()
        held.submit(str(number))
        wanted.append(held.last)
    # As much again as is wanted, or a little.
    assert 600 <= len(held.pool._turns) <= 2 * 600 + 256
    held.let_go()
    for work in wanted:
        work.result(LONG)
    assert sorted(map(int, held.done)) == list(range(600))


@pytest.mark.parametrize(("cancel", "most"), [(True, 10_000 // 256), (False, 6)])
def test_the_queue_is_seldom_looked_through(held: Held, *, cancel: bool, most: int) -> None:
    """Each time costs as much as the queue is long: at every submission, it would be the square of it."""
    turns, looks = held.pool._turns, []
    discard = turns.discard

    def counted(unwanted: Callable[[Any], bool]) -> int:
        looks.append(len(turns))
        return discard(unwanted)

    turns.discard = counted  # type: ignore[method-assign]
    works = [held.pool.submit(Lane("a"), lambda: None) for _ in range(0 if cancel else 10_000)]
    for _ in range(10_000 if cancel else 0):
        assert held.pool.submit(Lane("a"), lambda: None).cancel()
    assert 1 <= len(looks) <= most
    assert looks[0] == 256
    for work in works:
        work.cancel()


def test_what_is_done_lets_go_of_its_image_though_its_caller_holds_on(held: Held) -> None:
    class Image:
        pass

    image = Image()
    there = weakref.ref(image)
    held.let_go()
    work = held.pool.submit(Lane("a"), lambda image=image: held.done.append(str(image)))  # type: ignore[misc]
    del image
    work.result(LONG)
    gc.collect()
    assert there() is None
    assert work.done()


def test_closing_drops_all_lanes_and_ends_the_threads(held: Held) -> None:
    for name in ("a", "a", "b", "c"):
        held.submit(name)
    late = held.last
    held.pool.close()
    held.let_go()
    for thread in held.pool._threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert late.cancelled()
    assert held.done == []
    assert held.pool.ahead(Lane("z")) == (0, 0)


def test_a_party_that_keeps_all_threads_busy_does_not_have_the_spare_one() -> None:
    begun, go = threading.Semaphore(0), threading.Event()
    pool = DecodePool(2, spare=1)

    def hold() -> None:
        begun.release()
        assert go.wait(LONG)

    try:
        greedy = [pool.submit(Lane("greedy", str(number)), hold) for number in range(20)]
        for _ in range(2):
            assert begun.acquire(timeout=LONG)
        pool.submit(Lane("modest"), lambda: None).result(LONG)
        pool.submit(Lane("another"), lambda: None).result(LONG)
        assert sum(each.running() for each in greedy) == 2
        assert not begun.acquire(timeout=0.05)
    finally:
        go.set()
        for each in greedy:
            each.result(LONG)
        pool.close()


def test_the_spare_thread_takes_a_party_s_next_when_its_last_is_done() -> None:
    begun, go, first = threading.Semaphore(0), threading.Event(), threading.Event()
    pool = DecodePool(1, spare=1)

    def hold(until: threading.Event) -> None:
        begun.release()
        assert until.wait(LONG)

    try:
        greedy = [pool.submit(Lane("greedy"), lambda: hold(go)) for _ in range(3)]
        assert begun.acquire(timeout=LONG)
        modest = pool.submit(Lane("modest"), lambda: hold(first))
        assert begun.acquire(timeout=LONG)
        more = [pool.submit(Lane("modest"), lambda: None) for _ in range(5)]
        assert not any(each.done() for each in more)
        first.set()
        for each in (modest, *more):
            each.result(LONG)
        assert not any(each.done() for each in greedy)
    finally:
        go.set()
        first.set()
        for each in greedy:
            each.result(LONG)
        pool.close()


def test_a_party_that_sends_expensive_images_has_no_more_of_the_threads(held: Held) -> None:
    order: list[str] = []
    works = [held.pool.submit(Lane("expensive"), lambda: order.append("h"), 10) for _ in range(3)]
    works += [held.pool.submit(Lane("light"), lambda: order.append("l")) for _ in range(30)]
    held.let_go()
    for work in works:
        work.result(LONG)
    assert "".join(order) == ("h" + "l" * 10) * 3


def test_expensive_work_is_expected_to_take_as_long_as_expensive_work_did(held: Held) -> None:
    pool = DecodePool(2, expensive=1, clock=lambda: held.now)
    try:
        for expensive, seconds in ((False, 1.0), (True, 64.0)):

            def work(seconds: float = seconds) -> None:
                held.now += seconds

            pool.submit(Lane("a"), work, 16, expensive=expensive).result(LONG)
        while pool.expected(16, expensive=True) != 64.0:
            threading.Event().wait(0.001)
        assert pool.expected(16) == 0.5  # two threads
    finally:
        pool.close()


def test_expensive_work_never_takes_a_thread_from_small_work() -> None:
    pool, go = DecodePool(2, expensive=1), threading.Event()
    begun = threading.Semaphore(0)

    def hold() -> None:
        begun.release()
        assert go.wait(LONG)

    try:
        expensive = [pool.submit(Lane(str(number)), hold, expensive=True) for number in range(20)]
        assert begun.acquire(timeout=LONG)
        # Both threads for small work are free, however much expensive work waits.
        meet = threading.Barrier(2)

        def together() -> None:
            meet.wait(LONG)

        small = [pool.submit(Lane("small"), together) for _ in range(2)]
        for work in small:
            work.result(LONG)
        assert not begun.acquire(blocking=False)  # and a second expensive piece has not begun
        assert pool.depth() == 19
        assert pool.ahead(Lane("small")) == (0, 0)
    finally:
        go.set()
    for work in expensive:
        work.result(LONG)
    pool.close()


def test_expensive_work_takes_turns_by_lane_and_is_dropped_with_the_rest() -> None:
    pool, go, begun, done = DecodePool(1, expensive=1), threading.Event(), threading.Event(), list[str]()

    def hold() -> None:
        begun.set()
        assert go.wait(LONG)

    plug = pool.submit(Lane("plug"), hold, expensive=True)
    assert begun.wait(LONG)
    for name in ("b1", "b2", "lone"):
        last = pool.submit(Lane(name[0]), partial(done.append, name), expensive=True)
    go.set()
    last.result(LONG)
    plug.result(LONG)
    while len(done) < 3:
        threading.Event().wait(0.001)
    assert done == ["b1", "lone", "b2"]
    pool.close()
    with pytest.raises(RuntimeError, match="stopped"):
        pool.submit(Lane("a"), lambda: None, expensive=True)


def test_without_threads_of_its_own_expensive_work_is_as_any_other(held: Held) -> None:
    work = held.pool.submit(Lane("a"), lambda: held.done.append("expensive"), expensive=True)
    held.let_go()
    work.result(LONG)
    assert held.done == ["expensive"]


def test_a_thread_that_is_at_one_piece_for_too_long_is_told(held: Held) -> None:
    assert held.pool.overdue(10.0) == 0
    held.now = 10.0
    assert held.pool.overdue(10.0) == 0
    held.now = 10.1
    assert held.pool.overdue(10.0) == 1
    held.let_go()
    held.submit("after")
    held.last.result(LONG)
    while held.pool.overdue(-1.0):  # it waits for work now
        threading.Event().wait(0.001)


def test_expensive_work_that_takes_long_is_no_thread_overdue() -> None:
    """It is in a process, which has a limit of its own."""
    now, go, begun = 0.0, threading.Event(), threading.Event()
    pool = DecodePool(1, expensive=1, clock=lambda: now)

    def hold() -> None:
        begun.set()
        assert go.wait(LONG)

    work = pool.submit(Lane("a"), hold, expensive=True)
    assert begun.wait(LONG)
    now = 1000.0
    assert pool.overdue(10.0) == 0
    go.set()
    work.result(LONG)
    pool.close()
