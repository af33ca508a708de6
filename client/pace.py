"""How fast to send to a server that has refused images for coming too fast. The decisions; nothing here waits.

Nothing is held back before the first such refusal. From then on few are on the way at a time: one at first, more with
each that is answered, half as many when one is refused. A server that lets those who are a little early wait for their
turn is so used to the full and refuses no more; one that refuses them at once shows by its hints how far apart they have
to be.
"""

from __future__ import annotations

import math

_EASED_AFTER = 10  # answers in a row, after which it is tried a little faster
_EASED_BY = 0.9


class Pace:
    """The pace of one stream, or of one client's calls. All times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._window = math.inf  # images that may be on the way
        self._gap = 0.0  # seconds between two of them
        self._next = -math.inf  # when the next one may go
        self._answered_at = -math.inf  # when the last one was sent that was answered
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
        self._answered_at = max(self._answered_at, sent)
        if not self.limited:
            return
        self._window += 1 / self._window
        self._answers += 1
        if self._answers % _EASED_AFTER == 0:
            self._gap *= _EASED_BY

    def refused(self, now: float, retry_after: float, *, alone: bool) -> None:
        """One was refused for coming too fast.

        Args:
            now: when.
            retry_after: after which it may come back.
            alone: whether it was the only one on the way, so that the hint tells the distance to the one before.
        """
        self._answers = 0
        if not self.limited:
            self._window = 1.0
            return
        self._window = max(1.0, self._window / 2)
        if alone:
            self._next = now + retry_after
            if self._answered_at > -math.inf:
                self._gap = self._next - self._answered_at
