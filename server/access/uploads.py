"""Receiving lone messages: so many at once, each in so much time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from glimpse.server.access.receiving import Receiving
from glimpse.server.access.unfinished import Reading
from glimpse.server.errors import DeadlineExceededError, Reason

T = TypeVar("T")


class Uploads:
    """Turns at receiving a message. Lives on the event loop.

    It is for calls of one message. A stream may rightly be silent for hours, so its requests take no turn, and their
    time begins with their first bytes: see `Receiving.read`. What all of them hold of memory is bounded there, too.
    """

    def __init__(self, at_once: int, seconds: float, receiving: Receiving) -> None:
        """Let `at_once` messages come at once, each for `seconds` from its turn on.

        One caller gets three quarters of the turns at most, and the first few whether one is free or not: neither who
        sends slowly, or nothing, nor two or more of them can shut the others out. Several of these may share one
        `receiving`, the budget of bytes.
        """
        self._free = at_once
        self._share = max(1, at_once * 3 // 4)
        self._sure = max(1, at_once // 16)  # that a caller gets though all are taken; then fewer than none are free
        self._seconds = seconds
        self._receiving = receiving
        receiving.on_room(self._grant)
        self._held: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        # When each message has to be there, the soonest first. One timer for all of them: nearly all are there at once,
        # and a timer of its own for each would be a good part of what a call costs.
        self._ends: dict[Reading, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self, who: str, peer: str, read: Callable[[], Awaitable[T]]) -> T:
        """Await what `read` reads for a caller on the connection from `peer`, in its turn.

        Raises:
            DeadlineExceededError: expected; UPLOAD_TOO_SLOW.
            OverloadedError: expected; QUEUE_FULL, as it held more of the memory for messages than all others.
        """
        receiving = self._receiving
        if self._held.get(who, 0) < (self._share if self._free > 0 else self._sure) and not (
            receiving.tight and receiving.waits(who)
        ):
            self._take(who)
        else:
            await self._turn(who)
        reading, size = receiving.begin(who, peer), 0
        self._ends[reading] = end = reading.begun + self._seconds
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(end, self._end_late_ones)
        try:
            message = await read()
            if isinstance(message, bytes):
                size = len(message)
        except asyncio.CancelledError:
            if not reading.ended():
                raise  # by somebody else, or by them too
        else:
            return message
        finally:
            del self._ends[reading]
            receiving.end(reading, size)
            self._give_back(who)
        assert reading.refusal is not None  # noqa: S101 - for mypy: else it had been raised
        raise reading.refusal

    def _end_late_ones(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for reading, end in self._ends.items():
            if end > now:
                self._timer = loop.call_at(end, self._end_late_ones)
                return
            reading.end(
                DeadlineExceededError(
                    f"The message did not arrive within {self._seconds:g} s. Send a smaller message, or use a faster "
                    "connection.",
                    reason=Reason.UPLOAD_TOO_SLOW,
                )
            )

    async def _turn(self, who: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(who)  # its turn came as it went
            elif turn in self._waiting.get(who, ()):  # else it was passed over already
                self._leave(who, turn)
            raise

    def _leave(self, who: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting[who]
        queue.remove(turn)
        if not queue:
            del self._waiting[who]

    def _take(self, who: str) -> None:
        self._free -= 1
        self._held[who] = self._held.get(who, 0) + 1

    def _give_back(self, who: str) -> None:
        self._free += 1
        left = self._held.pop(who) - 1
        if left:
            self._held[who] = left
        if self._waiting:
            self._grant()

    def _grant(self) -> None:
        """Give turns to those who hold the fewest, first come, first served within one caller."""
        receiving = self._receiving
        while self._waiting:
            may = [who for who in self._waiting if not (receiving.tight and receiving.waits(who))]
            if not may:
                return
            who = min(may, key=lambda each: self._held.get(each, 0))
            if self._held.get(who, 0) >= (self._share if self._free > 0 else self._sure):
                return
            turn = self._waiting[who][0]
            self._leave(who, turn)
            if not turn.done():
                self._take(who)
                receiving.granted()
                turn.set_result(None)
