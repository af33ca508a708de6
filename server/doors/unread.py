"""Answers that are ready and that their callers have not taken: how many there may be.

gRPC holds an answer, and with it the call, some 33 KB, until its caller grants the bytes: HTTP/2 lets a caller grant
none, for a thousand calls of each connection. By then a call has given back its place among those that are worked on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from server.doors.closing import Closing
from server.doors.visit import Visit

_MOST = 2048  # of all callers; 66 MB
_SECONDS = 1.0  # that one may wait for its caller, however many there are
_LOOK = 0.1  # seconds between two looks for those who are to be cut off, while there are more
_LOOKS = 5  # that find too many in a row first: after a moment in which the process stood still, all have waited long


class Unread:
    """All of them on one server. Lives on the event loop; not for other threads."""

    def __init__(self, closing: Closing, *, most: int = _MOST, clock: Callable[[], float] = time.monotonic) -> None:
        """Have connections closed by `closing` where more than `most` answers wait: of whoever has most of them."""
        self._closing, self._most, self._clock = closing, most, clock
        self._waiting: dict[asyncio.Task[object], tuple[Visit, float]] = {}  # since when; the oldest first
        self._next_look = 0.0
        self._looks = 0  # in a row that have found too many

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, visit: Visit) -> None:
        """What is left to do of the visitor's call, in the running task, is to send its answer."""
        task = asyncio.current_task()
        if task is None or task in self._waiting:
            return
        now = self._clock()
        self._waiting[task] = visit, now
        task.add_done_callback(self._sent)
        if len(self._waiting) <= self._most:
            self._looks = 0
        elif now >= self._next_look:
            self._next_look = now + _LOOK
            self._looks += 1
            if self._looks > _LOOKS:
                self._looks = 0  # what is closed now takes a moment to end, and must not count once more
                self._cut_off(now)

    def _sent(self, task: asyncio.Task[object]) -> None:
        del self._waiting[task]

    def _cut_off(self, now: float) -> None:
        """Close the connections of whoever has most answers waiting, those with the most of them first."""
        peers: dict[str, Counter[str]] = {}
        for visit, since in self._waiting.values():
            if now - since < _SECONDS:
                break
            if not visit.address:  # a proxy's connection is many callers'
                peers.setdefault(visit.who, Counter())[visit.peer] += 1
        over = len(self._waiting) - self._most
        while over > 0 and peers:
            largest = max(peers, key=lambda who: peers[who].total())
            peer, answers = peers[largest].most_common(1)[0]
            del peers[largest][peer]
            if not peers[largest]:
                del peers[largest]
            self._closing.close(peer)
            over -= answers
