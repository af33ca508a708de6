"""Permits: bounded from the first byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import pytest

from server.admission import Admission, Load, Places
from server.errors import OverloadedError, Reason, UnavailableError

KB = 1000  # bytes of the images here, where nothing else is said


def load(images: int, size: int = 0) -> Load:
    return Load(images, size)


def run(scenario: Callable[[Admission], Awaitable[None]], capacity: int = 8, now: Callable[[], float] = float) -> None:
    async def main() -> None:
        gate = Admission(Load(capacity, capacity * KB), streams=8, retry_after=lambda images: images * 0.5, clock=now)
        await scenario(gate)
        assert (gate.in_flight, gate.bytes_in_flight) == (0, 0), "a permit leaked"
        assert gate._bulk == Load(0, 0), "a permit of the streams leaked"
        assert gate._held_by == {}, "a permit of a lane leaked"

    asyncio.run(main())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Holder:
    """Holds permits in a task of its own until released."""

    def __init__(self, gate: Admission, images: int, *, size: int = 0, wait: bool = False, lane: str = "") -> None:
        self.entered = False
        self._done = asyncio.Event()
        self.task = asyncio.create_task(self._hold(gate, load(images, size), wait, lane))

    async def _hold(self, gate: Admission, what: Load, wait: bool, lane: str) -> None:  # noqa: FBT001 - a test's helper
        async with gate.admit(what, wait=wait, lane=lane):
            self.entered = True
            await self._done.wait()

    async def release(self) -> None:
        self._done.set()
        await self.task


def test_a_request_without_room_is_refused_at_once_with_a_hint() -> None:
    async def scenario(gate: Admission) -> None:
        first = Holder(gate, 7)
        await settle()
        with pytest.raises(OverloadedError) as refused:
            await Holder(gate, 3).task
        assert refused.value.reason is Reason.QUEUE_FULL
        assert refused.value.retry_after == 1.0  # two too many at 0.5 s each
        await first.release()
        async with gate.admit(load(8), wait=False):
            assert gate.in_flight == 8

    run(scenario)


def test_permits_come_back_when_the_work_fails() -> None:
    async def scenario(gate: Admission) -> None:
        with pytest.raises(RuntimeError):
            async with gate.admit(load(8), wait=False):
                raise RuntimeError("the work failed")
        with pytest.raises(RuntimeError):
            async with gate.admit(load(6), wait=True):
                raise RuntimeError("the work failed")

    run(scenario)


def test_a_stream_waits_for_room_in_the_order_of_arrival() -> None:
    async def scenario(gate: Admission) -> None:
        first = Holder(gate, 6, wait=True)
        second = Holder(gate, 5, wait=True)
        third = Holder(gate, 1, wait=True)
        await settle()
        assert [first.entered, second.entered, third.entered] == [True, False, False]
        await first.release()
        await settle()
        assert [second.entered, third.entered] == [True, True]
        await second.release()
        await third.release()

    run(scenario)


def test_streams_leave_a_quarter_to_lone_requests() -> None:
    async def scenario(gate: Admission) -> None:
        bulk = [Holder(gate, 2, wait=True) for _ in range(4)]
        await settle()
        assert [each.entered for each in bulk] == [True, True, True, False]
        async with gate.admit(load(2), wait=False):
            assert gate.in_flight == 8
        for each in bulk:
            await each.release()

    run(scenario)


def test_a_waiting_stream_that_is_cancelled_lets_the_next_one_in() -> None:
    async def scenario(gate: Admission) -> None:
        first = Holder(gate, 4, wait=True)
        large = Holder(gate, 6, wait=True)
        small = Holder(gate, 1, wait=True)
        await settle()
        assert not small.entered
        large.task.cancel()
        await settle()
        assert small.entered
        assert large.task.cancelled()
        await first.release()
        await small.release()

    run(scenario)


def test_permits_granted_to_a_stream_that_is_cancelled_in_the_same_moment_come_back() -> None:
    async def scenario(gate: Admission) -> None:
        first = Holder(gate, 6, wait=True)
        second = Holder(gate, 6, wait=True)
        await settle()
        first._done.set()  # when the first has had its turn, the second's permits are granted
        asyncio.get_running_loop().call_soon(second.task.cancel)  # before the second has had its own
        await settle()
        assert first.task.done()
        assert second.task.cancelled()
        assert not second.entered

    run(scenario)


def test_a_closed_gate_refuses_newcomers_and_those_who_wait_but_not_what_is_in_flight() -> None:
    async def scenario(gate: Admission) -> None:
        inside = Holder(gate, 6, wait=True)
        waiting = Holder(gate, 6, wait=True)
        await settle()
        gate.close()
        for wait in (False, True):
            with pytest.raises(UnavailableError) as refused:
                await Holder(gate, 1, wait=wait).task
            assert refused.value.reason is Reason.DRAINING
        with pytest.raises(UnavailableError):
            await waiting.task
        await inside.release()

    run(scenario)


@pytest.mark.parametrize("going", [0, 1])
def test_closing_refuses_all_who_wait_and_holds_no_reader_up(going: int) -> None:
    async def scenario(gate: Admission) -> None:
        inside = Holder(gate, 6, wait=True)
        waiting = [Holder(gate, 6, wait=True) for _ in range(3)]
        reading = asyncio.create_task(gate.room())
        await settle()
        for each in waiting[:going]:
            each.task.cancel()  # in the same moment
        gate.close()
        await settle()
        assert reading.done()
        ends = await asyncio.gather(*(each.task for each in waiting), return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * going + [UnavailableError] * (3 - going)
        assert gate.in_flight == 6
        await inside.release()

    run(scenario)


def test_lone_requests_cannot_keep_a_waiting_piece_out_for_ever() -> None:
    async def scenario(gate: Admission) -> None:
        lone = [Holder(gate, 1) for _ in range(6)]
        await settle()
        piece = Holder(gate, 4, wait=True)
        await settle()
        for each in lone[:2]:
            assert not piece.entered
            await each.release()
            with pytest.raises(OverloadedError):
                await Holder(gate, 1).task
        await settle()
        assert piece.entered
        for each in (*lone[2:], piece):
            await each.release()

    run(scenario)


def test_closing_and_cancelling_a_waiting_piece_in_one_moment_gives_back_nothing_that_it_never_had() -> None:
    async def scenario(gate: Admission) -> None:
        inside = Holder(gate, 6, wait=True)
        waiting = Holder(gate, 6, wait=True)
        await settle()
        gate.close()
        waiting.task.cancel()
        await settle()
        assert gate.in_flight == 6
        await inside.release()

    run(scenario)


def test_a_stream_is_read_from_only_while_none_of_its_like_waits_for_room() -> None:
    async def scenario(gate: Admission) -> None:
        await gate.room()
        inside = Holder(gate, 6, wait=True)
        await settle()
        await gate.room()
        waiting = Holder(gate, 6, wait=True)
        reading = asyncio.create_task(gate.room())
        await settle()
        assert not reading.done()
        await inside.release()
        await settle()
        assert reading.done()
        await waiting.release()

    run(scenario)


def test_work_that_goes_on_in_a_thread_keeps_its_permit_though_its_caller_has_gone() -> None:
    async def scenario(gate: Admission) -> None:
        work: Future[None] = Future()
        async with gate.admit(load(1), wait=False):
            gate.keep_until_done(work, 5 * KB)
        assert gate.in_flight == 1
        work.set_result(None)
        await settle()

    run(scenario)


def test_bytes_are_bounded_as_images_are() -> None:
    async def scenario(gate: Admission) -> None:
        async with gate.admit(load(1, 6 * KB), wait=False):
            assert gate.bytes_in_flight == 6 * KB
            with pytest.raises(OverloadedError) as refused:
                async with gate.admit(load(1, 3 * KB), wait=False):
                    pass
            assert f"exceed 8 images or {8 * KB} bytes" in refused.value.message
            assert refused.value.retry_after == 0.5  # as long as one image takes, though none was too many
            async with gate.admit(load(1, 2 * KB), wait=False):
                pass

    run(scenario)


def test_a_stream_waits_for_room_for_its_bytes() -> None:
    async def scenario(gate: Admission) -> None:
        async with gate.admit(load(1, 3 * KB), wait=True):
            second = Holder(gate, 1, size=4 * KB, wait=True)
            await settle()
            assert not second.entered
        await settle()
        assert second.entered
        await second.release()

    run(scenario)


@pytest.mark.parametrize("kind", ["call", "stream"])
def test_there_are_no_more_calls_than_images_may_be_in_flight_nor_more_streams_than_are_allowed(kind: str) -> None:
    async def scenario(gate: Admission) -> None:
        enter = getattr(gate, kind)
        with contextlib.ExitStack() as calls:
            for number in range(8):
                calls.enter_context(enter(lane=f"lane {number}"))
            with pytest.raises(OverloadedError) as refused, enter():
                pass
            assert refused.value.reason is Reason.QUEUE_FULL
        with enter():
            pass

    run(scenario)


async def most_of(gate: Admission, lane: str) -> list[Holder]:
    """As many lone requests as the lane may have."""
    held: list[Holder] = []
    while True:
        holder = Holder(gate, 1, lane=lane)
        await settle()
        if not holder.entered:
            assert isinstance(holder.task.exception(), OverloadedError)
            return held
        held.append(holder)


def test_a_greedy_lane_leaves_an_eighth_and_two_leave_a_fifteenth() -> None:
    async def scenario(gate: Admission) -> None:
        first = await most_of(gate, "first")
        assert len(first) == 7 * 64 // 8
        second = await most_of(gate, "second")
        assert len(second) == 7
        # As the first one's are answered, the second comes by as many.
        for each in first[28:]:
            await each.release()
        second += await most_of(gate, "second")
        assert (len(first[:28]), len(second)) == (28, 32)
        third = await most_of(gate, "third")
        assert third
        for each in (*first[:28], *second, *third):
            await each.release()

    run(scenario, capacity=64)


def test_a_lane_whose_requests_are_answered_has_its_whole_share_again() -> None:
    async def scenario(gate: Admission) -> None:
        for _ in range(2):
            held = await most_of(gate, "greedy")
            assert len(held) == 7
            for each in held[:3]:
                await each.release()
            held[:3] = await most_of(gate, "greedy")
            assert len(held) == 7
            for each in held:
                await each.release()

    run(scenario)


def test_whoever_has_nothing_in_flight_is_refused_only_for_want_of_room() -> None:
    async def scenario(gate: Admission) -> None:
        greedy = await most_of(gate, "greedy")
        with pytest.raises(OverloadedError) as refused:
            await Holder(gate, 1, lane="greedy").task
        assert refused.value.reason is Reason.SHARE_FULL
        modest = Holder(gate, 8, lane="modest")
        await settle()
        assert modest.entered
        with pytest.raises(OverloadedError) as refused:
            await Holder(gate, 1, lane="late").task
        assert refused.value.reason is Reason.QUEUE_FULL
        for each in (*greedy, modest):
            await each.release()

    run(scenario, capacity=64)


@pytest.mark.parametrize("kind", ["call", "stream"])
def test_a_lane_s_calls_and_streams_leave_places_for_others_too(kind: str) -> None:
    async def scenario(gate: Admission) -> None:
        enter = getattr(gate, kind)
        with contextlib.ExitStack() as calls:
            for _ in range(7):
                calls.enter_context(enter(lane="greedy"))
            with pytest.raises(OverloadedError) as refused, enter(lane="greedy"):
                pass
            assert refused.value.reason is Reason.SHARE_FULL
            calls.enter_context(enter(lane="another"))

    run(scenario)


def test_places_that_are_left_are_free_for_the_same_lane() -> None:
    places = Places(8)
    for _ in range(2):
        with contextlib.ExitStack() as held:
            for number in range(7):
                assert (places.taken, places.of("a"), places.greedy("a")) == (number, number, False)
                held.enter_context(places.held("a"))
            assert (places.taken, places.of("a"), places.greedy("a")) == (7, 7, True)
            with places.held("b"):
                assert (places.taken, places.greedy("a"), places.greedy("c")) == (8, True, False)
                with places.held("b"):
                    assert places.of("b") == 2
                assert places.of("b") == 1
                with pytest.raises(RuntimeError), places.held("c"):
                    raise RuntimeError("the call failed")
            assert (places.taken, places.of("b"), places.of("c")) == (7, 0, 0)
    assert not places._of, "lanes that are gone are kept"
    only = Places(1)
    with only.held("a"):
        assert (only.greedy("a"), only.greedy("b")) == (True, False)


def test_the_bytes_that_came_are_counted_whether_they_were_let_in_or_not() -> None:
    async def scenario(gate: Admission) -> None:
        assert gate.bulk_capacity == Load(6, 6 * KB)
        assert gate.bytes_taken == 0
        for size, wait in ((5 * KB, False), (5 * KB, True), (9 * KB, False)):
            with contextlib.suppress(OverloadedError):
                async with gate.admit(load(1, size), wait=wait):
                    pass
        assert gate.bytes_taken == 19 * KB

    run(scenario)


def test_pieces_of_several_streams_get_their_permits_in_turn() -> None:
    async def scenario(gate: Admission) -> None:
        inside = Holder(gate, 6, wait=True, lane="bulk")
        many = [Holder(gate, 3, wait=True, lane="bulk") for _ in range(4)]
        one = Holder(gate, 3, wait=True, lane="another")
        await settle()
        await inside.release()
        await settle()
        assert [each.entered for each in (*many, one)] == [True, False, False, False, True]
        for each in (many[0], one, *many[1:]):
            await each.release()
            await settle()

    run(scenario)


def test_those_who_are_refused_are_told_to_come_back_one_after_the_other_as_fast_as_work_is_done() -> None:
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
def test_calls_and_streams_that_are_refused_are_told_to_come_back_one_after_the_other_too(kind: str, lane: str) -> None:
    async def scenario(gate: Admission) -> None:
        enter = getattr(gate, kind)
        with contextlib.ExitStack() as calls:
            for number in range(8):
                calls.enter_context(enter(lane="greedy" if number < 7 else "modest"))
                if number == 6 and lane == "greedy":  # it has its share, and there is room for another
                    break
            hints = []
            for _ in range(3):
                with pytest.raises(OverloadedError) as refused, enter(lane=lane):
                    pass
                hints.append(refused.value.retry_after)
            assert refused.value.reason is (Reason.SHARE_FULL if lane == "greedy" else Reason.QUEUE_FULL)
            assert hints == [0.5, 1.0, 1.5]

    run(scenario)


def test_a_call_is_refused_before_its_message_is_read_where_there_is_no_room_for_one_more_image() -> None:
    async def scenario(gate: Admission) -> None:
        with gate.call(lane="first"):
            inside = Holder(gate, 7, lane="first")
            await settle()
            for lane, reason in (("first", Reason.SHARE_FULL), ("second", None)):
                try:
                    with gate.call(lane=lane):
                        found = None
                except OverloadedError as error:
                    found = error.reason
                assert found is reason
            another = Holder(gate, 1, lane="second")
            await settle()
            with pytest.raises(OverloadedError) as refused, gate.call(lane="third"):
                pass
            assert refused.value.reason is Reason.QUEUE_FULL
            await another.release()
            await inside.release()

    run(scenario)
