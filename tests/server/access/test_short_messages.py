"""Turns at sending a short message: who says nothing is passed over soon, and the newest of a party comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.short_messages import ShortMessages
from glimpse.server.errors import Reason


class Sender:
    """A call whose message comes when told to."""

    def __init__(self, messages: ShortMessages, host: str) -> None:
        self.message: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.asked = False
        self.call = CallContext("", "", f"ipv4:{host}:1")
        self.task = asyncio.create_task(self._call(messages))

    async def _call(self, messages: ShortMessages) -> bytes:
        self.call.task = asyncio.current_task()
        return bytes(await messages.receive(self.call, self._read))

    def _read(self) -> Awaitable[bytes]:
        self.asked = True
        return self.message


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def end(senders: list[Sender], messages: ShortMessages) -> None:
    for each in senders:
        each.task.cancel()
    await asyncio.gather(*(each.task for each in senders), return_exceptions=True)
    assert (messages._free, len(messages._waiting), len(messages._since)) == (2, 0, 0)


def test_parties_take_turns_and_the_newest_of_a_party_is_first() -> None:
    async def scenario() -> None:
        messages = ShortMessages(2, 60.0, 60.0)
        silent = [Sender(messages, "192.0.2.1") for _ in range(6)]
        await turns()
        assert [each.asked for each in silent] == [True] * 2 + [False] * 4
        other, newest = Sender(messages, "192.0.2.2"), Sender(messages, "192.0.2.1")
        await turns()
        silent[0].message.set_result(b"at last")
        await turns()
        assert (newest.asked, other.asked) == (True, False)
        silent[1].message.set_result(b"at last")
        await turns()
        assert (other.asked, sum(each.asked for each in silent)) == (True, 2)
        await end([*silent, other, newest], messages)

    asyncio.run(scenario())


def test_who_says_nothing_makes_room_as_soon_as_others_wait() -> None:
    async def scenario() -> None:
        messages = ShortMessages(2, 3600.0, 0.0)
        silent = [Sender(messages, "192.0.2.1") for _ in range(2)]
        await asyncio.sleep(0.2)
        assert [each.call.ended for each in silent] == [None, None], "nobody waits"
        late = Sender(messages, "192.0.2.2")
        await asyncio.wait([each.task for each in silent], timeout=30)
        assert [each.call.ended and each.call.ended.reason for each in silent] == [Reason.UPLOAD_TOO_SLOW] * 2
        late.message.set_result(b"here")
        assert await late.task == b"here"
        await end(silent, messages)

    asyncio.run(scenario())


def test_a_silent_call_is_ended_after_its_time_though_nobody_waits() -> None:
    async def scenario() -> None:
        messages = ShortMessages(2, 0.01, 0.0)
        alone = Sender(messages, "192.0.2.1")
        await asyncio.wait([alone.task], timeout=30)
        assert alone.call.ended is not None
        assert "within 0.01 s" in alone.call.ended.message
        await end([alone], messages)

    asyncio.run(scenario())


def test_who_leaves_while_waiting_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        messages = ShortMessages(2, 60.0, 60.0)
        senders = [Sender(messages, f"192.0.2.{number % 3}") for number in range(9)]
        await turns()
        for each in senders[3:7]:
            each.task.cancel()
        # One whose turn has come and who leaves before it knows.
        senders[0].message.set_result(b"x")
        await asyncio.sleep(0)
        senders[8].task.cancel()
        await turns()
        await end(senders, messages)

    asyncio.run(scenario())
