"""How long to wait before another stream is opened, and when to give up."""

from __future__ import annotations

import random

_FIRST_SECONDS = 0.1
_LONGEST_SECONDS = 5.0
# Streams in a row without a single answer. Where no server ever answered, the target is probably wrong, and waiting
# would only keep a person from hearing it: 0.7 seconds. Otherwise one that restarts gets the time for it: 21 seconds.
_FRUITLESS_AT_FIRST = 4
_FRUITLESS = 10


class Backoff:
    """Delays that double from one fruitless stream to the next, for one run."""

    def __init__(self, *, known: bool = False) -> None:
        """Nothing has been opened yet; `known`: the target is right, as a server there has answered other calls."""
        self.ever_answered = False  # whether any stream of the run gave an answer
        self._known = known
        self._fruitless = 0

    def broke(self, *, answered: bool) -> None:
        """Count a stream that ended early, and whether it had answered anything."""
        if answered:
            self.ever_answered = True
            self._fruitless = 0
        else:
            self._fruitless += 1

    def delay(self, at_least: float = 0.0) -> float | None:
        """Seconds until the next stream; None: there have been enough.

        Args:
            at_least: seconds that the server asked for.
        """
        if self._fruitless >= (_FRUITLESS if self.ever_answered or self._known else _FRUITLESS_AT_FIRST):
            return None
        # By chance a little more or less: clients whose streams broke together must not come back together.
        seconds = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** max(0, self._fruitless - 1))
        return max(seconds * random.uniform(0.8, 1.2), at_least)
