"""Receiving messages: so many at once, each in so much time, so that memory is bounded while they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from server.errors import DeadlineExceededError, Reason

T = TypeVar("T")


class Uploads:
    """Turns at receiving a message. Lives on the event loop.

    It is for calls of one message. A stream may rightly be silent for hours, so its pieces take no turn and have no
    limit of time; what a stream holds while a piece comes is bounded for each stream, by the largest message.
    """

    def __init__(self, at_once: int, seconds: float) -> None:
        """Let `at_once` messages come at once, each for `seconds` from its turn on.

        One caller gets three quarters of the turns at most: who sends slowly, or nothing, cannot shut the others out.
        """
        self._free = at_once
        self._share = max(1, at_once * 3 // 4)
        self._seconds = seconds
        self._held: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        # When each message has to be there, the soonest first. One timer for all of them: nearly all are there at once,
        # and a timer of its own for each would be a good part of what a call costs.
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self, who: str, read: Callable[[], Awaitable[T]]) -> T:
        """Await what `read` reads for a caller, in its turn.

        Raises:
            DeadlineExceededError: expected; UPLOAD_TOO_SLOW.
        """
        if self._free and self._held.get(who, 0) < self._share:
            self._take(who)
        else:
            await self._turn(who)
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 - for mypy: a coroutine that runs is in a task
        self._ends[task] = end = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(end, self._end_late_ones)
        try:
            return await read()
        except asyncio.CancelledError:
            if task not in self._late or task.uncancel():
                raise  # by somebody else, or by them too
        finally:
            del self._ends[task]
            self._late.discard(task)
            self._give_back(who)
        raise DeadlineExceededError(
            f"The message did not arrive within {self._seconds:g} s of its turn. Send less at once, or over a faster "
            "connection.",
            reason=Reason.UPLOAD_TOO_SLOW,
        )

    def _end_late_ones(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, end in self._ends.items():
            if end > now:
                self._timer = loop.call_at(end, self._end_late_ones)
                return
            if task not in self._late:
                self._late.add(task)
                task.cancel()

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
        """Give free turns to those who hold the fewest, first come, first served within one caller."""
        while self._free and self._waiting:
            who = min(self._waiting, key=lambda each: self._held.get(each, 0))
            if self._held.get(who, 0) >= self._share:
                return
            turn = self._waiting[who][0]
            self._leave(who, turn)
            if not turn.done():
                self._take(who)
                turn.set_result(None)
