"""One run against one server: its phases, or the search for its knee, over the same connections."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from glimpse.client.load import figures, idle, knee
from glimpse.client.load.plan import Plan

if TYPE_CHECKING:
    from glimpse.client.load.processes import Processes
    from glimpse.client.load.sender import Sender


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What sends all phases, and who is told of each."""

    sender: Sender | Processes
    done: Callable[[dict[str, Any]], None] = field(default=lambda _: None)  # gets a phase's figures when it is over

    def phases(self, plans: list[Plan]) -> list[dict[str, Any]]:
        """Run them one after the other; returns their figures, fewer where the run was interrupted."""
        return idle.run(self._phases(plans))

    def find_knee(self, plan: Plan, *, slo: float, max_errors: float) -> tuple[list[dict[str, Any]], float | None]:
        """Try rates; returns the trials' figures and the highest rate that held.

        Args:
            plan: of a trial, with the first rate.
            slo: seconds that p99 may take.
            max_errors: share of the images that may fail.
        """
        return idle.run(self._find_knee(plan, slo, max_errors))

    async def _phases(self, plans: list[Plan]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with _interruptible() as stop:
            for plan in plans:
                found.append(await self._run(plan, stop))
                if stop.is_set():
                    break
        return found

    async def _find_knee(self, plan: Plan, slo: float, max_errors: float) -> tuple[list[dict[str, Any]], float | None]:
        trials: list[dict[str, Any]] = []
        search = knee.search(plan.rate)
        rate = next(search)
        with _interruptible() as stop:
            while True:
                trial = await self._run(replace(plan, name=f"{rate:.4g}/s", rate=rate), stop)
                trials.append(trial)
                if stop.is_set():
                    return trials, _highest(trials)
                trial["held"] = holds(trial, slo=slo, max_errors=max_errors)
                try:
                    rate = search.send(trial["held"])
                except StopIteration as end:
                    return trials, end.value

    async def _run(self, plan: Plan, stop: asyncio.Event) -> dict[str, Any]:
        found = figures.of(await self.sender.run(plan, stop))
        self.done(found)
        return found


def holds(trial: dict[str, Any], *, slo: float, max_errors: float) -> bool:
    """Whether a rate was served: in time, with few enough errors, and really sent."""
    p99 = trial["latency"].get("p99")
    return p99 is not None and p99 <= slo and trial["error_share"] <= max_errors and figures.generator_kept(trial)


def _highest(trials: list[dict[str, Any]]) -> float | None:
    return max((trial["load"]["rate"] for trial in trials if trial.get("held")), default=None)


@contextlib.contextmanager
def _interruptible() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C sets, so that what was measured until then is reported; a second one ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    try:
        loop.add_signal_handler(signal.SIGINT, interrupted)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
        yield stop
        return
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGINT)
