"""Which processes hang: they give no sign of life, say that something does not go on, or do not get on with loading."""

from __future__ import annotations

import asyncio
import time

import structlog

from glimpse.server.settings import Settings
from glimpse.server.supervisor.child import Child
from glimpse.server.supervisor.processes import Processes

_log = structlog.get_logger(__name__)


class Watch:
    """Kills the processes that hang; they are replaced as any that have ended."""

    def __init__(self, settings: Settings, processes: Processes) -> None:
        """Watch these processes, with the times of these settings."""
        self._settings, self._processes = settings, processes

    async def run(self) -> None:
        """Ask all processes for signs of life, for as long as the server lives."""
        seconds = min(self._settings.stuck_seconds, self._settings.load_step_seconds)
        while True:
            before = time.monotonic()
            await asyncio.sleep(min(1.0, seconds / 4))
            stood = time.monotonic() - before > seconds / 2  # this process, and so perhaps the machine
            for child in self._processes.all:
                if stood:
                    child.awake()
                self._look_at(child)

    def hangs(self, child: Child, detail: str) -> None:
        """Kill a process that hangs; `detail` is for people."""
        if child.hung:
            return
        child.hung = detail
        _log.error("stuck", process_kind=child.kind, number=child.number, pid=child.pid, detail=detail)
        child.give_up()

    def _look_at(self, child: Child) -> None:
        if child.listens:
            seconds = self._settings.stuck_seconds
            if child.silent > seconds:
                self.hangs(child, f"It has not answered for {seconds:g} s.")
            else:
                child.ping()
        elif child.kind == "engine" and child.step_limited:
            seconds = self._settings.load_step_seconds
            if child.at_step > seconds:
                self.hangs(
                    child,
                    f"Loading the model has been at one step for {seconds:g} s: {child.step}. The device or its driver "
                    "may hang. If that step takes longer here, raise GLIMPSE_LOAD_STEP_SECONDS.",
                )
