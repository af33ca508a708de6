"""An observer of a batcher that begins to count later than the batcher begins to compute."""

from __future__ import annotations

from glimpse.server.batching.observer import Observer
from glimpse.server.domain import BatchReport


class LateObserver:
    """Counts nothing until it is told for whom: an engine's own images, from before workers come, are no one's."""

    def __init__(self) -> None:
        """Observe nothing until `observe`."""
        self._inner: Observer | None = None

    def observe(self, inner: Observer) -> None:
        """Tell that one of everything from now on."""
        self._inner = inner

    def batch(self, report: BatchReport) -> None:
        """A batch ended."""
        if self._inner is not None:
            self._inner.batch(report)

    def expired(self, count: int) -> None:
        """Images were given up because of their deadline."""
        if self._inner is not None:
            self._inner.expired(count)

    def cancelled(self, count: int) -> None:
        """Images were found cancelled in the queue."""
        if self._inner is not None:
            self._inner.cancelled(count)

    def halved(self) -> None:
        """A batch was computed in parts."""
        if self._inner is not None:
            self._inner.halved()
