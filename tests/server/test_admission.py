"""Permits for lone requests, and places for calls and streams: bounded from the first byte, and shared."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future

import pytest

from glimpse.server.admission import Admission
from glimpse.server.errors import OverloadedError, Reason
from glimpse.server.fair_queue import Lane
from glimpse.server.shares import Permits
from tests.server.permits import KB, Holder, most_of, run, settle


def test_a_request_without_room_is_refused_at_once_with_a_hint() -> None:
    async def scenario(gate: Admission) -> None:
        first = Holder(gate, 7)
        await settle()
        with pytest.raises(OverloadedError) as refused:
            await Holder(gate, 3, lane="another").task
        assert refused.value.reason is Reason.QUEUE_FULL
        assert refused.value.retry_after == 1.0  # two too many at 0.5 s each
        await first.release()
        async with gate.admit(Permits(8), wait=False):
            assert gate.in_flight == 8

    run(scenario)


def test_permits_come_back_when_the_work_fails() -> None:
    async def scenario(gate: Admission) -> None:
        with pytest.raises(RuntimeError):
            async with gate.admit(Permits(8), wait=False):
                raise RuntimeError("the work failed")
        with pytest.raises(RuntimeError):
            async with gate.admit(Permits(6), wait=True):
                raise RuntimeError("the work failed")

    run(scenario)


def test_work_that_goes_on_in_a_thread_keeps_its_permit_though_its_caller_left() -> None:
    async def scenario(gate: Admission) -> None:
        work: Future[None] = Future()
        async with gate.admit(Permits(1), wait=False):
            gate.keep_until_done(work, Permits(1, 5 * KB, 2 * KB))
        assert (gate.in_flight, gate.bytes_in_flight, gate.work_in_flight) == (1, 5 * KB, 2 * KB)
        work.set_result(None)
        await settle()

    run(scenario)


def test_bytes_are_bounded_as_images_are() -> None:
    async def scenario(gate: Admission) -> None:
        async with gate.admit(Permits(1, 6 * KB), wait=False):
            assert gate.bytes_in_flight == 6 * KB
            with pytest.raises(OverloadedError) as refused:
                async with gate.admit(Permits(1, 3 * KB), wait=False, lane=Lane("another")):
                    pass
            assert f"exceed the limit of 8 images, {8 * KB} bytes or {8 * KB} pixels" in refused.value.message
            assert refused.value.retry_after == 0.5  # as long as one image takes, though none was too many
            async with gate.admit(Permits(1, 2 * KB), wait=False, lane=Lane("another")):
                pass

    run(scenario)


@pytest.mark.parametrize("kind", ["call", "stream"])
def test_there_are_no_more_calls_or_streams_than_are_allowed(kind: str) -> None:
    """There are no more calls than images may be in flight, nor more streams than are allowed."""

    async def scenario(gate: Admission) -> None:
        enter = getattr(gate, kind)
        with contextlib.ExitStack() as calls:
            for number in range(8):
                calls.enter_context(enter(Lane(f"lane {number}")))
            with pytest.raises(OverloadedError) as refused, enter():
                pass
            assert refused.value.reason is Reason.QUEUE_FULL
        with enter():
            pass

    run(scenario)


def test_a_greedy_party_leaves_an_eighth_and_two_leave_a_fifteenth() -> None:
    async def scenario(gate: Admission) -> None:
        first = await most_of(gate, "first")
        assert len(first) == 7 * 64 // 8 - 1
        first += await most_of(gate, Lane("first", "by another name"))
        assert len(first) == 7 * 64 // 8
        second = await most_of(gate, "second")
        assert len(second) == 4  # the rest is for those who have nothing
        # As the first one's are answered, the second comes by as many.
        for each in first[28:]:
            await each.release()
        second += await most_of(gate, "second")
        assert (len(first[:28]), len(second)) == (28, 30)
        third = await most_of(gate, "third")
        assert third
        for each in (*first[:28], *second, *third):
            await each.release()

    run(scenario, capacity=64)


def test_a_lane_whose_requests_are_answered_has_its_whole_share_again() -> None:
    async def scenario(gate: Admission) -> None:
        for _ in range(2):
            held = await most_of(gate, "greedy")
            assert len(held) == 6
            for each in held[:3]:
                await each.release()
            held[:3] = await most_of(gate, "greedy")
            assert len(held) == 6
            for each in held:
                await each.release()

    run(scenario)


def test_whoever_has_nothing_in_flight_is_refused_only_for_want_of_room() -> None:
    async def scenario(gate: Admission) -> None:
        greedy = await most_of(gate, "greedy")
        with pytest.raises(OverloadedError) as refused:
            await Holder(gate, 1, lane="greedy").task
        assert refused.value.reason is Reason.SHARE_FULL
        modest = Holder(gate, 9, lane="modest")
        await settle()
        assert modest.entered
        with pytest.raises(OverloadedError) as refused:
            await Holder(gate, 1, lane="late").task
        assert refused.value.reason is Reason.QUEUE_FULL
        for each in (*greedy, modest):
            await each.release()

    run(scenario, capacity=64)


@pytest.mark.parametrize("kind", ["call", "stream"])
def test_a_party_s_calls_and_streams_leave_places_for_others_too(kind: str) -> None:
    async def scenario(gate: Admission) -> None:
        enter = getattr(gate, kind)
        with contextlib.ExitStack() as calls:
            for _ in range(6):
                calls.enter_context(enter(Lane("greedy")))
            with pytest.raises(OverloadedError) as refused, enter(Lane("greedy")):
                pass
            assert refused.value.reason is Reason.SHARE_FULL
            calls.enter_context(enter(Lane("another")))

    run(scenario)


def test_the_refused_are_told_to_come_back_one_by_one_as_fast_as_work_is_done() -> None:
    now = 100.0

    async def scenario(gate: Admission) -> None:
        nonlocal now
        inside = Holder(gate, 8)
        await settle()

        async def hint(images: int = 1) -> float:
            with pytest.raises(OverloadedError) as refused:
                await Holder(gate, images, lane="newcomer").task
            assert refused.value.retry_after is not None
            return refused.value.retry_after

        assert [await hint(), await hint(2), await hint()] == [0.5, 1.5, 2.0]
        now += 1.0  # half of those promised 2 s are done with
        assert await hint() == 1.5
        hints = [await hint() for _ in range(100)]
        assert hints[:8] == [2.0 + 0.5 * number for number in range(8)]
        assert set(hints[8:]) == {5.5}  # nobody is told to stay away for longer
        now += 60.0
        assert await hint() == 0.5
        await inside.release()

    run(scenario, now=lambda: now)


@pytest.mark.parametrize("kind", ["call", "stream"])
@pytest.mark.parametrize("lane", ["greedy", "another"])
def test_refused_calls_and_streams_are_told_to_come_back_one_by_one_too(kind: str, lane: str) -> None:
    async def scenario(gate: Admission) -> None:
        enter = getattr(gate, kind)
        with contextlib.ExitStack() as calls:
            for number in range(8):
                calls.enter_context(enter(Lane("greedy" if number < 6 else f"modest {number}")))
                if number == 5 and lane == "greedy":  # it has its share, and there is room for another
                    break
            hints = []
            for _ in range(3):
                with pytest.raises(OverloadedError) as refused, enter(Lane(lane)):
                    pass
                hints.append(refused.value.retry_after)
            assert refused.value.reason is (Reason.SHARE_FULL if lane == "greedy" else Reason.QUEUE_FULL)
            assert hints == [0.5, 1.0, 1.5]

    run(scenario)


def test_a_call_without_room_for_an_image_is_refused_before_its_message_is_read() -> None:
    """A call is refused before its message is read where there is no room for one more image."""

    async def scenario(gate: Admission) -> None:
        with gate.call(Lane("first")):
            inside = Holder(gate, 7, lane="first")
            await settle()
            for lane, reason in (("first", Reason.SHARE_FULL), ("second", None)):
                try:
                    with gate.call(Lane(lane)):
                        found = None
                except OverloadedError as error:
                    found = error.reason
                assert found is reason
            another = Holder(gate, 1, lane="second")
            await settle()
            with pytest.raises(OverloadedError) as refused, gate.call(Lane("third")):
                pass
            assert refused.value.reason is Reason.QUEUE_FULL
            await another.release()
            await inside.release()

    run(scenario)


@pytest.mark.parametrize("kind", ["call", "stream"])
def test_names_without_end_hold_no_more_places_than_one_party_may(kind: str) -> None:
    async def scenario(gate: Admission) -> None:
        enter, most = getattr(gate, kind), 64 if kind == "call" else 8
        with contextlib.ExitStack() as calls:
            for number in range(most - most // 8):
                calls.enter_context(enter(Lane("greedy", f"name {number}")))
            for number in range(3):
                with pytest.raises(OverloadedError) as refused, enter(Lane("greedy", f"another name {number}")):
                    pass
                assert refused.value.reason is Reason.SHARE_FULL
            calls.enter_context(enter(Lane("modest")))

    run(scenario, capacity=64)


def test_work_is_bounded_as_images_are_and_shared() -> None:
    async def scenario(gate: Admission) -> None:
        heavy = [Holder(gate, 1, work=8 * KB, lane="greedy") for _ in range(7)]
        await settle()
        assert [each.entered for each in heavy] == [True] * 6 + [False]
        error = heavy[-1].task.exception()
        assert isinstance(error, OverloadedError)
        assert error.reason is Reason.SHARE_FULL
        assert "48000 pixels of decoding in flight" in error.message
        assert error.retry_after == 8.0  # as long as the work takes, not the one image
        modest = Holder(gate, 16, work=16 * KB, lane="modest")
        await settle()
        assert (modest.entered, gate.work_in_flight) == (True, 64 * KB)
        with pytest.raises(OverloadedError) as refused:
            await Holder(gate, 1, work=3 * KB, lane="late").task
        assert refused.value.reason is Reason.QUEUE_FULL
        for each in (*heavy[:-1], modest):
            await each.release()

    run(scenario, capacity=64)


@pytest.mark.parametrize("wait", [False, True])
def test_what_costs_more_than_there_is_can_be_let_in_alone(wait: bool) -> None:  # noqa: FBT001 - a parameter
    async def scenario(gate: Admission) -> None:
        huge = Holder(gate, 1, work=10_000 * KB, wait=wait, lane="first")
        await settle()
        assert (huge.entered, gate.work_in_flight) == (True, 6 * KB)  # three quarters, as streams may
        small = Holder(gate, 1, work=KB, lane="second")
        await settle()
        assert small.entered
        for each in (huge, small):
            await each.release()

    run(scenario)


def test_it_takes_many_parties_to_leave_no_place_for_one_more() -> None:
    """The last sixteenth is for parties that hold nothing, one place for each, whatever the others try."""

    async def scenario(gate: Admission) -> None:
        greedy: list[Holder] = []
        parties = 0
        for number in range(18):
            held = await most_of(gate, f"party {number}")
            parties += bool(held)
            greedy += held
        assert (parties, gate.in_flight) == (18, 256)
        for each in greedy:
            await each.release()

    run(scenario, capacity=256)
