"""So many messages at once, each in so much time from its turn on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from glimpse.server.access.receiving import Receiving
from glimpse.server.access.uploads import Uploads
from glimpse.server.errors import DeadlineExceededError, Reason

_PEER = "ipv4:192.0.2.1:40000"
_PLENTY = 1 << 40  # bytes: nobody waits for memory


def uploads_of(at_once: int, seconds: float) -> Uploads:
    """So many at once, with all the memory that they can take."""
    return Uploads(at_once, seconds, Receiving(_PLENTY, 1 << 20, seconds))


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
    uploads = uploads_of(4, 30)
    senders = [Sender() for _ in range(6)]
    who = ["a", "a", "b", "b", "b", "a"]
    calls = [asyncio.create_task(uploads.receive(w, _PEER, each.read)) for w, each in zip(who, senders, strict=True)]
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
    time, uploads = Time(), uploads_of(1, 30)
    silent, patient = Sender(), Sender()
    first = asyncio.create_task(uploads.receive("a", _PEER, silent.read))
    second = asyncio.create_task(uploads.receive("a", _PEER, patient.read))
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
    uploads = uploads_of(4, 30)
    greedy = [Sender() for _ in range(10)]
    taken = [asyncio.create_task(uploads.receive("greedy", _PEER, each.read)) for each in greedy]
    await turns()
    assert sum(each.asked for each in greedy) == 3
    other = Sender()
    call = asyncio.create_task(uploads.receive("other", _PEER, other.read))
    await turns()
    assert other.asked
    other.message.set_result("in")
    assert await call == "in"
    await turns()
    assert sum(each.asked for each in greedy) == 3
    for each in taken:
        each.cancel()


@runs
async def test_many_who_say_nothing_keep_nobody_else_from_sending() -> None:
    """Each within their share, all turns taken: who has none gets a few, and then waits as they do."""
    uploads = uploads_of(64, 30)
    silent = [asyncio.create_task(uploads.receive(f"silent {n % 3}", _PEER, Sender().read)) for n in range(180)]
    await turns()
    senders = [Sender() for _ in range(6)]
    calls = [asyncio.create_task(uploads.receive("honest", _PEER, each.read)) for each in senders]
    await turns()
    assert [each.asked for each in senders] == [True] * 4 + [False] * 2
    senders[0].message.set_result("in")
    await turns()
    assert [each.asked for each in senders] == [True] * 5 + [False]
    for each in (*silent, *calls):
        each.cancel()


@runs
async def test_a_turn_goes_to_whom_has_fewest() -> None:
    uploads = uploads_of(2, 30)
    holding = [Sender(), Sender()]
    held = [
        asyncio.create_task(uploads.receive(who, _PEER, each.read)) for who, each in zip("ab", holding, strict=True)
    ]
    await turns()
    again, new = Sender(), Sender()
    waiting = [
        asyncio.create_task(uploads.receive("a", _PEER, again.read)),
        asyncio.create_task(uploads.receive("c", _PEER, new.read)),
    ]
    await turns()
    holding[1].message.set_result("b has sent")
    await turns()
    assert (again.asked, new.asked) == (False, True)
    for each in (*held, *waiting):
        each.cancel()


@runs
async def test_who_leaves_while_waiting_or_receiving_holds_nothing() -> None:
    uploads = uploads_of(1, 30)
    for order in (1, -1):  # whoever holds the turn first, or last
        calls = [asyncio.create_task(uploads.receive("a", _PEER, Sender().read)) for _ in range(5)]
        await turns()
        for call in calls[::order]:
            call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * 5
    # Leaving in the very moment in which the turn comes.
    first, second = Sender(), Sender()
    receiving = asyncio.create_task(uploads.receive("a", _PEER, first.read))
    waiting = asyncio.create_task(uploads.receive("a", _PEER, second.read))
    await turns()
    first.message.set_result("whole")
    asyncio.get_running_loop().call_soon(waiting.cancel)
    assert await receiving == "whole"
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert not second.asked
    last = Sender()
    last.message.set_result("there is a turn")
    assert await uploads.receive("c", _PEER, last.read) == "there is a turn"
    assert not uploads._held
    assert not uploads._waiting


@runs
async def test_of_two_turns_one_caller_has_one() -> None:
    uploads = uploads_of(2, 30)
    greedy = [Sender(), Sender()]
    calls = [asyncio.create_task(uploads.receive("greedy", _PEER, each.read)) for each in greedy]
    await turns()
    assert [each.asked for each in greedy] == [True, False]
    for each in calls:
        each.cancel()


@runs
async def test_each_message_has_its_own_time_from_its_own_turn() -> None:
    time, uploads = Time(), uploads_of(4, 30.05)
    calls = []
    for who in "abc":
        calls.append(asyncio.create_task(uploads.receive(who, _PEER, Sender().read)))
        await turns()
        await time.passes(10)
    for given_up in range(3):
        assert [call.done() for call in calls] == [number < given_up for number in range(3)]
        await time.passes(0.1)
        await turns()
        assert [call.done() for call in calls] == [number <= given_up for number in range(3)]
        await time.passes(9.9)
    # One more, when there was nobody left to wait for.
    calls.append(asyncio.create_task(uploads.receive("d", _PEER, Sender().read)))
    await turns()
    await time.passes(30.1)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [DeadlineExceededError] * 4
    assert not uploads._ends
    assert not uploads._receiving._unfinished


@runs
async def test_messages_that_come_together_share_one_timer() -> None:
    loop, uploads, timers = asyncio.get_running_loop(), uploads_of(8, 30), []
    call_at = loop.call_at

    def counted(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(arguments)
        return call_at(*arguments, **options)

    loop.call_at = counted  # type: ignore[assignment,method-assign]
    senders = [Sender() for _ in range(5)]
    calls = [asyncio.create_task(uploads.receive(str(n), _PEER, each.read)) for n, each in enumerate(senders)]
    await turns()
    for each in senders:
        each.message.set_result("whole")
    assert await asyncio.gather(*calls) == ["whole"] * 5
    assert len(timers) == 2  # that for their time, and that for their bytes


@runs
async def test_who_goes_in_the_moment_in_which_it_is_given_up_has_gone() -> None:
    time, uploads = Time(), uploads_of(1, 30)
    call = asyncio.create_task(uploads.receive("a", _PEER, Sender().read))
    await turns()
    time.now += 30.1
    uploads._end_late_ones()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


@runs
async def test_who_is_given_up_and_takes_long_to_end_is_told_all_the_same() -> None:
    time, uploads, over = Time(), uploads_of(4, 30), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await over.wait()

    slow = asyncio.create_task(uploads.receive("slow", _PEER, slow_to_end))
    await turns()
    await time.passes(10)
    other = asyncio.create_task(uploads.receive("other", _PEER, Sender().read))
    await turns()
    for seconds in (20.1, 10):  # the first is late, then the other; the first has not ended yet
        await time.passes(seconds)
        await turns()
    assert (slow.done(), other.done()) == (False, True)
    over.set()
    for call in (slow, other):
        with pytest.raises(DeadlineExceededError):
            await call


@runs
async def test_a_caller_that_was_given_up_may_try_again_and_is_given_up_again() -> None:
    time, uploads = Time(), uploads_of(1, 30)

    async def twice() -> list[Reason]:
        ends = []
        for _ in range(2):
            with pytest.raises(DeadlineExceededError) as refused:
                await uploads.receive("a", _PEER, Sender().read)
            ends.append(refused.value.reason)
        return ends

    call = asyncio.create_task(twice())
    await turns()
    for _ in range(2):
        await time.passes(30.1)
        await turns()
    assert await call == [Reason.UPLOAD_TOO_SLOW] * 2


@runs
async def test_a_caller_s_messages_come_in_their_order_and_never_more_than_its_share() -> None:
    uploads = uploads_of(4, 30)
    senders = [Sender() for _ in range(8)]
    calls = [asyncio.create_task(uploads.receive("a", _PEER, each.read)) for each in senders]
    await turns()
    for ended in range(8):
        assert [each.asked for each in senders] == [number < ended + 3 for number in range(8)]
        senders[ended].message.set_result("whole")
        assert await calls[ended] == "whole"
        await turns()
    # All turns are free again.
    others = [Sender() for _ in range(5)]
    who = "bbcbc"
    calls = [asyncio.create_task(uploads.receive(w, _PEER, each.read)) for w, each in zip(who, others, strict=True)]
    await turns()
    assert [each.asked for each in others] == [True] * 4 + [False]
    for call in calls:
        call.cancel()


@runs
async def test_who_leaves_the_line_is_forgotten_and_those_behind_keep_their_places() -> None:
    """Who leaves the line is forgotten at once, and those behind keep their places."""
    uploads = uploads_of(1, 30)
    senders = {name: Sender() for name in ("holder", "leaves", "stays")}
    calls = {name: asyncio.create_task(uploads.receive("a", _PEER, each.read)) for name, each in senders.items()}
    alone = asyncio.create_task(uploads.receive("b", _PEER, Sender().read))
    await turns()
    calls["leaves"].cancel()
    alone.cancel()
    await turns()
    assert {who: len(line) for who, line in uploads._waiting.items()} == {"a": 1}
    senders["holder"].message.set_result("whole")
    await turns()
    assert (senders["leaves"].asked, senders["stays"].asked) == (False, True)
    calls["stays"].cancel()


@runs
async def test_a_turn_that_comes_as_its_caller_goes_is_the_next_one_s() -> None:
    uploads = uploads_of(1, 30)
    holder, leaves, stays = Sender(), Sender(), Sender()
    holding, leaving, staying = (
        asyncio.create_task(uploads.receive(who, _PEER, each.read))
        for who, each in zip("aaa", (holder, leaves, stays), strict=True)
    )
    await turns()
    holder.message.set_result("whole")
    leaving.cancel()
    await turns()
    assert holding.done()
    assert (leaves.asked, stays.asked) == (False, True)
    staying.cancel()
