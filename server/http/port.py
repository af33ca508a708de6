"""The HTTP port: listens, bounds connections, speaks TLS with the certificates that lie in their files now, drains."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterable
from email.utils import formatdate
from functools import partial
from typing import Any

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from glimpse.server.access.control import AccessControl
from glimpse.server.floods.guard import Guard
from glimpse.server.http.connection import Connection, peer_of
from glimpse.server.processes.background import keep_running
from glimpse.server.processes.startup import StartupError
from glimpse.server.settings import Settings
from glimpse.server.sockets.addresses import counted_address
from glimpse.server.sockets.port_reservation import reserve

_SWEEP = 1.0  # seconds between two looks at all connections
_IDLE = 60  # seconds that a connection without requests stays open
_BACKLOG = 1024  # connections that the kernel holds until they are accepted
_ACCEPTS = 64  # connections accepted before others have their turn on the event loop
_PAUSE = 0.5  # seconds until the next connection is accepted where the process cannot open any more files
_TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class HttpPort:
    """The port of one process. Lives on the event loop; not for other threads."""

    def __init__(self, app: ASGIApp, settings: Settings, access: AccessControl, guard: Guard) -> None:
        """Serve `app`, an ASGI application that does not fail; nothing listens yet.

        `guard` says from which addresses no connections are accepted for now, and is told of what is no HTTP.
        """
        self._settings, self._access, self._guard = settings, access, guard
        # It logs nothing of what callers do; whoever answers writes our log.
        self._config = Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=int(min(settings.max_connection_idle_seconds or _IDLE, _IDLE)),
            h11_max_incomplete_event_size=settings.max_metadata_bytes,
        )
        self._config.load()
        self._state = ServerState()
        self._sockets: list[socket.socket] = []
        self._port = 0
        self._open = 0  # connections, from the moment in which they are accepted
        self._of = Counter[str]()  # the same, by address
        self._accepting: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self._by_peer: dict[str, Connection] = {}

    def open(self, port: int, *, shared: bool) -> int:
        """Listen; returns the port, which differs from `port` where that is 0.

        `shared`: the supervisor has reserved the port, and other workers listen on it, too.

        Raises:
            PortTakenError, StartupError: expected; the message says what to do.
        """
        held, port = reserve(self._settings.host, port, "GLIMPSE_HTTP_PORT", shared=shared)
        loop = asyncio.get_running_loop()
        for each in held:
            each.settimeout(0)
            each.listen(_BACKLOG)
            try:
                loop.add_reader(each.fileno(), self._accept, each)
            except NotImplementedError:  # Windows
                raise StartupError("GLIMPSE_HTTP_PORT does not work on this system. Leave it unset.") from None
        self._sockets, self._port = held, port
        self._sweeping = keep_running("HTTP connections", self._sweep)
        return port

    def received(self, peers: Iterable[str]) -> dict[str, int]:
        """Bytes received so far on the connections from `peers`, as gRPC writes them; unknown ones are left out."""
        return {peer: found.received for peer in peers if (found := self._by_peer.get(peer)) is not None}

    async def drain(self, seconds: float) -> None:
        """Take no more requests; give those in flight so long to end, and then end them."""
        self._listen_no_more()
        for each in self._connections():
            each.shutdown()
        await self._until_none(seconds)
        for task in list(self._state.tasks):
            task.cancel()  # whoever answers says that the server drains
        await self._until_none(_SWEEP)
        for each in self._connections():
            each.transport.abort()

    def close(self) -> None:
        """Listen no more, and forget all connections; after a drain there are none."""
        self._listen_no_more()
        for each in self._connections():
            each.transport.abort()
        for task in self._accepting:
            task.cancel()
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _connections(self) -> list[Connection]:
        return [each for each in self._state.connections if isinstance(each, Connection)]

    async def _until_none(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._open and time.monotonic() < end:
            for each in self._connections():
                if each.idle and not each.transport.is_closing():
                    each.shutdown()
            await asyncio.sleep(0.02)

    def _listen_no_more(self) -> None:
        loop = asyncio.get_running_loop()
        for each in self._sockets:
            loop.remove_reader(each.fileno())
            each.close()
        self._sockets = []

    def _accept(self, listening: socket.socket) -> None:
        """Connections wait to be accepted."""
        for _ in range(_ACCEPTS):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _TOO_MANY_FILES:
                    self._pause(listening)
                    return
                raise
            self._take(accepted, address)

    def _pause(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())

        def resume() -> None:
            if listening in self._sockets:
                loop.add_reader(listening.fileno(), self._accept, listening)

        loop.call_later(_PAUSE, resume)

    def _take(self, accepted: socket.socket, address: tuple[Any, ...]) -> None:
        host = counted_address(str(address[0]))
        settings = self._settings
        if (
            self._open >= settings.max_connections
            or self._of[host] >= settings.connections_per_address
            or (settings.flood_guard and self._guard.blocks(host, time.monotonic()))
        ):
            accepted.close()
            return
        self._open += 1
        self._of[host] += 1
        task = asyncio.get_running_loop().create_task(self._begin(accepted, address, host))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _begin(self, accepted: socket.socket, address: tuple[Any, ...], host: str) -> None:
        loop, settings = asyncio.get_running_loop(), self._settings
        accepted.settimeout(0)
        peer, over = peer_of(address), False

        def lost() -> None:
            nonlocal over
            if not over:
                over = True
                self._lost(peer, host)

        with contextlib.suppress(OSError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        make = partial(
            Connection,
            self._config,
            self._state,
            ends=(address, self._port),
            patience=settings.handshake_seconds,
            malformed=lambda: self._guard.malformed(peer, self._port),
            lost=lost,
        )
        tls = None if self._access.certificates is None else self._access.certificates.latest.context
        try:
            _, connection = await loop.connect_accepted_socket(
                make,
                accepted,
                ssl=tls,
                **({} if tls is None else {"ssl_handshake_timeout": settings.handshake_seconds}),
            )
        except (OSError, ssl.SSLError, TimeoutError):  # no TLS, or none that is trusted
            accepted.close()
            lost()
        except BaseException:
            accepted.close()
            lost()
            raise
        else:
            if not over:
                self._by_peer[peer] = connection

    def _lost(self, peer: str, host: str) -> None:
        self._open -= 1
        self._of[host] -= 1
        if not self._of[host]:
            del self._of[host]
        self._by_peer.pop(peer, None)

    async def _sweep(self) -> None:
        """Every second: the date of responses, and an end to connections whose other end takes nothing."""
        while True:
            self._state.default_headers[:] = [(b"date", formatdate(usegmt=True).encode("ascii"))]
            now = time.monotonic()
            for each in self._connections():
                unsent = each.transport.get_write_buffer_size()
                moved, each.unsent = unsent < each.unsent, unsent
                if not unsent and not each.transport.is_closing():
                    each.unsent_since = None
                elif each.unsent_since is None or moved:
                    each.unsent_since = now
                elif now - each.unsent_since > self._settings.upload_seconds:
                    each.transport.abort()
            await asyncio.sleep(_SWEEP)
