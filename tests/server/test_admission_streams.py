"""Permits for the pieces of streams, which wait for them in turn."""

from __future__ import annotations

import asyncio

import pytest

from glimpse.server.admission import Admission
from glimpse.server.errors import OverloadedError, Reason, UnavailableError
from glimpse.server.fair_queue import Lane
from glimpse.server.shares import Permits
from tests.server.permits import KB, Holder, run, settle


def test_a_stream_waits_for_room_in_the_order_of_arrival() -> None:
    async def scenario(gate: Admission) -> None:
        first = Holder(gate, 6, wait=True, lane="first")
        second = Holder(gate, 5, wait=True, lane="second")
        third = Holder(gate, 1, wait=True, lane="third")
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
        bulk = [Holder(gate, 2, wait=True, lane=str(number)) for number in range(4)]
        await settle()
        assert [each.entered for each in bulk] == [True, True, True, False]
        async with gate.admit(Permits(2), wait=False):
            assert gate.in_flight == 8
        for each in bulk:
            await each.release()

    run(scenario)


def test_a_waiting_stream_that_is_cancelled_lets_the_next_one_in() -> None:
    async def scenario(gate: Admission) -> None:
        first = Holder(gate, 4, wait=True, lane="first")
        large = Holder(gate, 6, wait=True, lane="large")
        small = Holder(gate, 1, wait=True, lane="small")
        await settle()
        assert not small.entered
        large.task.cancel()
        await settle()
        assert small.entered
        assert large.task.cancelled()
        await first.release()
        await small.release()

    run(scenario)


@pytest.mark.parametrize("second_lane", ["first", "second"])
def test_permits_of_a_piece_cancelled_in_the_same_moment_come_back(second_lane: str) -> None:
    async def scenario(gate: Admission) -> None:
        first = Holder(gate, 6, wait=True, lane="first")
        second = Holder(gate, 6, wait=True, lane=second_lane)
        await settle()
        first.let_go()  # when the first has had its turn, the second's permits are granted
        asyncio.get_running_loop().call_soon(second.task.cancel)  # before the second has had its own
        await settle()
        assert first.task.done()
        assert second.task.cancelled()
        assert not second.entered

    run(scenario)


@pytest.mark.parametrize("lane", ["", "another"])
def test_a_closed_gate_refuses_those_who_come_or_wait_but_ends_nothing(lane: str) -> None:
    async def scenario(gate: Admission) -> None:
        inside = Holder(gate, 6, wait=True)
        waiting = Holder(gate, 6, wait=True, lane=lane)
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
        piece = Holder(gate, 4, wait=True, lane="streams")
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


@pytest.mark.parametrize("lane", ["", "another"])
def test_closing_and_cancelling_in_one_moment_gives_back_nothing_more(lane: str) -> None:
    async def scenario(gate: Admission) -> None:
        inside = Holder(gate, 6, wait=True)
        waiting = Holder(gate, 6, wait=True, lane=lane)
        await settle()
        gate.close()
        waiting.task.cancel()
        await settle()
        assert gate.in_flight == 6
        await inside.release()

    run(scenario)


def test_a_stream_is_read_only_while_none_of_its_lane_waits_for_room() -> None:
    async def scenario(gate: Admission) -> None:
        await gate.room()
        inside = Holder(gate, 6, wait=True)
        await settle()
        await gate.room()
        waiting = Holder(gate, 6, wait=True)
        reading = [asyncio.create_task(gate.room()) for _ in range(2)]
        await settle()
        assert not any(each.done() for each in reading)
        await gate.room(Lane("", "another of the same party"))
        await gate.room(Lane("another"))
        reading[0].cancel()
        await inside.release()
        await settle()
        assert all(each.done() for each in reading)
        await waiting.release()

    run(scenario)


def test_a_stream_waits_for_room_for_its_bytes() -> None:
    async def scenario(gate: Admission) -> None:
        async with gate.admit(Permits(1, 3 * KB), wait=True):
            second = Holder(gate, 1, size=4 * KB, wait=True)
            await settle()
            assert not second.entered
        await settle()
        assert second.entered
        await second.release()

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


