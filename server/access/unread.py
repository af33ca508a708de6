"""Answers that are ready and that their callers have not taken: how many there may be.

gRPC holds an answer, and with it the call, some 33 KB, until its caller grants the bytes: HTTP/2 lets a caller grant
none, for a thousand calls of each connection. By then a call has given back its place among those that are worked on.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.closing import Closing

_MOST = 2048  # of all callers; 66 MB
_SECONDS = 1.0  # that one may wait for its caller, however many there are
_LOOK = 0.1  # seconds between two looks for those who are to be cut off, while there are more
_LOOKS = 5  # that find too many in a row first: after a moment in which the process stood still, all have waited long


class Unread:
    """All of them on one server. Lives on the event loop; not for other threads."""

    def __init__(self, closing: Closing, *, most: int = _MOST, clock: Callable[[], float] = time.monotonic) -> None:
        """Have connections closed by `closing` where more than `most` answers wait: of whoever has most of them."""
        self._closing, self._most, self._clock = closing, most, clock
        # With the call and since when, the oldest first. Those whose answers have been taken are found by looking at
        # the oldest ones, whenever another comes: that each of them told us would cost more than all the rest here.
        # A task that has ended is not held here, for it may hold an error, and with that a message of megabytes.
        self._waiting: deque[tuple[weakref.ref[asyncio.Task[object]], CallContext, float]] = deque()
        self._next_look = 0.0
        self._looks = 0  # in a row that have found too many

    def __len__(self) -> int:
        return sum(not _over(task) for task, _, _ in self._waiting)

    def send(self, call: CallContext) -> None:
        """What is left to do of a call, in the running task, is to send its answer. Once a call."""
        task = asyncio.current_task()
        if task is None:
            return
        waiting, now = self._waiting, self._clock()
        while waiting and _over(waiting[0][0]):
            waiting.popleft()
        waiting.append((weakref.ref(task), call, now))
        if len(waiting) > self._most and now >= self._next_look:
            self._next_look = now + _LOOK
            self._look(now)
        elif len(waiting) <= self._most:
            self._looks = 0

    def _look(self, now: float) -> None:
        """Find out how many wait in truth, and do something about it where they are too many."""
        self._waiting = deque(each for each in self._waiting if not _over(each[0]))
        self._looks = self._looks + 1 if len(self._waiting) > self._most else 0
        if self._looks > _LOOKS:
            self._looks = 0  # what is closed now takes a moment to end, and must not count once more
            self._cut_off(now)

    def _cut_off(self, now: float) -> None:
        """Close the connections of whoever has most answers waiting, those with the most of them first."""
        peers: dict[str, Counter[str]] = {}
        for _, call, since in self._waiting:
            if now - since < _SECONDS:
                break
            if not call.address:  # a proxy's connection is many callers'
                peers.setdefault(call.who, Counter())[call.peer] += 1
        over = len(self._waiting) - self._most
        while over > 0 and peers:
            largest = max(peers, key=lambda who: peers[who].total())
            peer, answers = peers[largest].most_common(1)[0]
            del peers[largest][peer]
            if not peers[largest]:
                del peers[largest]
            self._closing.close(peer)
            over -= answers


def _over(task: weakref.ref[asyncio.Task[object]]) -> bool:
    running = task()
    return running is None or running.done()
