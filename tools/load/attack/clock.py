"""What an attack did, how long, and at what cost to the attacker."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

Result = dict[str, Any]


class Clock:
    """Runs from the moment at which everything is prepared."""

    def __init__(self, seconds: float) -> None:
        """Begin an attack of so many seconds."""
        self.calls = 0  # that were begun
        self.connections = 0  # that were begun
        self._cpu = time.process_time()
        self.began = time.monotonic()
        self._end = self.began + seconds

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end

    def result(self, endings: Counter[str]) -> Result:
        """What the attack did; `endings`: what came of its calls and connections."""
        ended = time.monotonic()
        return {
            "began": self.began,
            "ended": ended,
            "cpu": (time.process_time() - self._cpu) / (ended - self.began),  # of one core
            "calls": self.calls,
            "connections": self.connections,
            "endings": dict(endings),
        }
