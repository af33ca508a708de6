"""So many messages at once, each in so much time from its turn on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from server.doors.uploads import Uploads
from server.errors import DeadlineExceededError, Reason


class Sender:
    """Sends its message when told to."""

    def __init__(self) -> None:
        self.message: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.asked = False

    def read(self) -> Awaitable[str]:
        self.asked = True
        return self.message


class Time:
    """The event loop's clock, which stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0
        asyncio.get_running_loop().time = lambda: self.now  # type: ignore[method-assign]

    async def passes(self, seconds: float) -> None:
        self.now += seconds
        await turns()


async def turns() -> None:
    """Let everybody do what they can do now."""
    for _ in range(10):
        await asyncio.sleep(0)


def runs(scenario: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        asyncio.run(scenario())

    test.__name__ = scenario.__name__
    return test


@runs
async def test_no_more_messages_come_at_once_than_may() -> None:
    uploads = Uploads(4, 30)
    senders = [Sender() for _ in range(6)]
    calls = [asyncio.create_task(uploads.receive(f"caller {n}", each.read)) for n, each in enumerate(senders)]
    await turns()
    assert [each.asked for each in senders] == [True] * 4 + [False] * 2
    senders[2].message.set_result("whole")
    assert await calls[2] == "whole"
    await turns()
    assert [each.asked for each in senders] == [True] * 5 + [False]
    for each in senders:
        if not each.message.done():
            each.message.set_result("too")
    assert await asyncio.gather(*calls) == ["too", "too", "whole", "too", "too", "too"]


@runs
async def test_who_sends_nothing_is_given_up_and_the_next_has_all_its_time() -> None:
    time, uploads = Time(), Uploads(1, 30)
    silent, patient = Sender(), Sender()
    first = asyncio.create_task(uploads.receive("silent", silent.read))
    second = asyncio.create_task(uploads.receive("patient", patient.read))
    await turns()
    await time.passes(29.9)
    assert not first.done()
    await time.passes(0.2)
    with pytest.raises(DeadlineExceededError, match="did not arrive within 30 s") as refused:
        await first
    assert refused.value.reason is Reason.UPLOAD_TOO_SLOW
    await turns()
    assert patient.asked
    await time.passes(29.9)
    patient.message.set_result("late, but not in its own time")
    assert await second == "late, but not in its own time"


@runs
async def test_one_caller_never_has_all_turns() -> None:
    uploads = Uploads(4, 30)
    greedy = [Sender() for _ in range(10)]
    taken = [asyncio.create_task(uploads.receive("greedy", each.read)) for each in greedy]
    await turns()
    assert sum(each.asked for each in greedy) == 3
    other = Sender()
    call = asyncio.create_task(uploads.receive("other", other.read))
    await turns()
    assert other.asked
    other.message.set_result("in")
    assert await call == "in"
    await turns()
    assert sum(each.asked for each in greedy) == 3
    for each in taken:
        each.cancel()


@runs
async def test_a_turn_goes_to_whom_has_fewest() -> None:
    uploads = Uploads(2, 30)
    holding = [Sender(), Sender()]
    held = [asyncio.create_task(uploads.receive(who, each.read)) for who, each in zip("ab", holding, strict=True)]
    await turns()
    again, new = Sender(), Sender()
    waiting = [
        asyncio.create_task(uploads.receive("a", again.read)),
        asyncio.create_task(uploads.receive("c", new.read)),
    ]
    await turns()
    holding[1].message.set_result("b has sent")
    await turns()
    assert (again.asked, new.asked) == (False, True)
    for each in (*held, *waiting):
        each.cancel()


@runs
async def test_who_leaves_while_waiting_or_receiving_holds_nothing() -> None:
    uploads = Uploads(1, 30)
    for order in (1, -1):  # whoever holds the turn first, or last
        calls = [asyncio.create_task(uploads.receive("a", Sender().read)) for _ in range(5)]
        await turns()
        for call in calls[::order]:
            call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * 5
    # Leaving in the very moment in which the turn comes.
    first, second = Sender(), Sender()
    receiving = asyncio.create_task(uploads.receive("a", first.read))
    waiting = asyncio.create_task(uploads.receive("b", second.read))
    await turns()
    first.message.set_result("whole")
    asyncio.get_running_loop().call_soon(waiting.cancel)
    assert await receiving == "whole"
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert not second.asked
    last = Sender()
    last.message.set_result("there is a turn")
    assert await uploads.receive("c", last.read) == "there is a turn"
    assert not uploads._held
    assert not uploads._waiting
