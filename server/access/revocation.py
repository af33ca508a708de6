"""Revocation: an open stream ends when the token or the certificate of its caller is no longer valid.

A single call that was accepted is answered even if the credential is revoked meanwhile: it takes seconds. A stream may
go on for days. So the credentials of its caller are checked before each request on it is worked on and before each is
answered, and at intervals for the streams that are silent.
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
    def watched(self, call: CallContext) -> Iterator[None]:
        """Check the caller's credentials while the block runs, in the task that answers the stream."""
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
        """End the streams of callers whose credentials are no longer valid."""
        for call in list(self._open.values()):
            still_authorized(call)


def still_authorized(call: CallContext) -> bool:
    """Whether the credentials of the caller are still valid; if not, the stream is ended."""
    for credential in (call.token, call.connection):
        if credential is not None and (why := credential.revoked(call)) is not None:
            call.end(why)
            return False
    return True
