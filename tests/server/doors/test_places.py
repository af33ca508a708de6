"""Places for calls that stay open: a newcomer gets one, however many the others hold."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Self

import pytest

from glimpse.server.doors.places import Places
from glimpse.server.doors.visit import Visit
from glimpse.server.errors import OverloadedError, Reason


class Crowd:
    """Calls that hold places until they are told to leave."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.tasks: list[asyncio.Task[None]] = []
        self.leave = asyncio.Event()

    async def come(self, host: str, number: int = 1) -> list[Visit]:
        visits = [Visit("", "", f"ipv4:{host}:{port}") for port in range(number)]
        for visit in visits:
            self.tasks.append(asyncio.create_task(self._stay(visit)))
        await asyncio.sleep(0)
        return visits

    async def _stay(self, visit: Visit) -> None:
        with self._places.held(visit):
            await self.leave.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self._places.taken == 0
        assert not self._places._of


def ended(visits: list[Visit]) -> int:
    return sum(visit.ended is not None for visit in visits)


def refusals(crowd: Crowd) -> list[Reason]:
    failed = [task.exception() for task in crowd.tasks if task.done() and not task.cancelled()]
    return [error.reason for error in failed if isinstance(error, OverloadedError)]


def test_who_comes_last_gets_a_place_of_whoever_has_most() -> None:
    async def scenario() -> None:
        async with Crowd(Places("watches", 10, 10)) as crowd:
            greedy, modest = await crowd.come("192.0.2.1", 7), await crowd.come("192.0.2.2", 3)
            late = await crowd.come("192.0.2.3", 3)
            assert [ended(each) for each in (greedy, modest, late)] == [3, 0, 0]
            assert [visit.ended is not None for visit in greedy] == [True] * 3 + [False] * 4, "the oldest first"
            assert refusals(crowd) == []

    asyncio.run(scenario())


def test_who_has_as_many_as_the_others_is_refused_where_all_are_taken() -> None:
    async def scenario() -> None:
        async with Crowd(Places("watches", 4, 4)) as crowd:
            visits = [await crowd.come(f"192.0.2.{number}", 2) for number in (1, 2)]
            visits.append(await crowd.come("192.0.2.1"))
            visits.append(await crowd.come("192.0.2.3"))
            visits.append(await crowd.come("192.0.2.3"))
            assert [ended(each) for each in visits] == [1, 0, 0, 0, 0]
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
            with pytest.raises(OverloadedError) as refused, crowd._places.held(Visit("", "", "ipv4:192.0.2.1:9")):
                pass
            assert refused.value.retry_after

    asyncio.run(scenario())
