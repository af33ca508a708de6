"""What tests of admission share: a gate with a clock of its own, and those who hold permits of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from glimpse.server.admission import Admission
from glimpse.server.errors import OverloadedError
from glimpse.server.fair_queue import Lane
from glimpse.server.shares import Permits

KB = 1000  # bytes of the images here, where nothing else is said


def run(scenario: Callable[[Admission], Awaitable[None]], capacity: int = 8, now: Callable[[], float] = float) -> None:
    """Run a scenario with a gate for so many images of a kilobyte, each worth a thousand of work; all is given back."""

    async def main() -> None:
        most = Permits(capacity, capacity * KB, capacity * KB)
        gate = Admission(most, streams=8, retry_after=lambda load: max(load.images * 0.5, load.work * 0.001), clock=now)
        async with asyncio.timeout(60):  # until it is called hung
            await scenario(gate)
        assert (gate.in_flight, gate.bytes_in_flight, gate.work_in_flight) == (0, 0, 0), "a permit leaked"
        assert gate._bulk.held.images == 0, "a permit of the streams leaked"
        assert not any(len(shares) for shares in (gate._all, gate._bulk, gate.calls, gate.streams)), "a share leaked"
        assert (gate._waits, gate._beyond, gate._readers) == ({}, {}, {}), "a wait leaked"

    asyncio.run(main())


async def settle() -> None:
    """Let the tasks come as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


class Holder:
    """Holds permits in a task of its own until released."""

    def __init__(
        self,
        gate: Admission,
        images: int,
        *,
        size: int = 0,
        work: int = 0,
        wait: bool = False,
        lane: str | Lane = "",
    ) -> None:
        """Ask for permits; the task has them once `entered`."""
        self.entered = False
        self._done = asyncio.Event()
        whose = Lane(lane) if isinstance(lane, str) else lane
        self.task = asyncio.create_task(self._hold(gate, Permits(images, size, work), wait, whose))

    async def _hold(self, gate: Admission, what: Permits, wait: bool, lane: Lane) -> None:  # noqa: FBT001 - a test's helper
        async with gate.admit(what, wait=wait, lane=lane):
            self.entered = True
            await self._done.wait()

    def let_go(self) -> None:
        """Give the permits back when the task has its turn."""
        self._done.set()

    async def release(self) -> None:
        """Give the permits back."""
        self.let_go()
        await self.task


async def most_of(gate: Admission, lane: str | Lane) -> list[Holder]:
    """As many lone requests as the lane may have."""
    held: list[Holder] = []
    while True:
        holder = Holder(gate, 1, lane=lane)
        await settle()
        if not holder.entered:
            assert isinstance(holder.task.exception(), OverloadedError)
            return held
        held.append(holder)
