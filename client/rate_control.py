"""How fast to send to a server that has refused images for coming too fast. The decisions; nothing here waits.

Nothing is held back before the first such refusal. From then on few are on the way at a time: one at first, more
with each that is answered, half as many when one is refused. A server that lets those who are a little early wait for
their turn is so used to the full and refuses no more; one that refuses them at once shows by its hints how far apart
they have to be.
"""

from __future__ import annotations

import math

_EASED_AFTER = 4  # answers in a row, after which it is tried faster
_EASED_BY = 0.5
_GROWTH = 0.5  # images more on the way after as many answers as there are on the way
_LONGEST_GAP = 5.0  # seconds
# Of a hint. Turns that differ by less are one and the same, and those that differ by more than the whole hint do not
# follow one another: neither says how far apart images have to be.
_ALIKE = 0.1


class RateControl:
    """The pace of one stream, or of one client's calls. All times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._window = math.inf  # images that may be on the way
        self._gap = 0.0  # seconds between two of them
        self._next = -math.inf  # when the next one may go
        self._turn = -math.inf  # the latest that one of the refused was told
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

    def answered(self) -> None:
        """One that went out was answered."""
        if not self.limited:
            return
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
        apart = turn - self._turn  # the turns of two that were refused, one after the other
        if _ALIKE * retry_after < apart < (1 + _ALIKE) * retry_after:
            self._gap = min(apart, _LONGEST_GAP)
        elif alone:  # it went a gap after the one before, and was early by the hint: as far as the gap was eased
            self._gap = min(self._gap + retry_after, self._gap / _EASED_BY, _LONGEST_GAP)
        self._turn = max(self._turn, turn)
        self._window = max(1.0, self._window / 2) if self.limited else 1.0
        self._answers = 0
        if alone:
            self._next = turn
