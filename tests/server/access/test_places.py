"""Places for calls that stay open: a newcomer gets one, however many the others hold."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Self

import pytest

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.places import Places
from glimpse.server.errors import OverloadedError, Reason


class Crowd:
    """Calls that hold places until they are told to leave."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.tasks: list[asyncio.Task[None]] = []
        self.leave = asyncio.Event()

    async def come(self, host: str, number: int = 1) -> list[CallContext]:
        calls = [CallContext("", "", f"ipv4:{host}:{port}") for port in range(number)]
        for call in calls:
            self.tasks.append(asyncio.create_task(self._stay(call)))
        await asyncio.sleep(0)
        return calls

    async def _stay(self, call: CallContext) -> None:
        with self._places.hold(call):
            await self.leave.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self._places.taken == 0
        assert not self._places._of


def ended(calls: list[CallContext]) -> int:
    return sum(call.ended is not None for call in calls)


def refusals(crowd: Crowd) -> list[Reason]:
    failed = [task.exception() for task in crowd.tasks if task.done() and not task.cancelled()]
    return [error.reason for error in failed if isinstance(error, OverloadedError)]


def test_who_comes_last_gets_a_place_of_whoever_has_most() -> None:
    async def scenario() -> None:
        async with Crowd(Places("watches", 10, 10)) as crowd:
            greedy, modest = await crowd.come("192.0.2.1", 7), await crowd.come("192.0.2.2", 3)
            late = await crowd.come("192.0.2.3", 3)
            assert [ended(each) for each in (greedy, modest, late)] == [3, 0, 0]
            assert [call.ended is not None for call in greedy] == [True] * 3 + [False] * 4, "the oldest first"
            assert refusals(crowd) == []

    asyncio.run(scenario())


def test_who_has_as_many_as_the_others_is_refused_where_all_are_taken() -> None:
    async def scenario() -> None:
        async with Crowd(Places("watches", 4, 4)) as crowd:
            calls = [await crowd.come(f"192.0.2.{number}", 2) for number in (1, 2)]
            calls.append(await crowd.come("192.0.2.1"))
            calls.append(await crowd.come("192.0.2.3"))
            calls.append(await crowd.come("192.0.2.3"))
            assert [ended(each) for each in calls] == [1, 0, 0, 0, 0]
            assert refusals(crowd) == [Reason.QUEUE_FULL] * 2

    asyncio.run(scenario())


def test_one_party_has_no_more_places_than_it_may() -> None:
    async def scenario() -> None:
        async with Crowd(Places("watches", 10, 3)) as crowd:
            assert ended(await crowd.come("192.0.2.1", 5)) == 0
            assert refusals(crowd) == [Reason.SHARE_FULL] * 2

    asyncio.run(scenario())


def test_a_place_that_was_given_up_is_not_given_back_twice() -> None:
    async def scenario() -> None:
        places = Places("watches", 2, 2)
        async with AsyncExitStack() as stack:
            crowd = await stack.enter_async_context(Crowd(places))
            (first, _), (late,) = await crowd.come("192.0.2.1", 2), await crowd.come("192.0.2.2")
            await asyncio.gather(*crowd.tasks[:1], return_exceptions=True)
            assert (first.ended is None, late.ended is None, places.taken) == (False, True, 2)

    asyncio.run(scenario())


def test_a_party_of_one_never_ends_its_own_calls() -> None:
    async def scenario() -> None:
        async with Crowd(Places("checks", 3, 3)) as crowd:
            assert ended(await crowd.come("192.0.2.1", 3)) == 0
            with pytest.raises(OverloadedError) as refused, crowd._places.hold(CallContext("", "", "ipv4:192.0.2.1:9")):
                pass
            assert refused.value.retry_after

    asyncio.run(scenario())
