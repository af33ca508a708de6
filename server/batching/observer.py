"""Who is told what the batcher does."""

from __future__ import annotations

from typing import Protocol

from glimpse.server.domain import BatchReport


class Observer(Protocol):
    """Told what the batcher does; for metrics. Called from its threads and from those that submit."""

    def batch(self, report: BatchReport) -> None:
        """A batch ended."""

    def expired(self, count: int) -> None:
        """Images were given up because of their deadline."""

    def cancelled(self, count: int) -> None:
        """Images were found cancelled in the queue."""

    def halved(self) -> None:
        """A batch did not fit into the device's memory and was computed in parts."""
