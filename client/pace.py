"""How fast to send to a server that has refused images for coming too fast. The decisions; nothing here waits.

Nothing is held back before the first such refusal. From then on few are on the way at a time: one at first, more
with each that is answered, half as many when one is refused. A server that lets those who are a little early wait for
their turn is so used to the full and refuses no more; one that refuses them at once shows by its hints how far apart
they have to be.
"""

from __future__ import annotations

import math

_EASED_AFTER = 8  # answers in a row, after which it is tried faster
_EASED_BY = 0.5
_GROWTH = 0.5  # images more on the way after as many answers as there are on the way
_LONGEST_GAP = 2.0  # seconds; a turn may be far off for others' sake, who do not come any more
_ALIKE = 0.1  # of a hint: times that differ by less are one and the same, and say nothing of a distance


class Pace:
    """The pace of one stream, or of one client's calls. All times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._window = math.inf  # images that may be on the way
        self._gap = 0.0  # seconds between two of them
        self._next = -math.inf  # when the next one may go
        self._taken = -math.inf  # the latest turn that is known: when one went that was answered, or may come back
        self._answers = 0  # in a row

    @property
    def limited(self) -> bool:
        """Whether any image was refused for coming too fast."""
        return self._window != math.inf

    def room(self, out: int) -> bool:
        """Whether another one may be on the way beside `out` of them."""
        return out < max(1.0, self._window)

    @property
    def next(self) -> float:
        """When the next one may go, where there is room for it."""
        return self._next

    def sent(self, now: float) -> None:
        """One goes out."""
        self._next = max(self._next, now + self._gap)

    def answered(self, sent: float) -> None:
        """One that went out then was answered."""
        if not self.limited:
            return
        self._taken = max(self._taken, sent)
        self._window += _GROWTH / self._window
        self._answers += 1
        if self._answers % _EASED_AFTER == 0:
            self._gap *= _EASED_BY

    def refused(self, now: float, retry_after: float, *, alone: bool) -> None:
        """One was refused for coming too fast.

        Args:
            now: when.
            retry_after: after which it may come back.
            alone: whether it was the only one on the way.
        """
        turn = now + retry_after
        apart = min(retry_after, turn - self._taken) if not self.limited else turn - self._taken
        if apart > _ALIKE * retry_after:
            self._gap = min(apart, _LONGEST_GAP)
        self._taken = max(self._taken, turn)
        self._window = max(1.0, self._window / 2) if self.limited else 1.0
        self._answers = 0
        if alone:
            self._next = turn
