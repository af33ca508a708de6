"""A phase of load on a clock of its own, against models of a server: what is sent when, and what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from typing import Any

import pytest

from glimpse.client.load import figures, knee
from glimpse.client.load.calls import Call
from glimpse.client.load.driver import Driver, PhaseRun
from glimpse.client.load.live import Watcher
from glimpse.client.load.plan import Plan
from glimpse.client.load.session import holds
from glimpse.client.load.tally import NOT_SENT, Answer, Request, Tally
from tests.client.virtual import run

ONE = Request(b"", (False,))
OK = Answer(images=("",), stages=(0.0005,) * 8, batch=1)


class Device:
    """A server that serves one request after the other, each in so many seconds."""

    def __init__(self, *seconds: float | Iterable[float], answer: Answer = OK) -> None:
        self._seconds = chain.from_iterable(each if isinstance(each, Iterable) else repeat(each) for each in seconds)
        self._answer = answer
        self._free = 0.0
        self.begun: list[float] = []

    async def __call__(self, request: Request, timeout: float) -> Answer:  # noqa: ASYNC109  (the callers' protocol)
        now = asyncio.get_running_loop().time()
        self.begun.append(now)
        self._free = max(now, self._free) + next(self._seconds)
        if self._free - now > timeout:
            await asyncio.sleep(timeout)
            return Answer(error="DEADLINE_EXCEEDED")
        await asyncio.sleep(self._free - now)
        return self._answer


def drive(plan: Plan, call: Call, make: Callable[[], Request] = lambda: ONE, **options: Any) -> PhaseRun:
    return run(Driver(plan, make, call, **options).run())


def test_each_caller_of_a_closed_loop_waits_for_its_answer() -> None:
    ran = drive(Plan(callers=3, duration=10), Device(0.1))
    # One device: 10 a second, whoever asks, and each of three callers waits for the two others.
    assert ran.tally.in_time.requests == pytest.approx(100, abs=1)
    assert ran.tally.latency.percentile(0.5) == pytest.approx(0.3, rel=0.011)
    assert ran.tally.most_in_flight == 3
    assert ran.tally.in_flight == 0


def test_an_open_loop_sends_whatever_the_answers_do() -> None:
    device = Device(0.5)
    ran = drive(Plan(rate=10, steady=True, duration=5), device)
    assert device.begun == pytest.approx([number / 10 for number in range(50)])
    assert ran.tally.requests == 50
    assert ran.tally.in_time.requests == 10
    assert ran.tally.latency.largest == pytest.approx(50 * 0.5 - 4.9)  # the last of them
    assert ran.tally.seconds == 5


def test_a_stall_shows_in_the_latencies_of_all_that_were_due_meanwhile() -> None:
    stalls = [0.001] * 500 + [1.0]
    opened = drive(Plan(rate=100, steady=True, duration=10), Device(stalls, 0.001)).tally.latency
    closed = drive(Plan(callers=1, requests=1000), Device(stalls, 0.001)).tally.latency
    assert opened.percentile(0.95) > 0.4
    # The one caller slept through the stall, and knows of one slow answer alone.
    assert closed.percentile(0.99) < 0.002
    assert closed.largest == pytest.approx(1.0)


def test_what_the_generator_sent_late_counts_from_when_it_was_due() -> None:
    tally = Tally(begin=10.0, end=20.0)
    tally.sent(ONE, due=12.0, now=12.5)
    tally.done(ONE, OK, due=12.0, now=12.6)
    assert tally.late.largest == pytest.approx(0.5)
    assert tally.latency.largest == pytest.approx(0.6)
    # The stages tell 4 ms; the rest is what nobody on the server has seen.
    assert figures.stages(tally.all)["rest"] == pytest.approx(0.596)


def test_the_warm_up_is_sent_and_not_counted() -> None:
    device = Device([1.0] * 3, 0.125)
    ran = drive(Plan(callers=1, warm_up=3, duration=2), device)
    assert len(device.begun) == 19
    assert ran.tally.requests == 16
    assert ran.tally.latency.largest == pytest.approx(0.125)
    assert ran.tally.seconds == 2


@pytest.mark.parametrize("come", [{"callers": 4}, {"rate": 50.0}, {"rate": 5000.0}], ids=str)
def test_a_number_of_requests_ends_a_phase_after_exactly_so_many(come: dict[str, Any]) -> None:
    device = Device(0.01)
    ran = drive(Plan(requests=30, **come), device)
    assert (len(device.begun), ran.tally.requests, ran.tally.latency.count) == (30, 30, 30)


def test_what_is_above_the_bound_in_flight_is_not_sent_and_is_an_error() -> None:
    device = Device(1.0)
    ran = drive(Plan(rate=10, steady=True, duration=10, images_per_call=2), device, most_in_flight=3)
    found = figures.of(ran)
    assert ran.tally.requests == 100
    assert len(device.begun) + found["generator"]["not_sent"] / 2 == 100
    assert found["errors"] == {NOT_SENT: found["generator"]["not_sent"]}
    assert found["generator"]["most_in_flight"] == 3
    assert "due and not sent" in " ".join(found["warnings"])
    assert not figures.generator_kept(found)


def test_an_answer_after_the_deadline_is_an_error_and_no_latency() -> None:
    ran = drive(Plan(rate=20, steady=True, duration=5, timeout=1.0), Device(0.1))
    found = figures.of(ran)
    assert set(found["errors"]) == {"DEADLINE_EXCEEDED"}
    assert found["latency"]["max"] <= 1.0
    assert found["answered"] + found["errors"]["DEADLINE_EXCEEDED"] == found["requests"] == 100


def test_a_caller_that_is_refused_does_not_spin() -> None:
    ran = drive(Plan(callers=2, duration=1), Device(0.0, answer=Answer(error="QUEUE_FULL")))
    assert ran.tally.errors["QUEUE_FULL"] <= 2 * 101
    assert figures.of(ran)["warnings"][-1] == "Not one request was answered."


@pytest.mark.parametrize(
    ("broken", "answers", "classified", "expected", "errors"),
    [
        ((False, False), ("", ""), 2, 0, {}),
        ((False, True), ("", "NOT_AN_IMAGE"), 1, 1, {}),
        ((False, True), ("", ""), 1, 0, {"BROKEN_IMAGE_CLASSIFIED": 1}),
        ((False, True), ("INTERNAL", "CORRUPT_IMAGE"), 0, 1, {"INTERNAL": 1}),
        ((False, False), ("",), 1, 0, {"NO_RESULT": 1}),
    ],
)
def test_images_that_are_broken_on_purpose_have_to_be_refused(
    broken: tuple[bool, ...], answers: tuple[str, ...], classified: int, expected: int, errors: dict[str, int]
) -> None:
    tally = Tally(0.0, 1.0)
    request = Request(b"", broken)
    tally.sent(request, 0.5, 0.5)
    tally.done(request, Answer(images=answers), 0.5, 0.6)
    assert (tally.classified, tally.expected, dict(tally.errors)) == (classified, expected, errors)


def test_a_request_that_fails_fails_all_its_images() -> None:
    tally = Tally(0.0, 1.0)
    request = Request(b"", (False, True, False))
    tally.sent(request, 0.5, 0.5)
    tally.done(request, Answer(error="QUEUE_FULL"), 0.5, 0.6)
    assert dict(tally.errors) == {"QUEUE_FULL": 3}
    assert tally.latency.count == 0


def test_a_run_that_is_stopped_keeps_what_it_has() -> None:
    async def stopped() -> PhaseRun:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(4.05, stop.set)
        return await Driver(Plan(rate=10, steady=True, duration=60), lambda: ONE, Device(0.1), stop=stop).run()

    ran = run(stopped())
    assert ran.stopped
    assert ran.tally.seconds == pytest.approx(4.05)
    assert ran.tally.latency.count == 40


def test_a_timeline_of_hours_stays_short_and_loses_nothing() -> None:
    ran = drive(Plan(rate=1, steady=True, duration=2_000), Device(0.1))
    timeline = figures.of(ran)["timeline"]
    assert len(timeline) <= 240
    assert sum(moment["requests"] for moment in timeline) == 2_000


def test_live_figures_are_of_the_last_seconds() -> None:
    tally = Tally(0.0, 100.0)
    for second in range(60):
        tally.sent(ONE, float(second), float(second))
        tally.done(ONE, OK, float(second), second + (0.9 if second < 30 else 0.1))
    moment, seconds = tally.recent(59.5)
    assert seconds == pytest.approx(5.5)
    assert moment.requests == 6
    assert moment.latency.largest == pytest.approx(0.1)


def test_lines_tell_how_it_goes() -> None:
    lines: list[str] = []
    plan = Plan(rate=10, steady=True, duration=12, warm_up=2)

    async def watched() -> None:
        watch = Watcher(lines.append, every=5.05)
        await Driver(plan, lambda: ONE, Device(0.3), watch=lambda tally: watch(plan, tally)).run()

    run(watched())
    # 51 were sent, 16 of them answered: the first after 0.3 s, each 0.2 s later than the one before.
    assert lines[0] == "load: 3 of 12 s  3.2 requests/s  p50 1.7 s  p99 3.3 s  0 errors  35 in flight"
    assert len(lines) >= 2


def test_the_knee_of_a_queue_is_below_what_its_device_can_do() -> None:
    """A device of 10 ms a request. By the theory of the M/D/1 queue, 1 % wait 40 ms or more at 56 a second."""
    search = knee.search(30.0)
    rate, tried = next(search), {}
    while True:
        plan = Plan(rate=rate, duration=40, warm_up=2, timeout=5)
        tried[rate] = holds(figures.of(drive(plan, Device(0.01), seed=3)), slo=0.05, max_errors=0.001)
        try:
            rate = search.send(tried[rate])
        except StopIteration as end:
            found = end.value
            break
    assert found == max(rate for rate, held in tried.items() if held)
    assert found == pytest.approx(56, rel=0.15)
    assert min(rate for rate, held in tried.items() if not held) < found * 1.06
