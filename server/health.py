"""`grpc.health.v1`: Check and Watch over one status for the whole server.

grpcio-health-checking brings the messages. Its own asyncio servicer is not used: it starts as SERVING
and forgets all watchers of a service when one of them leaves.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpcio ships no type information
    """NOT_SERVING until told otherwise, the same for `""` (the server) and for every service."""

    def __init__(self, *services: str) -> None:
        """Answer for `""` and for `services`, by full name."""
        self._names = frozenset({"", *services})
        self._status = Status.NOT_SERVING
        self._changed = asyncio.Condition()

    async def set_serving(self, *, serving: bool) -> None:
        """Change the status and tell the watchers."""
        async with self._changed:
            self._status = Status.SERVING if serving else Status.NOT_SERVING
            self._changed.notify_all()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Status:  # noqa: N802 - the contract's name
        """The status of one service; NOT_FOUND where it does not exist."""
        if request.service not in self._names:
            known = ", ".join(sorted(self._names - {""}))
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"No service {request.service!r}. Known: {known}, and the empty name."
            )
        return Status(status=self._status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the contract's name
        """The status of one service, now and at each change; SERVICE_UNKNOWN where it does not exist."""
        known = request.service in self._names
        last = None
        async with self._changed:
            while True:
                status = self._status if known else Status.SERVICE_UNKNOWN
                if status != last:
                    await context.write(Status(status=status))
                    last = status
                await self._changed.wait()
