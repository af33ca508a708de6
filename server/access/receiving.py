"""A memory budget for messages that are being received; each counts from its first byte.

Above the budget, no message is begun for a caller who holds their share of it. Well above it, messages of those who
hold the most are refused. Who holds what is estimated (see `server/access/unfinished.py`) from the bytes that each
connection has received; but frames of a few bytes take more than twice their size in memory. So the estimate is
compared with the resident memory of the process: the messages hold no more than is resident, and more than estimated
where more is resident than all else accounts for.

Nobody waits as long as all pending reads together could not fill the budget with messages of the largest size.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog

from glimpse.server.access.unfinished import Reading, Unfinished
from glimpse.server.errors import DeadlineExceededError, OverloadedError, Reason
from glimpse.server.machine.memory import Memory

_log = structlog.get_logger(__name__)

Received = Callable[[Iterable[str]], dict[str, int]]  # bytes on the connections of peers, of those that are known

_NEAR = 0.02  # seconds between two looks, while the budget is more than half full
_OFTEN = 0.05  # while the pending reads could fill it
_SELDOM = 0.25  # otherwise; a read that ends before is never looked at
_MARGIN = 48 << 20  # bytes of resident memory that nothing accounts for, and that are no alarm yet
# A read on whose connection no more than this has come may have received only pings and window updates of HTTP/2.
_SILENT = 64 << 10  # bytes
_BUFFERS = 8  # one part in so many, which gRPC's buffers take besides what is in them
_FACTOR = 3.0  # bytes allocated for one received, at most: frames of 24 bytes take two and a half
_CLOSER = 0.1  # seconds between two looks at what is allocated, a millisecond or two each
_GROWN = 4 << 20  # bytes of resident memory; below, connections need no look
_RETRY = 1.0  # seconds until whoever was ended may come back


def _unknown(_: Iterable[str]) -> dict[str, int]:
    return {}


class Receiving:
    """The budget, and who waits for it. Lives on the event loop."""

    def __init__(self, most: int, largest: int, seconds: float) -> None:
        """Let unfinished messages hold `most` bytes together; none is larger than `largest`.

        A request of a stream may take `seconds` from its first bytes on; a stream may be silent as long as it likes.
        """
        self._most, self._largest, self._seconds = most, largest, seconds
        self._few = most // largest  # messages that fit, however large they are
        self._unfinished = Unfinished(largest)
        self._memory: Memory | None = None
        self._received: Received = _unknown
        self._besides: Callable[[], int] = lambda: 0
        self._granted: list[Callable[[], None]] = []
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._often = False
        self._looked = self._looked_at = 0.0  # time of the last look, and resident memory then
        self._typical = float(1 << 16)  # bytes of a message, on average of the last few
        self._total = 0.0  # bytes by the last look, as estimated
        self._factor, self._factor_at = 1.0, -math.inf  # of the estimate to what is allocated, and when that was found
        # By the last look. `tight`: whether anybody may have to wait, which is to be asked before `waits`.
        self.tight = False
        self._left = math.inf  # bytes that may be begun until the next one
        self._held: dict[str, float] = {}
        self._share = math.inf  # bytes from which on somebody waits

    @property
    def held(self) -> float:
        """Bytes that unfinished messages hold, by the last look; 0 where there was no need to look."""
        return sum(self._held.values())

    def follow(
        self,
        *,
        received: Received | None = None,
        memory: Memory | None = None,
        besides: Callable[[], int] | None = None,
    ) -> None:
        """Learn more: what connections received, what is resident, and what is held besides.

        `besides`: bytes of whole messages that count here, because nothing else counts them yet.
        """
        self._received = received or self._received
        self._memory = memory or self._memory
        self._besides = besides or self._besides

    def on_room(self, grant: Callable[[], None]) -> None:
        """Call `grant` whenever somebody who had to wait may no longer have to."""
        self._granted.append(grant)

    def waits(self, who: str) -> bool:
        """Whether `who` must not begin to read another message now."""
        return self._left <= 0 and self._held.get(who, 0.0) >= self._share

    def granted(self) -> None:
        """Somebody who had to wait begins to read in a moment."""
        self._left -= self._typical

    async def room(self, who: str) -> None:
        """Wait until `who` may begin to read."""
        while self.tight and self.waits(who):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[turn] = who
            try:
                await turn
            finally:
                self._waiting.pop(turn, None)

    def begin(self, who: str, peer: str, *, stream: bool = False) -> Reading:
        """The running task begins to read a message. To be ended by `end`, however the read ends."""
        loop = asyncio.get_running_loop()
        reading = Reading(who, peer, asyncio.current_task(loop), loop.time(), stream=stream)
        self._unfinished.begin(reading)
        self._left -= self._typical
        if self._timer is None:
            self._timer = loop.call_later(_SELDOM, self._look)
        if not self._often and len(self._unfinished.readings) > self._few:
            self._often = True
            self._timer.cancel()
            self._timer = loop.call_later(_OFTEN, self._look)
        return reading

    def end(self, reading: Reading, size: int) -> None:
        """The read has ended, with a message of so many bytes or, 0, without one."""
        self._unfinished.end(reading, size)
        if size:
            self._typical += (size - self._typical) / 16

    async def read(self, who: str, peer: str, read: Callable[[], Awaitable[Any]]) -> Any:
        """The next message of a stream, which `read` reads, in its turn; anything but bytes is the end of it.

        Raises:
            DeadlineExceededError: expected; UPLOAD_TOO_SLOW.
            OverloadedError: expected; QUEUE_FULL.
        """
        if self.tight:
            await self.room(who)
        reading, size = self.begin(who, peer, stream=True), 0
        try:
            message = await read()
            if isinstance(message, bytes):
                size = len(message)
        except asyncio.CancelledError:
            if not reading.ended():
                raise
        else:
            return message
        finally:
            self.end(reading, size)
        assert reading.refusal is not None  # noqa: S101 - for mypy: else it had been raised
        raise reading.refusal

    def _look(self) -> None:
        loop, unfinished = asyncio.get_running_loop(), self._unfinished
        self._timer, now = None, loop.time()
        self._often = len(unfinished) > self._few
        beyond = None if self._memory is None else self._memory.beyond()
        if self._needs_look(now, beyond):
            self._looked, self._looked_at = now, beyond or 0
            self._reckon(now, beyond)
            self._end_slow_ones(now)
        elif not self._often:
            self._held = {}
        if unfinished.readings or self._waiting or self.tight:
            self._timer = loop.call_later(_NEAR if self.tight else _OFTEN if self._often else _SELDOM, self._look)

    def _needs_look(self, now: float, beyond: int | None) -> bool:
        if self._memory is not None and beyond is None:
            # Not Linux: neither connections nor memory can be looked at. Idle streams must not count as full ones.
            return False
        if self.tight or (self._often and (beyond is None or beyond - self._looked_at > _GROWN)):
            return True
        first = next(iter(self._unfinished.readings), None)
        return first is not None and now - first.begun > _SELDOM and now - self._looked > _SELDOM * 0.9

    def _reckon(self, now: float, beyond: int | None) -> None:
        """Find out what is held, by whom, and what follows from that."""
        unfinished = self._unfinished
        peers = {reading.peer for reading in unfinished.readings}
        estimate = unfinished.look(self._received(peers) if peers else {})
        total = resident = estimate + self._besides()
        # What will have come by the next look, if it goes on as since the last one, and before those ended have ended.
        coming = 2 * max(0.0, total - self._total)
        self._total = total
        if self._memory is not None and beyond is not None:
            total = min(self._corrected(now, self._memory, beyond, total), max(0, beyond))
            # What is free and has not been given back is no reason to end anything, but one to begin nothing.
            resident = max(total, beyond - self._memory.in_use() - _MARGIN)
        self._attribute(estimate, total)
        if total + coming > self._most + self._most / 8:
            self._end_largest(total, self._most - min(coming, self._most / 4))
        self._left = self._most - resident
        self._share = self._most / (len(self._held) + 1)
        self.tight = resident > self._most / 2
        self._grant()

    def _corrected(self, now: float, memory: Memory, beyond: int, total: float) -> float:
        """What is held if all that is allocated and not accounted for is, too; at least `total`, without reason to."""
        explained = memory.in_use() + _MARGIN
        if beyond - explained - total / _BUFFERS <= total:
            self._factor = 1.0
        elif not memory.trimming and now - self._factor_at > _CLOSER:
            # What is resident may be free, and not given back yet. To look closer takes longer.
            self._factor_at = now
            if (unfreed := memory.unfreed()) is not None and total:
                self._factor = min(max(1.0, (min(beyond, unfreed) - explained) / total), _FACTOR)
            memory.trim()
        return total * self._factor

    def _attribute(self, estimate: float, total: float) -> None:
        """Say who holds what of `total`: as it was estimated, in proportion."""
        factor = total / estimate if estimate else 1.0
        held: dict[str, float] = {}
        for reading in self._unfinished.readings:
            reading.held *= factor
            if reading.refusal is None and reading.held > _SILENT:
                held[reading.who] = held.get(reading.who, 0.0) + reading.held
        self._held = held

    def _end_largest(self, total: float, most: float) -> None:
        """End reads of those who hold the most, the largest first, until no more than `most` is left."""
        by_who: dict[str, list[Reading]] = {}
        for reading in self._unfinished.readings:
            if reading.refusal is None and reading.held > _SILENT:
                by_who.setdefault(reading.who, []).append(reading)
        for readings in by_who.values():
            readings.sort(key=lambda each: (each.held, -each.begun))
        ended, left = 0, total
        while left > most and by_who:
            who = max(by_who, key=self._held.__getitem__)
            reading = by_who[who].pop()
            if not by_who[who]:
                del by_who[who]
            left -= reading.held
            self._held[who] -= reading.held
            self._typical += (reading.held - self._typical) / 16
            self._unfinished.forget(reading)
            ended += 1
            reading.end(
                OverloadedError(
                    Reason.QUEUE_FULL,
                    f"The messages that are being received take {total:.0f} bytes, and would exceed "
                    f"GLIMPSE_MAX_RECEIVING_BYTES ({self._most}); you have sent the most of them. Send fewer or "
                    "smaller messages at once, or try again later.",
                    retry_after=_RETRY,
                )
            )
        if ended:
            _log.warning("uploads refused: memory limit reached", ended=ended, bytes=round(total), limit=self._most)

    def _end_slow_ones(self, now: float) -> None:
        for reading in self._unfinished.slow(now, self._seconds, _SILENT):
            reading.end(
                DeadlineExceededError(
                    f"A message of this stream did not arrive within {self._seconds:g} s of its first bytes. Send "
                    "smaller messages, or use a faster connection.",
                    reason=Reason.UPLOAD_TOO_SLOW,
                )
            )

    def _grant(self) -> None:
        """Let those who wait begin, as far as there is room, in the order in which they came."""
        for turn, who in list(self._waiting.items()):
            if not self.waits(who):
                del self._waiting[turn]
                if not turn.done():
                    self.granted()
                    turn.set_result(None)
        for grant in self._granted:
            grant()
