"""Receiving the short messages of calls that anybody may make: few at once, each in little time.

gRPC has one limit for the messages of all methods, 16 MiB by default, and tells the length of a message only when it is
complete. So the memory that strangers can take is bounded by that limit times the messages that are received at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from glimpse.server.access.call_context import CallContext
from glimpse.server.errors import DeadlineExceededError, Reason

_LOOK_SECONDS = 0.05  # from one look for those who take too long to the next, while anybody takes that long


class ShortMessages:
    """Turns at receiving one. Lives on the event loop.

    Parties take turns, and within a party the newest call is first: where many of its calls send no message, the newest
    is the most likely to have one.
    """

    def __init__(self, at_once: int, seconds: float, seconds_if_others_wait: float) -> None:
        """Receive `at_once`, each for `seconds` from its turn on; for less as long as others wait for a turn."""
        self._free = at_once
        self._seconds = seconds
        self._short = seconds_if_others_wait
        self._waiting: OrderedDict[str, list[asyncio.Future[None]]] = OrderedDict()  # by party
        self._since: dict[int, tuple[CallContext, float]] = {}  # whose turn it is, by the call's id, and since when
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self, call: CallContext, read: Callable[[], Awaitable[Any]]) -> Any:
        """Await what `read` reads for a call, in its turn. One that takes too long is ended with UPLOAD_TOO_SLOW."""
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_SECONDS, self._look)
        if self._free:
            self._free -= 1
        else:
            await self._turn(call.who)
        self._since[id(call)] = (call, loop.time())
        try:
            return await read()
        finally:
            del self._since[id(call)]
            self._give_back()

    async def _turn(self, who: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, []).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                queue = self._waiting.get(who, [])
                if turn in queue:
                    queue.remove(turn)
                    if not queue:
                        del self._waiting[who]
            else:
                self._give_back()  # its turn came as it went
            raise

    def _give_back(self) -> None:
        """Give the turn to the party that has had none for longest."""
        while self._waiting:
            who, queue = next(iter(self._waiting.items()))
            turn = queue.pop()
            if queue:
                self._waiting.move_to_end(who)
            else:
                del self._waiting[who]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _look(self) -> None:
        """End those who have had their turn for too long."""
        self._timer = None
        if not self._since:
            return
        loop = asyncio.get_running_loop()
        seconds = self._short if self._waiting else self._seconds
        for call, since in list(self._since.values()):
            if loop.time() - since >= seconds:
                call.end(
                    DeadlineExceededError(
                        f"The message did not arrive within {seconds:g} s. Send it together with the call.",
                        reason=Reason.UPLOAD_TOO_SLOW,
                    )
                )
        self._timer = loop.call_later(_LOOK_SECONDS, self._look)
