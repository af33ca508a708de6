"""Whether a server has answered a client before, and since when none does: who has answered may come back."""

from __future__ import annotations

# That a server which has answered gets to come back: one that is restarted, or that replaces the process that computes.
RETURN_SECONDS = 20.0


class Reachability:
    """What one client knows of its servers, for all of its calls. May be used by any thread."""

    def __init__(self) -> None:
        self._known = False  # whether any call was answered
        self._until: float | None = None  # when to expect nobody any more; None: the last call was answered

    def answered(self) -> None:
        """A server has answered."""
        self._known, self._until = True, None

    def expected(self, now: float) -> bool:
        """Whether there is a server, or one is expected to come back; `now`: time.monotonic."""
        return self._known and (self._until is None or now < self._until)

    def expected_until(self, now: float) -> float:
        """Until when a server is expected to come back; to be asked when a call found none.

        Args:
            now: time.monotonic.

        Returns:
            A time of the same clock: `now` where no server has ever answered, as the target is probably wrong then.
        """
        if not self._known:
            return now
        until = self._until
        if until is None:
            until = self._until = now + RETURN_SECONDS
        return until
