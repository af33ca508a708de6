"""Closes connections whose callers read neither the answers to their calls nor that these have ended.

gRPC keeps a call until its last answer has been sent, and has no way for a server to drop it before.
"""

from __future__ import annotations

import asyncio

import structlog

from glimpse.server.sockets import connections
from glimpse.server.sockets.connections import Endpoint

_log = structlog.get_logger(__name__)

_PAUSE = 0.1  # seconds: looking for one connection among a thousand takes some milliseconds, so that many wait for it


class Closing:
    """Connections that are to be closed. Lives on the event loop; not for other threads."""

    def __init__(self) -> None:
        self.ports: list[int] = []  # that connections are accepted on
        self._due: set[Endpoint] = set()
        self._task: asyncio.Task[None] | None = None

    def close(self, peer: str) -> None:
        """Have the connection from `peer`, as gRPC writes it, closed in a moment."""
        end = connections.endpoint(peer)
        if end is None:
            return
        self._due.add(end)
        if self._task is None:
            self._task = asyncio.create_task(self._close())

    async def _close(self) -> None:
        try:
            while self._due:
                await asyncio.sleep(_PAUSE)
                due, self._due = self._due, set()
                for port in self.ports:
                    try:
                        closed = await asyncio.to_thread(connections.close_all, port, due)
                    except OSError:  # no more files can be opened: later
                        self._due |= due
                        continue
                    if closed:
                        _log.info(
                            "connections closed",
                            number=len(closed),
                            detail="The callers did not read the final status of their calls.",
                        )
        finally:
            self._task = None
