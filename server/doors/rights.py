"""Open streams and the rights of their callers: a stream ends when the caller's token or certificate does.

A lone call that was accepted is answered even if the right ends meanwhile: it takes seconds. A stream may go on for
days. So its caller's right is checked before each piece is worked on and before each is answered, and at intervals for
the streams that are silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from glimpse.server.doors.visit import Visit


class OpenStreams:
    """Those whose callers have shown a token or a certificate. Lives on the event loop; not for other threads."""

    def __init__(self) -> None:
        self._open: dict[int, Visit] = {}  # by the visit's id

    @contextmanager
    def held(self, visit: Visit) -> Iterator[None]:
        """Look at the visitor's rights while the block runs, in the task that answers the stream."""
        if visit.token is None and visit.connection is None:
            yield
            return
        visit.task = asyncio.current_task()
        self._open[id(visit)] = visit
        try:
            yield
        finally:
            del self._open[id(visit)]

    def look(self) -> None:
        """End the streams whose callers have lost their right."""
        for visit in list(self._open.values()):
            still_good(visit)


def still_good(visit: Visit) -> bool:
    """Whether the visitor still has the right to what they ask for, and how much of it; else the stream is ended."""
    for right in (visit.token, visit.connection):
        if right is not None and (why := right.lost(visit)) is not None:
            visit.end(why)
            return False
    return True
