"""A server's health, by the standard service `grpc.health.v1`.

Its two messages have one field each, and their bytes are written and read here by hand. The package that has them,
grpcio-health-checking, would be one more dependency of everybody who installs the client; neither grpcio nor
googleapis-common-protos, which the client has, brings them. A test compares these bytes with that package's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import grpc
import grpc.aio

from glimpse.client.channel import SERVICE
from glimpse.client.errors import Code, GlimpseError
from glimpse.client.status import from_rpc_error

HEALTH_SERVICE = "grpc.health.v1.Health"
_CHECK = f"/{HEALTH_SERVICE}/Check"


class Serving(StrEnum):
    """`HealthCheckResponse.ServingStatus`, in the order of its numbers."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"


@dataclass(frozen=True, slots=True)
class Health:
    """The state of one server."""

    live: Serving  # of the process; whoever operates it restarts it if not SERVING for long
    ready: Serving  # of the classifier: NOT_SERVING while it loads or drains

    @property
    def serving(self) -> bool:
        """Whether the server takes images."""
        return self.live is self.ready is Serving.SERVING


def check(
    channel: grpc.Channel,
    target: str,
    *,
    timeout: float,
    metadata: tuple[tuple[str, str], ...],
    wait_for_ready: bool,
) -> Health:
    """Ask one server of a channel.

    Args:
        channel: to it.
        target: for messages.
        timeout: seconds to wait for each of the two answers.
        metadata: of the calls.
        wait_for_ready: wait for a server that is not there yet.

    Raises:
        GlimpseError: no answer; see the tree in `client.errors`.
    """
    call = channel.unary_unary(_CHECK, _to_request, _from_response)

    def ask(service: str) -> Serving:
        try:
            return Serving(call(service, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready))
        except grpc.RpcError as error:
            return _unless_unknown(from_rpc_error(error, target, service=HEALTH_SERVICE), error)

    return Health(live=ask(""), ready=ask(SERVICE))


async def check_async(
    channel: grpc.aio.Channel,
    target: str,
    *,
    timeout: float,  # noqa: ASYNC109  (gRPC's own, which the server hears of, too)
    metadata: tuple[tuple[str, str], ...],
    wait_for_ready: bool,
) -> Health:
    """The same as `check` on a channel of asyncio's."""
    call: Any = channel.unary_unary(_CHECK, _to_request, _from_response)

    async def ask(service: str) -> Serving:
        try:
            return Serving(await call(service, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready))
        except grpc.RpcError as error:
            return _unless_unknown(from_rpc_error(error, target, service=HEALTH_SERVICE), error)

    return Health(live=await ask(""), ready=await ask(SERVICE))


def _unless_unknown(error: GlimpseError, cause: grpc.RpcError) -> Serving:
    """What it says of a service that it does not know; any other error is raised."""
    if error.code is Code.NOT_FOUND:
        return Serving.SERVICE_UNKNOWN
    raise error from cause


def _to_request(service: str) -> bytes:
    """`HealthCheckRequest {string service = 1;}`: the field's tag (number 1, length-delimited), a length, the name."""
    name = service.encode()
    return b"\x0a" + bytes([len(name)]) + name if name else b""  # names are shorter than 128: the length is one byte


def _from_response(data: bytes) -> Serving:
    """`HealthCheckResponse {ServingStatus status = 1;}`: the field's tag (number 1, varint) and a number; no 0."""
    known = tuple(Serving)
    if len(data) == 2 and data[0] == 0x08 and data[1] < len(known):
        return known[data[1]]
    return Serving.UNKNOWN
