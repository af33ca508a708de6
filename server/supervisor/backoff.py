"""How long to wait until a process that has ended is started again."""

from __future__ import annotations

_FIRST, _LONGEST = 0.1, 10.0  # seconds; twice as long after each process in a row that ended young
_YOUNG = 10.0  # seconds of use, from which on a process has done well


class Backoff:
    """The pauses between the starts of one process."""

    def __init__(self) -> None:
        self._next = _FIRST

    def pause(self, lived: float) -> float:
        """Seconds to wait after a process that has been of use for so many seconds; 0: it could not be started."""
        if lived >= _YOUNG:
            self._next = _FIRST
        pause, self._next = self._next, min(2 * self._next, _LONGEST)
        return pause
