"""How many images a second one caller may send: a token bucket for each, kept as the time at which it is full."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import InvalidRequestError, OverloadedError, Reason

_REMEMBERED = 100_000  # callers; some 20 MB
_EXACT = 1e-6  # seconds; below is what the clock and the divisions round off


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one caller may send."""

    rate: float  # images a second; 0: no limit
    burst: int  # images at once, after a pause


class Rates:
    """The callers whose buckets are not full. Lives on the event loop; not for other threads."""

    def __init__(
        self, usual: Allowance, *, remembered: int = _REMEMBERED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Allow each caller what is `usual`; of those who came last, so many are `remembered`.

        A full bucket is as good as none and is forgotten. Should more callers than that wait for theirs to fill, those
        whose last visit is longest ago are forgiven.
        """
        self._usual = usual
        self._remembered = remembered
        self._clock = clock
        # A bucket with `level` of `burst` images in it is full again at now + (burst - level) / rate: one number says
        # all. By last visit, the longest ago first.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Callers that are remembered."""
        return len(self._full_at)

    def take(self, who: str, images: int, allowance: Allowance | None = None) -> None:
        """Take `images` from a caller's bucket, or nothing at all.

        Args:
            who: whose bucket.
            images: how many come.
            allowance: the caller's own; None: the usual.

        Raises:
            OverloadedError: expected; the bucket does not hold so many now. `retry_after` is when it will.
            InvalidRequestError: expected; it never will, for it is smaller than that.
        """
        allowed = allowance or self._usual
        if allowed.rate <= 0:
            return
        if images > allowed.burst:
            raise InvalidRequestError(
                Reason.TOO_MANY_IMAGES,
                f"At most {allowed.burst} images may come at once from one caller here. Received: {images}. Waiting "
                "would not help; send several requests.",
                field="images",
            )
        now = self._clock()
        full_at = max(now, self._full_at.get(who, now)) + images / allowed.rate
        missing = full_at - now - allowed.burst / allowed.rate
        if missing > _EXACT:
            raise OverloadedError(
                Reason.RATE_LIMITED,
                f"{allowed.rate:g} images a second are allowed, {allowed.burst} at once after a pause. There is room "
                f"for these {images} in {missing:.3f} s. Come back then.",
                retry_after=missing,
            )
        if images:
            self._full_at[who] = full_at
            self._full_at.move_to_end(who)
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Drop full buckets, two at most for each that is added, so that no single call pays for all."""
        for _ in range(2):
            if not self._full_at:
                return
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= self._remembered:
                return
            del self._full_at[oldest]
