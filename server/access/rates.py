"""How many images or calls a second one caller may send: a token bucket for each, kept as the time at which it is full.

Who is refused is told a place in the line: each later than the one before by what its images take, as if all who were
told to come back came back. Told only when the bucket has room again, they would all come back together, and all but
one in vain.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glimpse.server.errors import InvalidRequestError, OverloadedError, Reason
from glimpse.server.fields import Field

_REMEMBERED = 100_000  # callers; some 20 MB
_EXACT = 1e-6  # seconds; below is what the clock and the divisions round off
# The end of the line, for hints: those who gave up meanwhile keep their places in it, so it must not be long.
_LATEST = 60.0  # seconds
_DEEPEST = 3600.0  # seconds until a bucket is full, at most, whatever others say was spent


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one caller may send."""

    rate: float  # images a second; 0: no limit
    burst: int  # images at once, after a pause


@dataclass(slots=True)
class _Bucket:
    """One caller's; times are on the clock."""

    full_at: float  # with `level` of `burst` images in it, now + (burst - level) / rate: one number says all
    # When it would be full if all who were told to come back came back when they were told. A place whose time has
    # passed no longer counts, whether its caller came or not.
    promised: float


class Rates:
    """The callers whose buckets are not full. Lives on the event loop; not for other threads."""

    def __init__(
        self,
        usual: Allowance,
        *,
        what: str = "images",
        remembered: int = _REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Allow each caller what is `usual`, of `what`, by its name to people; those who came last are `remembered`.

        A full bucket is as good as none and is forgotten. Should more callers than that wait for theirs to fill, those
        whose last call is longest ago are forgiven.
        """
        self._usual = usual
        self._what = what
        self._remembered = remembered
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # by last call, the longest ago first
        self._spent: dict[str, float] | None = None  # seconds of each caller's rate, since they were last told

    def __len__(self) -> int:
        """Callers that are remembered."""
        return len(self._buckets)

    def take(
        self, who: str, images: int, allowance: Allowance | None = None, *, worth: int = 0, patience: float = 0.0
    ) -> float:
        """Take `images` from a caller's bucket, or nothing at all.

        Args:
            who: whose bucket.
            images: how many come.
            allowance: the caller's own; None: the usual.
            worth: how many images they count for, where that is more. Of more than the bucket can hold, it has to be
                full, and what it lacks is owed: the next ones come the later for it.
            patience: seconds that they can wait for the bucket to hold so many. Then they are taken beforehand.

        Returns:
            Seconds to wait before they are worked on; 0: none.

        Raises:
            OverloadedError: expected; the bucket does not hold so many soon. `retry_after` is when it will, for them:
                behind those who have been refused before.
            InvalidRequestError: expected; it never will, for it is smaller than that.
        """
        allowed = allowance or self._usual
        if allowed.rate <= 0:
            return 0.0
        if images > allowed.burst:
            raise InvalidRequestError(
                Reason.TOO_MANY_IMAGES,
                f"One caller may send at most {allowed.burst} {self._what} at once. Received: {images}. Waiting does "
                "not help; send several smaller requests.",
                field=Field.IMAGES,
            )
        now, bucket = self._clock(), self._buckets.get(who)
        counted = max(images, worth)
        takes, burst = counted / allowed.rate, allowed.burst / allowed.rate
        owed = max(0.0, takes - burst)
        # A bucket that has become full says that nobody came who was told to.
        fresh = bucket is None or bucket.full_at <= now
        full_at = takes + (now if bucket is None or fresh else bucket.full_at)
        missing = full_at - owed - now - burst
        if missing > max(0.0, patience) + _EXACT:
            promised = full_at if bucket is None or fresh else max(full_at, bucket.promised + takes)
            hint = max(missing, min(promised - owed - now - burst, _LATEST))
            if bucket is not None:  # always: there is none only where nothing is missing
                bucket.promised = now + burst + hint + owed
            these = "one more" if counted == 1 else f"these {counted}"
            raise OverloadedError(
                Reason.RATE_LIMITED,
                f"The limit is {allowed.rate:g} {self._what} per second, and {allowed.burst} at once after a pause. "
                f"Retry {these} in {hint:.3f} s.",
                retry_after=hint,
            )
        if images:
            self._buckets[who] = _Bucket(full_at, full_at if bucket is None or fresh else max(full_at, bucket.promised))
            self._buckets.move_to_end(who)
            if self._spent is not None:
                self._count(who, takes)
        self._forget(now)
        return missing if missing > _EXACT else 0.0

    def give_back(self, who: str, images: int, allowance: Allowance | None = None, *, worth: int = 0) -> None:
        """Put `images` back that were taken beforehand: their caller has gone before it was their turn."""
        allowed = allowance or self._usual
        bucket = self._buckets.get(who)
        if bucket is not None and allowed.rate > 0:
            seconds = max(images, worth) / allowed.rate
            bucket.full_at -= seconds
            if self._spent is not None:
                self._count(who, -seconds)

    def share(self) -> None:
        """Keep an account of what is spent from now on, for `spent`: other processes serve the same callers."""
        self._spent = self._spent or {}

    def spent(self) -> dict[str, float]:
        """What each caller has spent since this was last asked, in seconds of its rate.

        That is images divided by images a second, so that whoever is told need not know the caller's rate. Negative:
        more was given back than was spent.
        """
        if not self._spent:
            return {}
        told, self._spent = self._spent, {}
        return told

    def unsaid(self, spent: Mapping[str, float]) -> None:
        """Take back what `spent` returned and nobody could be told: it is told the next time."""
        for who, seconds in spent.items():
            self._count(who, seconds)

    def charge(self, who: str, seconds: float) -> None:
        """Take what a caller has spent elsewhere, in seconds of its rate; the bucket may go into debt.

        Other processes spend beforehand at most a burst each, and what their rate brings until they are told. So the
        debt ends by itself; as a precaution it is no deeper than an hour.
        """
        now, bucket = self._clock(), self._buckets.get(who)
        if bucket is None or bucket.full_at <= now:
            if seconds <= 0:  # to a full bucket nothing can be given back
                return
            bucket = self._buckets[who] = _Bucket(now, now)
        bucket.full_at = min(bucket.full_at + seconds, now + _DEEPEST)
        bucket.promised = max(bucket.promised, bucket.full_at)
        self._buckets.move_to_end(who)
        self._forget(now)

    def _count(self, who: str, seconds: float) -> None:
        if self._spent is not None and (who in self._spent or len(self._spent) < self._remembered):
            self._spent[who] = self._spent.get(who, 0.0) + seconds

    def _forget(self, now: float) -> None:
        """Drop full buckets, two at most for each that is added, so that no single call pays for all."""
        for _ in range(2):
            if not self._buckets:
                return
            oldest = next(iter(self._buckets))
            if self._buckets[oldest].full_at > now and len(self._buckets) <= self._remembered:
                return
            del self._buckets[oldest]
