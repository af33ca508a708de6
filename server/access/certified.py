"""Connections of callers with a client certificate, which are closed once the certificate may no longer be valid.

TLS verifies a certificate when a connection is made, and never again. So where a certificate has expired since, or an
authority is no longer trusted, the connection is closed, and a caller whose certificate is still valid connects anew:
then TLS verifies it again. Their calls end with UNAVAILABLE, upon which clients connect anew, and not with a refusal,
because it is not yet known whether the caller would be refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import structlog

from glimpse.server.access import certificates
from glimpse.server.access.audit import Audit
from glimpse.server.access.call_context import CallContext
from glimpse.server.access.peer_certificate import PeerCertificate
from glimpse.server.errors import Reason, UnavailableError
from glimpse.server.sockets import connections
from glimpse.server.sockets.connections import Endpoint

_log = structlog.get_logger(__name__)

_REMEMBERED = 4096  # certificates; reading one anew takes some 30 microseconds
_LINGER = 0.1  # seconds, so that the last call's status is sent before its connection is closed

_expires = lru_cache(_REMEMBERED)(certificates.expires)


@dataclass(slots=True)
class _Ending:
    """A connection that is to end."""

    why: str
    until: float  # on the clock of `time.monotonic`: so long may what is in flight take
    closed: bool = False  # it has been, and is looked for until it is gone: gRPC may have calls of it in hand


@dataclass(slots=True, eq=False)
class CertifiedConnection:
    """A connection with calls in flight."""

    peer: str
    expires: float  # seconds since 1970
    clock: Callable[[], float]
    calls: int = 0  # in flight
    why: str = ""  # it is to end; "": it is not

    def revoked(self, call: CallContext) -> UnavailableError | None:  # noqa: ARG002 - of any of its calls
        """That the connection is to end; None: it is not."""
        if not self.why and self.expires <= self.clock():
            self.why = "the caller's certificate has expired"
        if not self.why:
            return None
        return UnavailableError(
            Reason.DRAINING,
            f"This connection is being closed: {self.why}. Reconnect with a valid certificate.",
            retry_after=_LINGER,
        )


class CertifiedConnections:
    """Those of one port. Lives on the event loop; not for other threads."""

    def __init__(self, patience: float, audit: Audit | None, *, clock: Callable[[], float] = time.time) -> None:
        """Give lone calls on a connection that is to end `patience` seconds to end before it; tell `audit` of it."""
        self.ports: list[int] = []  # that the connections were accepted on; none: not yet known
        self._patience = patience
        self._audit = audit
        self._clock = clock
        self._busy: dict[str, CertifiedConnection] = {}  # by peer
        self._ending: dict[Endpoint, _Ending] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._distrusts = False  # whether all connections are still to end that there are

    def enter(self, call: CallContext, certificate: PeerCertificate) -> None:
        """A call begins; `leave` has to be told of its end.

        Args:
            call: the call.
            certificate: of the caller.

        Raises:
            UnavailableError: expected; DRAINING: its connection is to end.
        """
        connection = self._busy.get(call.peer)
        if connection is None:
            expires = _expires(certificate.pem)
            connection = self._busy[call.peer] = CertifiedConnection(call.peer, expires, self._clock)
            if self._ending and (end := connections.endpoint(call.peer)) in self._ending:
                connection.why = self._ending[end].why
        connection.calls += 1
        call.connection = connection
        if (why := connection.revoked(call)) is not None:
            raise why

    def leave(self, call: CallContext) -> None:
        """A call that has entered is over."""
        connection = call.connection
        if not isinstance(connection, CertifiedConnection):
            return
        connection.calls -= 1
        if not connection.calls:
            self._busy.pop(call.peer, None)
            if connection.why:
                self._end(connections.endpoint(call.peer), connection.why)
                closing = asyncio.create_task(self._close_soon())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    async def look(self, *, distrusts: bool) -> None:
        """Find the connections that are to end, and close those on which nothing is in flight.

        Args:
            distrusts: whether an authority is no longer trusted: then all connections are to end that there are, for
                their callers' certificates may be of that one.

        Raises:
            OSError: the process cannot open any more files; the next look makes up for it.
        """
        self._distrusts = self._distrusts or distrusts  # also where they could not be found the last time
        if self._distrusts:
            found = [each for port in self.ports for each in await asyncio.to_thread(connections.accepted, port)]
            why = "the authorities of callers' certificates have changed"
            for each in found:
                self._end(each.peer, why)
            for busy in self._busy.values():
                busy.why = busy.why or why
            self._distrusts = False
            _log.info("connections are being closed", number=len(found), detail=why)
        for busy in self._busy.values():
            if busy.revoked(_NOBODY) is not None:
                self._end(connections.endpoint(busy.peer), busy.why)

    def _end(self, peer: Endpoint | None, why: str) -> None:
        if peer is not None and peer not in self._ending:
            self._ending[peer] = _Ending(why, time.monotonic() + self._patience)

    async def close_idle(self) -> None:
        """Close the connections that are to end and have nothing in flight, or have had their time."""
        if not self._ending:
            return
        busy, now = {connections.endpoint(peer) for peer in self._busy}, time.monotonic()
        due = {peer for peer, ending in self._ending.items() if peer not in busy or ending.until <= now}
        found = set[Endpoint]()
        for port in self.ports:
            found |= await asyncio.to_thread(connections.close_all, port, due)
        for peer in due:
            ending = self._ending.get(peer)  # None: another look beside this one found it gone
            if peer not in found:
                self._ending.pop(peer, None)
            elif ending is not None and not ending.closed:
                ending.closed = True
                if self._audit is not None:
                    address = f"[{peer.address}]" if ":" in peer.address else peer.address
                    self._audit.connection_ended(f"{address}:{peer.port}", ending.why)

    async def _close_soon(self) -> None:
        await asyncio.sleep(_LINGER)
        with contextlib.suppress(OSError):  # no more files can be opened: at the next look, then
            await self.close_idle()


_NOBODY = CallContext("", "", "")
