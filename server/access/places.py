"""A limit of calls that may stay open: when all places are taken, the party with the most loses its oldest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from glimpse.server.access.call_context import CallContext
from glimpse.server.errors import OverloadedError, Reason

_RETRY_AFTER = 1.0  # seconds


class Places:
    """The places, and whose calls hold them. Lives on the event loop; not for other threads.

    A number for each party alone would let a few parties take all places and keep everybody else out. So whoever comes
    when all are taken gets the oldest place of the party that has most of them, if that party then still has no fewer.
    """

    def __init__(self, what: str, most: int, each: int) -> None:
        """Let `most` calls be open at once, `each` of one party at most; `what` names them to people."""
        self._what = what
        self._most = most
        self._each = each
        self._of: dict[str, dict[int, CallContext]] = {}  # by party, then by the call's id, the oldest first
        self.taken = 0

    @contextmanager
    def hold(self, call: CallContext) -> Iterator[None]:
        """Hold one while the block runs, in the task that answers the call.

        Raises:
            OverloadedError: expected; SHARE_FULL where the party has as many as it may, QUEUE_FULL where all are taken
                and nobody has more.
        """
        who, own = call.who, self._of.get(call.who)
        if own is not None and len(own) >= self._each:
            raise OverloadedError(
                Reason.SHARE_FULL,
                f"You have {len(own)} {self._what} open, which is the limit for one caller. End some of them first.",
                retry_after=_RETRY_AFTER,
            )
        if self.taken >= self._most:
            self._make_room(0 if own is None else len(own))
        call.task = asyncio.current_task()
        self._of.setdefault(who, {})[id(call)] = call
        self.taken += 1
        try:
            yield
        finally:
            self._leave(who, call)

    def _make_room(self, own: int) -> None:
        who, largest = max(self._of.items(), key=lambda each: len(each[1]))
        if len(largest) < own + 2:
            raise OverloadedError(
                Reason.QUEUE_FULL,
                f"{self.taken} {self._what} are open, which is the limit. Try again later.",
                retry_after=_RETRY_AFTER,
            )
        oldest = next(iter(largest.values()))
        oldest.end(
            OverloadedError(
                Reason.SHARE_FULL,
                f"All {self._most} {self._what} are in use, {len(largest)} of them by you. Your oldest one was ended "
                "in favour of a caller who has fewer.",
                retry_after=_RETRY_AFTER,
            )
        )
        self._leave(who, oldest)

    def _leave(self, who: str, call: CallContext) -> None:
        own = self._of.get(who, {})
        if own.pop(id(call), None) is None:
            return  # it has given up its place before
        self.taken -= 1
        if not own:
            del self._of[who]