def test_pieces_of_a_greedy_party_leave_room_to_streams_of_others() -> None:
    """They wait without standing before the others' pieces, however many they are."""

    async def scenario(gate: Admission) -> None:
        greedy = [Holder(gate, 1, wait=True, lane=Lane("greedy", str(number))) for number in range(100)]
        await settle()
        had = sum(each.entered for each in greedy)
        assert had == 7 * 48 // 8
        modest = [Holder(gate, 1, wait=True, lane="modest") for _ in range(3)]
        await settle()
        assert all(each.entered for each in modest)
        for each in greedy[:had]:
            await each.release()
        await settle()
        assert [each.entered for each in greedy[had:]] == [True] * 39 + [False] * (100 - had - 39)  # 7 eighths of 45
        for each in (*greedy[had:], *modest):
            each.let_go()
        for each in (*greedy[had:], *modest):
            await each.task

    run(scenario, capacity=64)


def test_a_large_piece_of_a_greedy_party_does_not_hold_up_the_others() -> None:
    async def scenario(gate: Admission) -> None:
        greedy = [Holder(gate, 36, wait=True, lane="greedy") for _ in range(2)]
        await settle()
        assert [each.entered for each in greedy] == [True, False]
        modest = Holder(gate, 8, wait=True, lane="modest")
        await settle()
        assert modest.entered
        await greedy[0].release()
        await settle()
        assert greedy[1].entered
        await greedy[1].release()
        await modest.release()

    run(scenario, capacity=64)


def test_names_within_a_party_share_what_is_the_party_s_in_turn() -> None:
    async def scenario(gate: Admission) -> None:
        inside = Holder(gate, 42, wait=True, lane=Lane("party", "first"))
        first = [Holder(gate, 10, wait=True, lane=Lane("party", "first")) for _ in range(8)]
        second = Holder(gate, 10, wait=True, lane=Lane("party", "second"))
        await settle()
        await inside.release()
        await settle()
        assert [each.entered for each in first[:4]] == [True, True, True, False]
        assert second.entered
        for each in (*first, second):
            each.let_go()
        for each in (*first, second):
            await each.task

    run(scenario, capacity=64)


def test_a_piece_that_waits_does_not_keep_out_who_has_nothing_yet() -> None:
    """A piece for which streams have room, but lone requests leave none, has room reserved for it."""

    async def scenario(gate: Admission) -> None:
        lone = Holder(gate, 30, lane="first")
        piece = Holder(gate, 40, wait=True, lane="second")
        await settle()
        assert (lone.entered, piece.entered) == (True, False)
        modest = [Holder(gate, images, lane=str(images)) for images in (1, 4, 5)]
        await settle()
        assert [each.entered for each in modest] == [True, True, False]  # of up to a sixteenth of all
        assert isinstance(modest[2].task.exception(), OverloadedError)
        await lone.release()
        await settle()
        assert piece.entered
        for each in (piece, *modest[:2]):
            await each.release()

    run(scenario, capacity=64)


def test_nobody_has_room_reserved_beyond_a_party_s_share_of_all() -> None:
    """Else one could keep all others out with lone requests and a large piece that waits for their end."""

    async def scenario(gate: Admission) -> None:
        lone = Holder(gate, 20, lane="greedy")
        piece = Holder(gate, 45, wait=True, lane="greedy")
        await settle()
        assert (lone.entered, piece.entered) == (True, False)
        modest = [Holder(gate, 20, lane=lane) for lane in ("modest", "another")]
        await settle()
        assert all(each.entered for each in modest)
        for each in (*modest, lone):
            await each.release()
        await settle()
        assert piece.entered
        await piece.release()

    run(scenario, capacity=64)


def test_expensive_pieces_have_no_more_work_granted_than_cheap_ones() -> None:
    async def scenario(gate: Admission) -> None:
        inside = Holder(gate, 48, wait=True, lane="before")
        await settle()
        heavy = [Holder(gate, 1, work=6 * KB, wait=True, lane="heavy") for _ in range(20)]
        light = [Holder(gate, 1, work=KB, wait=True, lane="light") for _ in range(40)]
        await settle()
        await inside.release()
        await settle()
        assert sum(each.entered for each in heavy) == 4
        assert sum(each.entered for each in light) in range(19, 25)
        for each in (*heavy, *light):
            each.let_go()
        for each in (*heavy, *light):
            await each.task

    run(scenario, capacity=64)
