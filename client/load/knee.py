"""The search for the highest rate that a service holds. Pure: it asks for rates, and is told what held."""

from __future__ import annotations

from collections.abc import Generator

_CLOSE = 1.05  # the search ends where what held and what did not are nearer than this
_GROWTH = 2.0
_MOST = 24  # trials


def search(start: float, *, most: int = _MOST, highest: float = 1e6) -> Generator[float, bool, float | None]:
    """Yields a rate to try and is sent whether it held; returns the highest that did, None where none did.

    It doubles the rate until one does not hold (halves it, if the first one does not), and then takes the middle, by
    ratio, between the highest that held and the lowest that did not, until they are within 5 % of one another.

    Args:
        start: the first rate, requests a second, above 0.
        most: trials at most.
        highest: not to go above.
    """
    held: float | None = None
    failed: float | None = None
    rate = start
    for _ in range(most):
        if (yield rate):
            held = rate
        else:
            failed = rate
        if held is None:
            rate /= _GROWTH
        elif failed is None:
            if held >= highest:
                return held
            rate = min(highest, rate * _GROWTH)
        elif failed <= held * _CLOSE:
            return held
        else:
            rate = (held * failed) ** 0.5
    return held
