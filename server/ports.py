"""The ports: what listens, on which address, with which limits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
import grpc.aio
import prometheus_client
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from glimpse.v1 import classifier_pb2_grpc
from server.health import Health
from server.servicer import SERVICE, ImageClassifier
from server.settings import Settings
from server.startup import PortTakenError

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


@dataclass(frozen=True, slots=True)
class Bound:
    """The ports that were bound; they differ from the settings where those ask for a free one."""

    grpc: int
    metrics: int


class Ports:
    """The doors of one server: gRPC and metrics."""

    def __init__(
        self,
        settings: Settings,
        classifier: ImageClassifier,
        health: Health,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        metrics: prometheus_client.CollectorRegistry,
    ) -> None:
        """Put the servers together; nothing listens yet. Needs a running event loop."""
        self._settings = settings
        self._metrics = metrics
        self._opened = ExitStack()
        self._grpc = grpc.aio.server(
            interceptors=interceptors,
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                # On by default, it would let a second server start silently on the same port.
                ("grpc.so_reuseport", 0),
            ],
        )
        classifier_pb2_grpc.add_ImageClassifierServicer_to_server(classifier, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(health, self._grpc)
        _add_reflection(self._grpc)

    async def open(self) -> Bound:
        """Listen. Health answers NOT_SERVING and everything else NOT_READY until the model is loaded.

        Raises:
            PortTakenError: expected; the message says what to do.
        """
        metrics = self._open_metrics()
        host = self._settings.host
        address = f"[{host}]:{self._settings.port}" if ":" in host else f"{host}:{self._settings.port}"
        try:
            port = self._grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise PortTakenError(
                f"Cannot listen on {address}: {error}. Stop what listens there, or choose another GLIMPSE_PORT."
            ) from error
        await self._grpc.start()
        return Bound(int(port), metrics)

    async def drain(self, seconds: float) -> None:
        """Take no more calls; give those in flight so long to end."""
        await self._grpc.stop(seconds)

    def close(self) -> None:
        """Stop answering /metrics, after everything else has ended."""
        self._opened.close()

    def _open_metrics(self) -> int:
        host, port = self._settings.host, self._settings.metrics_port
        try:
            httpd, thread = prometheus_client.start_http_server(port, host, self._metrics)
        except OSError as error:
            raise PortTakenError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Stop what listens there, or choose another "
                "GLIMPSE_METRICS_PORT."
            ) from error
        # Undone from the last to the first.
        self._opened.callback(thread.join)
        self._opened.callback(httpd.server_close)
        self._opened.callback(httpd.shutdown)
        return int(httpd.server_port)


def _add_reflection(server: grpc.aio.Server) -> None:
    """Reflection as v1alpha, which the library brings, and as v1, whose messages are the same on the wire."""
    servicer = reflection.aio.ReflectionServicer(
        service_names=(SERVICE, HEALTH, reflection.SERVICE_NAME, _REFLECTION_V1)
    )
    add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(_REFLECTION_V1, {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((generic,))
