"""`grpc.health.v1`: Check and Watch over what the server is: alive, and ready.

The empty name is liveness: NOT_SERVING means that only another process can help. The name of a service is readiness:
NOT_SERVING means that calls should go elsewhere for now. The name of the service with that of a model behind it,
`glimpse.v1.ImageClassifier/NAME`, is the readiness of this model alone.

grpcio-health-checking brings the messages. Its own asyncio servicer is not used: it starts as SERVING
and forgets all watchers of a service when one of them leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from glimpse.server.errors import shown

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the library ships no types
    """NOT_SERVING until told otherwise."""

    def __init__(self, *services: str) -> None:
        """Answer for `""` and for `services`, by full name."""
        self._status = dict.fromkeys(("", *services), _NOT_SERVING)
        self._models: set[str] = set()  # names that stand for one model each
        self._closed = False
        self._changed = asyncio.Condition()

    async def tell(self, *, alive: bool, ready: bool, models: Mapping[str, bool] | None = None) -> None:
        """Change the status of `""` and of the services, and tell the watchers.

        `models`: names that stand for one model each, and whether that is ready; they replace those that were told.
        """
        models = models or {}
        async with self._changed:
            for gone in self._models - models.keys():
                del self._status[gone]
            self._models = set(models)
            for name in self._status:
                self._status[name] = _SERVING if (ready if name else alive) else _NOT_SERVING
            for name, is_ready in models.items():
                self._status[name] = _SERVING if is_ready else _NOT_SERVING
            self._changed.notify_all()

    async def close(self) -> None:
        """End the watches, which would otherwise keep a draining server waiting for its watchers to leave."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802 - the contract's name
        """The status of one service; NOT_FOUND where it does not exist."""
        if request.service not in self._status:
            # Not the models: anybody may ask here, also who may not classify.
            known = ", ".join(sorted(filter(None, self._status.keys() - self._models)))
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"There is no service {shown(request.service)}. Use {known}, or the empty name. A model of a "
                "repository has the name of the service with its own behind it: glimpse.v1.ImageClassifier/NAME.",
            )
        return health_pb2.HealthCheckResponse(status=self._status[request.service])

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the contract's name
        """The status of one service, now and at each change; SERVICE_UNKNOWN where it does not exist."""

        def status() -> Any:
            return self._status.get(request.service, _SERVICE_UNKNOWN)

        last = None
        while True:
            if status() != last:
                last = status()
                # Not under the lock: a watcher that does not read must not hold up the others.
                await context.write(health_pb2.HealthCheckResponse(status=last))
            elif self._closed:  # only after the last status has been told
                return
            async with self._changed:
                while not self._closed and status() == last:
                    await self._changed.wait()
