"""The ports: what listens, on which address, with which limits."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import prometheus_client
import structlog
from grpc_health.v1 import health_pb2_grpc

from glimpse.server.access.control import AccessControl
from glimpse.server.access.receiving import Received
from glimpse.server.access.unauthenticated import MOST_BYTES
from glimpse.server.floods.connection_monitor import ConnectionMonitor
from glimpse.server.grpc import arguments, reflection, tls, wakeups
from glimpse.server.grpc.health import HEALTH, Health
from glimpse.server.grpc.repository_servicer import REPOSITORY_SERVICE, ModelRepositoryServicer
from glimpse.server.grpc.servicer import SERVICE, ImageClassifier
from glimpse.server.metrics.exposition import exposed
from glimpse.server.open_inference import servicer as open_inference
from glimpse.server.open_inference.servicer import OpenInference
from glimpse.server.processes.background import keep_running
from glimpse.server.processes.startup import PortTakenError
from glimpse.server.settings import Settings
from glimpse.server.sockets import filters, port_lock
from glimpse.server.sockets.connections import Counters
from glimpse.server.sockets.port_reservation import address, check_free, in_use, is_taken, port_taken
from glimpse.v1 import classifier_pb2_grpc

if TYPE_CHECKING:  # loaded only where the port is wanted
    from glimpse.server.http.port import HttpPort

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SharedPorts:
    """Ports that the supervisor holds for several workers, and what they have to agree on."""

    grpc: int
    health: int | None  # the second port, for probes; None: there is none
    workers: int
    secret: int  # of `filters.spread`
    http: int | None = None  # None: there is none


@dataclass(frozen=True, slots=True)
class Bound:
    """The ports that were bound; they differ from the settings where those ask for a free one."""

    grpc: int
    metrics: int | None  # None: not served
    health: int | None  # the second port, for probes; None: there is none
    http: int | None = None  # None: there is none


_OTHER_FILES = 1024
# Servers that share the port, on Linux: each has a queue of calls of its own, and the kernel gives all connections of
# an address to one of them (`server/sockets/filters.py`). The event loop takes a call from each queue in turn, so
# that what one address leaves behind delays only those who share its queue. One more costs a millisecond at the start.
_QUEUES = 64 if sys.platform == "linux" else 1


@dataclass(frozen=True, slots=True)
class Servicers:
    """What answers the methods of each service."""

    classifier: ImageClassifier
    repository: ModelRepositoryServicer
    health: Health
    open_inference: OpenInference | None = None  # None: nobody answers that protocol


class Ports:
    """The ports of one server: gRPC, health checks for probes that speak no TLS, and metrics."""

    def __init__(
        self,
        settings: Settings,
        servicers: Servicers,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        metrics: prometheus_client.CollectorRegistry,
        *,
        of_probes: Sequence[grpc.aio.ServerInterceptor],
        access: AccessControl,
        monitor: ConnectionMonitor | None = None,
        shared: SharedPorts | None = None,
    ) -> None:
        """Put the servers together; nothing listens yet. Needs a running event loop.

        `interceptors` are those of the main port, `of_probes` those of the port for health checks alone. `shared`: the
        ports are those of several processes, whose supervisor serves /metrics; None: they are this process's alone.
        """
        self._settings = settings
        self._servicers = servicers
        self._shared = shared
        self._metrics = metrics
        self._access = access
        self._monitor = monitor
        self.http: HttpPort | None = None  # of HTTP/JSON; to be set before the ports are opened
        self._opened = ExitStack()
        self._freshness: asyncio.Task[None] | None = None
        wakeups.wake_once()
        # gRPC counts the connections of each server alone; those of all are counted by the connection monitor.
        queues = 1 if monitor is None else _QUEUES
        shares_port = queues > 1 or shared is not None
        self._servers = [self._server(interceptors, shares_port=shares_port) for _ in range(queues)]
        self._probes: grpc.aio.Server | None = None
        if settings.health_port is not None:
            options = [
                *arguments.of_connections(settings, shares_port=shared is not None),
                *arguments.of_messages(MOST_BYTES),
            ]
            self._probes = grpc.aio.server(interceptors=of_probes, options=options)
            health_pb2_grpc.add_HealthServicer_to_server(servicers.health, self._probes)

    async def open(self) -> Bound:
        """Listen. Health answers NOT_SERVING and everything else NOT_READY until the model is loaded.

        Raises:
            PortTakenError: expected; the message says what to do.
        """
        settings = self._settings
        shared = self._shared
        if shared is None:  # else the supervisor has looked
            check_free(settings.host, settings.ports)
        metrics = self._open_metrics() if settings.serve_metrics and shared is None else None
        main = await self._listen_together()
        if settings.unix_socket is not None:
            self._listen_locally(settings.unix_socket)
        http = self._open_http()
        self._access.receiving.follow(received=self._received(Counters(main)))
        self._access.closing.ports.append(main)
        if self._access.connections is not None:
            self._access.connections.ports = [main] if http is None else [main, http]
        health = None
        if self._probes is not None and settings.health_port is not None:
            port = settings.health_port if shared is None or shared.health is None else shared.health
            health = self._listen(self._probes, port, "GLIMPSE_HEALTH_PORT")
            self._access.closing.ports.append(health)
            await self._probes.start()
        for server in self._servers:
            await server.start()
        if shared is not None:
            filters.spread(main, len(self._servers), workers=shared.workers, secret=shared.secret)
        elif len(self._servers) > 1:
            filters.spread(main, len(self._servers))
        if self._monitor is not None:
            self._monitor.start(main, *([] if http is None else [http]))
        self._freshness = keep_running("credentials", self._access.keep_fresh)
        return Bound(main, metrics, health, http)

    async def drain(self, seconds: float) -> None:
        """Take no more calls; give those in flight so long to end. Probes are answered until they have."""
        ending = [server.stop(seconds) for server in self._servers]
        await asyncio.gather(*ending, *([] if self.http is None else [self.http.drain(seconds)]))
        if self._probes is not None:
            await self._probes.stop(0)
        if self._freshness is not None:
            self._freshness.cancel()

    def close(self) -> None:
        """Stop answering /metrics, and write what is left to write, after everything else has ended."""
        self._opened.close()
        if self.http is not None:
            self.http.close()
        if self._monitor is not None:
            self._monitor.stop()
        self._access.close()

    def _server(self, interceptors: Sequence[grpc.aio.ServerInterceptor], *, shares_port: bool) -> grpc.aio.Server:
        settings, servicers = self._settings, self._servicers
        options = [
            *arguments.of_connections(settings, shares_port=shares_port),
            *arguments.of_messages(settings.max_message_bytes),
            # Compressed messages are decompressed when it is their turn, see server/grpc/decompression.py.
            ("grpc.per_message_decompression", 0),
        ]
        server = grpc.aio.server(interceptors=interceptors, options=options)
        by_name: Any = _ByName(server)
        classifier_pb2_grpc.add_ImageClassifierServicer_to_server(servicers.classifier, by_name)
        classifier_pb2_grpc.add_ModelRepositoryServicer_to_server(servicers.repository, by_name)
        services = [SERVICE, REPOSITORY_SERVICE]
        if settings.serve_health:
            health_pb2_grpc.add_HealthServicer_to_server(servicers.health, server)
            services.append(HEALTH)
        pools = []
        if servicers.open_inference is not None:
            servicers.open_inference.add_to(server)
            services.append(open_inference.SERVICE)
            pools.append(open_inference.POOL)
        if settings.serve_reflection:
            reflection.add_to(server, services, *pools)
        return server

    async def _listen_together(self) -> int:
        """Have all servers listen on one port, which no other process has."""
        port = self._settings.port
        _allow_files(len(self._servers) * self._settings.max_connections)
        if self._shared is not None:  # the supervisor has looked
            return self._listen_on(self._shared.grpc)
        if len(self._servers) == 1 or not port:  # a free port is nobody else's
            return self._listen_on(port)
        async with port_lock.held(port):
            if is_taken(self._settings.host, port):
                # What shares a port with its own kind would share it with another process, too, without a word.
                raise in_use(self._settings.host, port, "GLIMPSE_PORT")
            return self._listen_on(port)

    def _listen_on(self, port: int) -> int:
        """Have all servers listen; where the system lets no two share a port, the first one alone."""
        certificates = self._access.certificates
        for number, each in enumerate(self._servers):
            credentials = None if certificates is None else tls.server_credentials(certificates)
            try:
                port = self._listen(each, port, "GLIMPSE_PORT", credentials)
            except PortTakenError as error:
                if not number:
                    raise
                _log.warning("one queue for all callers", detail=f"Sockets cannot share the port. {error}")
                del self._servers[number:]
                break
        return port

    def _listen(
        self, server: grpc.aio.Server, port: int, setting: str, credentials: grpc.ServerCredentials | None = None
    ) -> int:
        host = self._settings.host
        shown = address(host, port)
        try:
            if credentials is None:
                return int(server.add_insecure_port(shown))
            return int(server.add_secure_port(shown, credentials))
        except RuntimeError as error:
            raise port_taken(host, port, _said(error), setting) from error

    def _listen_locally(self, path: Path) -> None:
        """Have the first server listen on a Unix socket, too, under the same rules as on the port."""
        advice = "Remove the file or stop the program that uses it, or choose another GLIMPSE_UNIX_SOCKET."
        if _answers(path):  # gRPC would take its name away without a word
            raise PortTakenError(f"Cannot listen on unix:{path}: a program listens there. {advice}")
        certificates = self._access.certificates
        try:
            if certificates is None:
                self._servers[0].add_insecure_port(f"unix:{path}")
            else:
                self._servers[0].add_secure_port(f"unix:{path}", tls.server_credentials(certificates))
        except RuntimeError as error:
            raise PortTakenError(f"Cannot listen on unix:{path}: {_said(error)}. {advice}") from error

    def _open_http(self) -> int | None:
        """Listen for HTTP, where that is wanted; returns the port."""
        if self.http is None or self._settings.http_port is None:
            return None
        shared = None if self._shared is None else self._shared.http
        return self.http.open(self._settings.http_port if shared is None else shared, shared=shared is not None)

    def _received(self, counters: Counters) -> Received:
        """Tells how many bytes the connections of all ports have received."""
        http = self.http
        if http is None:
            return counters.received

        def received(peers: Iterable[str]) -> dict[str, int]:
            found = http.received(peers)
            return found | counters.received(each for each in peers if each not in found)

        return received

    def _open_metrics(self) -> int:
        exposition = exposed(self._settings.host, self._settings.metrics_port, self._metrics)
        self._opened.callback(exposition.close)
        return exposition.port


class _ByName:
    """A server to which services are added whose methods gRPC finds by their names alone.

    grpc.aio awaits the next call of each registered method by a future of its own, and all of these futures anew for
    each call: with a dozen methods that is 2% of what a small image costs the event loop. Health checks stay
    registered, so that they do not queue behind other calls in gRPC.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """They are found by name."""


def _said(error: RuntimeError) -> str:
    """What gRPC says, without how it could be made to say more."""
    return str(error).partition(";")[0].rstrip(".")


def _answers(path: Path) -> bool:
    """Whether a program listens on a Unix socket; one that nobody listens on any more is left behind by a crash."""
    if not hasattr(socket, "AF_UNIX"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except TimeoutError:  # its backlog is full
            return True
        except OSError:
            return False
    return True


def _allow_files(connections: int) -> None:
    """Let the process open a file for each of so many connections, as far as it may: else nobody can connect."""
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a sandbox that forbids it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
