"""Drives one phase: sends when requests are due, or when a caller has its answer, and keeps the books.

All times are the event loop's: a loop with a clock of its own runs a phase as fast as it can be computed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glimpse.client.load import idle, pacing
from glimpse.client.load.plan import Plan
from glimpse.client.load.tally import Request, Tally

if TYPE_CHECKING:
    from glimpse.client.load.calls import Call

_AFTER_ERROR = 0.01  # seconds that a caller of a closed loop waits: who is refused at once would only spin
_ROUNDING = 1e-9  # seconds
_GRACE = 1.0  # seconds after the end in which what is due is still sent: a moment late there is no worse than elsewhere
MOST_IN_FLIGHT = 20_000


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process of callers has used in a phase, its warm-up included."""

    cpu_seconds: float
    seconds: float  # how long the phase took
    busy: float | None = None  # share of it in which the event loop did not wait, 0..1; None: not known

    @property
    def cpu_share(self) -> float:
        """CPU time, of one core."""
        return self.cpu_seconds / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class PhaseRun:
    """A phase that is over."""

    plan: Plan
    tally: Tally
    usages: tuple[Usage, ...]  # of each process that sent it
    stopped: bool = False  # before its end


class Driver:
    """Sends one phase's requests."""

    def __init__(
        self,
        plan: Plan,
        make: Callable[[], Request],
        call: Call,
        *,
        stop: asyncio.Event | None = None,
        watch: Callable[[Tally], None] = lambda _: None,
        seed: int = 0,
        most_in_flight: int = MOST_IN_FLIGHT,
    ) -> None:
        """Prepare.

        Args:
            plan: what to do.
            make: gives the next request.
            call: sends it.
            stop: ends the phase early; what is in flight is dropped.
            watch: gets the books once, when the phase begins.
            seed: of the times at which requests are due.
            most_in_flight: requests of an open loop without an answer, so that memory has a bound; what is due above
                that is not sent, and counted as an error.
        """
        self._plan = plan
        self._make = make
        self._call = call
        self._stop = stop or asyncio.Event()
        self._watch = watch
        self._seed = seed
        self._most_in_flight = most_in_flight

    async def run(self) -> PhaseRun:
        """The whole phase, until its last answer."""
        self._loop = asyncio.get_running_loop()
        start, wall, cpu = self._loop.time(), time.perf_counter(), time.process_time()
        waited = idle.seconds(self._loop)
        begin = start + self._plan.warm_up
        self._tally = Tally(begin, begin + self._plan.duration)
        self._watch(self._tally)
        load = asyncio.create_task(self._open(start) if self._plan.rate else self._closed())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({load, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (load, stopped):
            task.cancel()
        ended = await asyncio.gather(load, stopped, return_exceptions=True)
        for each in ended:
            if isinstance(each, Exception):  # a defect of ours; what a server does is an Answer
                raise each
        # Otherwise it lasted as long as it was to last, also where nothing was due at its very end.
        if self._stop.is_set() or self._all_sent():
            self._tally.close(self._loop.time())
        spent = time.perf_counter() - wall
        busy, waited_now = None, idle.seconds(self._loop)
        if waited is not None and waited_now is not None and spent > 0:
            busy = min(1.0, max(0.0, 1 - (waited_now - waited) / spent))
        usage = Usage(time.process_time() - cpu, spent, busy)
        return PhaseRun(self._plan, self._tally, (usage,), self._stop.is_set())

    async def _closed(self) -> None:
        # A stream has as many callers as its window holds.
        callers = self._plan.callers * (self._plan.window if self._plan.stream else 1)
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self._caller())

    async def _caller(self) -> None:
        while not self._over(now := self._loop.time()):
            request = self._make()
            self._tally.sent(request, now, now)
            if not await self._one(request, now):
                await asyncio.sleep(_AFTER_ERROR)

    async def _open(self, start: float) -> None:
        tally = self._tally
        # By offsets alone: with the clock's own value in the sum, how long the machine has been up would decide how it
        # is rounded, and so whether there is one request more.
        length = self._plan.warm_up + self._plan.duration - _ROUNDING
        async with asyncio.TaskGroup() as group:
            for offset in pacing.due(self._plan.rate, steady=self._plan.steady, seed=self._seed):
                if offset >= length or self._all_sent():
                    return
                due = start + offset
                now = self._loop.time()
                if now >= tally.end + _GRACE or tally.in_flight >= self._most_in_flight:
                    tally.not_sent(self._plan.images_per_call, due)
                    if now < due:
                        await asyncio.sleep(due - now)
                    continue
                # Even without a wait the answers that have come need their turn.
                await asyncio.sleep(max(0.0, due - now))
                request = self._make()
                tally.sent(request, due, self._loop.time())
                group.create_task(self._one(request, due))

    def _over(self, due: float) -> bool:
        """Whether nothing that is due then belongs to the phase."""
        return due >= self._tally.end or self._all_sent()

    def _all_sent(self) -> bool:
        return 0 < self._plan.requests <= self._tally.requests

    async def _one(self, request: Request, due: float) -> bool:
        """Send one request that has been counted, and note what came of it; returns whether there was an answer."""
        tally = self._tally
        try:
            # A deadline counts from when a request was due, as the caller's would who has waited since.
            left = self._plan.timeout - (self._loop.time() - due)
            answer = await self._call(request, max(0.001, left))
        except BaseException:
            tally.dropped()
            raise
        tally.done(request, answer, due, self._loop.time())
        return not answer.error
