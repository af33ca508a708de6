"""Open streams and the rights of their callers: a stream ends when the caller's token or certificate does.

A lone call that was accepted is answered even if the right ends meanwhile: it takes seconds. A stream may go on for
days. So its caller's right is checked before each piece is worked on and before each is answered, and at intervals for
the streams that are silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from glimpse.server.access.call_context import CallContext


class OpenStreams:
    """Those whose callers have shown a token or a certificate. Lives on the event loop; not for other threads."""

    def __init__(self) -> None:
        self._open: dict[int, CallContext] = {}  # by the call's id

    @contextmanager
    def held(self, call: CallContext) -> Iterator[None]:
        """Look at the visitor's rights while the block runs, in the task that answers the stream."""
        if call.token is None and call.connection is None:
            yield
            return
        call.task = asyncio.current_task()
        self._open[id(call)] = call
        try:
            yield
        finally:
            del self._open[id(call)]

    def look(self) -> None:
        """End the streams whose callers have lost their right."""
        for call in list(self._open.values()):
            still_good(call)


def still_good(call: CallContext) -> bool:
    """Whether the visitor still has the right to what they ask for, and how much of it; else the stream is ended."""
    for right in (call.token, call.connection):
        if right is not None and (why := right.lost(call)) is not None:
            call.end(why)
            return False
    return True
