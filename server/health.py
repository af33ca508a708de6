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

from server.errors import shown

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the library ships no types
    """NOT_SERVING until told otherwise, the same for `""` (the server) and for every service."""

    def __init__(self, *services: str) -> None:
        """Answer for `""` and for `services`, by full name."""
        self._names = frozenset({"", *services})
        self._status = _NOT_SERVING
        self._closed = False
        self._changed = asyncio.Condition()

    async def set_serving(self, *, serving: bool) -> None:
        """Change the status and tell the watchers."""
        async with self._changed:
            self._status = _SERVING if serving else _NOT_SERVING
            self._changed.notify_all()

    async def close(self) -> None:
        """End the watches, which would otherwise keep a draining server waiting for its watchers to leave."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802 - the contract's name
        """The status of one service; NOT_FOUND where it does not exist."""
        if request.service not in self._names:
            known = ", ".join(sorted(self._names - {""}))
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"No service {shown(request.service)}. Known: {known}, and the empty name."
            )
        return health_pb2.HealthCheckResponse(status=self._status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the contract's name
        """The status of one service, now and at each change; SERVICE_UNKNOWN where it does not exist."""

        def status() -> Any:
            return self._status if request.service in self._names else _SERVICE_UNKNOWN

        last = None
        while not self._closed:
            if status() != last:
                last = status()
                # Not under the lock: a watcher that does not read must not hold up the others.
                await context.write(health_pb2.HealthCheckResponse(status=last))
            async with self._changed:
                while not self._closed and status() == last:
                    await self._changed.wait()
