"""A process that stood still finds nothing hung that did not hang: a stopped process, a paused container or machine."""

from __future__ import annotations

import threading

import pytest

from glimpse.server.batching.device import SharedDevice
from glimpse.server.batching.watch import Watch
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.fair_queue import Lane
from glimpse.server.machine.awake import AwakeClock
from glimpse.server.repository.watched_load import _Steps
from tests.server.fake_executor import WAIT, FakeClock, benches, value
from tests.server.test_watch import batch

HOUR = 3600.0


def asked(awake: AwakeClock, clock: FakeClock, seconds: float, every: float = 1.0) -> float:
    """What the clock says after it was asked for so long, as a watchdog does."""
    for _ in range(round(seconds / every)):
        clock.now += every
        awake()
    return awake()


def test_a_clock_that_is_asked_now_and_then_goes_as_any_other() -> None:
    clock = FakeClock()
    awake = AwakeClock(limit=60.0, clock=clock)
    assert asked(awake, clock, 100.0) == pytest.approx(100.0)
    assert asked(awake, clock, 100.0, every=4.0) == pytest.approx(200.0)
    assert asked(awake, clock, 10.0, every=0.01) == pytest.approx(210.0)


def test_of_a_time_in_which_nobody_asked_little_is_counted() -> None:
    clock = FakeClock()
    awake = AwakeClock(limit=60.0, clock=clock)
    before = asked(awake, clock, 10.0)
    clock.now += HOUR
    assert awake() == before + 5.0
    assert asked(awake, clock, 10.0) == before + 15.0


def test_however_often_it_is_asked_it_never_goes_back() -> None:
    clock = FakeClock()
    awake = AwakeClock(limit=0.1, clock=clock)
    before = 0.0
    for seconds in (0.01, 0.04, 0.06, HOUR, 0.0, 0.049, 0.051, 5.0, HOUR):
        clock.now += seconds
        assert awake() >= before
        before = awake()


def test_one_pause_is_never_as_long_as_what_counts_as_hung() -> None:
    clock = FakeClock()
    for limit in (0.5, 2.0, 60.0, float("inf")):
        awake = AwakeClock(limit=limit, clock=clock)
        clock.now += HOUR
        assert awake() <= limit / 2


def test_where_everything_is_slow_time_goes_on_nevertheless() -> None:
    """A machine on which the watchdog comes to its turn every minute finds a hang late, but finds it."""
    clock = FakeClock()
    awake = AwakeClock(limit=60.0, clock=clock)
    assert asked(awake, clock, 20 * 60.0, every=60.0) > 60.0


def test_a_batch_does_not_hang_because_the_process_stood_still() -> None:
    clock = FakeClock()
    awake = AwakeClock(limit=60.0, clock=clock)
    hands = Watch(60.0, awake)
    hands.took("batcher-0", batch(3))
    hands.began("batcher-0")
    clock.now += HOUR
    assert hands.trouble() is None
    asked(awake, clock, 50.0)
    assert hands.trouble() is None
    asked(awake, clock, 6.0)
    assert hands.trouble() == "A batch of 3 images has been computing for 61 s."


def test_a_decoder_is_not_overdue_because_the_process_stood_still() -> None:
    clock = FakeClock()
    awake = AwakeClock(limit=10.0, clock=clock)
    pool = DecodePool(1, clock=awake)
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go.wait(WAIT)

    work = pool.submit(Lane("a"), hold)
    assert begun.wait(WAIT)
    clock.now += HOUR
    assert pool.overdue(10.0) == 0
    asked(awake, clock, 6.0)
    assert pool.overdue(10.0) == 1
    go.set()
    work.result(WAIT)
    pool.close()
    assert pool.expected(1) < HOUR / 2  # what comes next is not refused because that one took so long


def test_a_load_does_not_hang_because_the_process_stood_still() -> None:
    clock = FakeClock()
    awake = AwakeClock(limit=600.0, clock=clock)
    steps = _Steps(lambda: None, awake)
    steps("compute batches of 8 images")
    clock.now += HOUR
    assert not steps.hangs(600.0)
    asked(awake, clock, 596.0)
    assert steps.hangs(600.0) == "compute batches of 8 images"


def test_a_batch_that_stood_still_tells_nothing_about_others() -> None:
    """Else images that come next would be refused, because a batch takes an hour."""
    with benches() as make:
        clock = FakeClock()
        bench = make(clock=clock, awake=AwakeClock(limit=60.0, clock=clock))
        bench.model.clock = clock
        for seconds, expected in ((HOUR, 0.0), (0.5, 0.5), (HOUR, 0.5)):
            answer = bench.occupy()
            bench.release(seconds)
            assert value(answer) == 255
            assert bench.batcher.seconds_to_compute(1) == expected
        late = bench.submit(1, deadline=clock.now + 1.0)
        assert bench.model.values() == [1]
        bench.release()
        assert value(late) == 1


def test_a_model_does_not_pay_for_the_time_for_which_the_process_stood_still() -> None:
    """Its batch was on the device then; else it would wait until the other model had had an hour as well."""
    clock = FakeClock()
    device = SharedDevice(1, AwakeClock(limit=60.0, clock=clock))
    one, other = device.share(), device.share()
    turn = one.turn()
    turn.begin()
    clock.now += HOUR
    turn.end()
    assert one.had - other.had <= 5.0
