"""A clock that leaves out when the process stood still: it was stopped, or its container or virtual machine was paused.

What is timed to find out whether it hangs cannot have gone on meanwhile, and must not be taken to hang afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_SHORT = 0.1  # seconds, of which no note is taken
_LONGEST = 5.0  # seconds; a process that runs is asked several times a second to once a second


class AwakeClock:
    """Seconds that only rise, for as long as somebody asks now and then. For all threads.

    Nothing tells a process that it stood still, but whoever asks sees that a long time has passed since somebody asked
    before. Of such a time only a little is counted. Where nobody has asked for another reason, such as a machine that
    is overloaded, what hangs is found later, and never not at all.
    """

    def __init__(self, *, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin at 0.

        Args:
            limit: seconds, after which something counts as hung that is timed with it. At most half of it is counted
                between two calls, and at most 5 seconds.
            clock: seconds that only rise, and go on while the process stands still.
        """
        self._longest, self._clock = min(_LONGEST, limit / 2), clock
        self._short = min(_SHORT, self._longest)
        self._lock = threading.Lock()
        self._noted = clock(), 0.0  # when it was asked, and what it said; replaced as a whole

    def __call__(self) -> float:
        """Seconds since the clock was made, without the times for which the process stood still."""
        asked, seconds = self._noted
        gap = self._clock() - asked
        if gap < self._short:  # nearly always, and for each image: the lock takes longer than all else
            return seconds + gap
        with self._lock:
            asked, seconds = self._noted
            now = self._clock()
            seconds += min(now - asked, self._longest)
            self._noted = now, seconds
            return seconds
