"""One HTTP/1.1 connection: uvicorn's protocol, with limits of the time and the memory that a stranger can take.

uvicorn waits for the head of a request as long as it takes, and reads on while nobody has asked for the body. Here a
head has `handshake_seconds`, and so has what comes of a body after its response; of a body, so much is read at once
as one read of the socket returns, and the next only when whoever answers asks for it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from glimpse.server.access.peer_certificate import PeerCertificate

# Names of RFC 4514 for what Python calls by long names; others stay as they are.
_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}


class Connection(H11Protocol):
    """A connection that was accepted."""

    def __init__(
        self, config: Config, state: ServerState, *, address: tuple[Any, ...], patience: float, lost: Callable[[], None]
    ) -> None:
        """Made for each connection by the port.

        Args:
            config: of uvicorn.
            state: of uvicorn, shared by all connections.
            address: the other end, as the socket names it.
            patience: seconds that the head of a request may take.
            lost: called once the connection is over.
        """
        super().__init__(config, state, {"connection": self})
        self.peer = peer_of(address)  # as gRPC writes it
        self.received = 0  # bytes
        self.unsent_since: float | None = None  # since when its other end does not take what was sent
        self._patience, self._lost = patience, lost
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It is there; its first request has to follow."""
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        self.received += len(data)
        super().data_received(data)
        self._look()
        if self._busy() and self.cycle.more_body:
            self.flow.pause_reading()  # until whoever answers asks for more

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_waiting()
        super().connection_lost(exc)
        self._lost()

    def on_response_complete(self) -> None:
        """A response has been written; the next request may be here already."""
        super().on_response_complete()
        self._look()

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered."""
        return not self._busy()

    def certificate(self) -> PeerCertificate:
        """What the certificate of the other end says; empty where it has shown none."""
        tls = self.transport.get_extra_info("ssl_object")
        der = None if tls is None else tls.getpeercert(binary_form=True)
        if not der:
            return PeerCertificate()
        shown: dict[str, Any] = tls.getpeercert()
        names = shown.get("subjectAltName", ())
        subject = [pair for part in shown.get("subject", ()) for pair in part]
        return PeerCertificate(
            [value for kind, value in names if kind == "URI"],
            [value for kind, value in names if kind == "DNS"],
            next((value for kind, value in subject if kind == "commonName"), ""),
            ",".join(f"{_SHORT.get(kind, kind)}={value}" for kind, value in reversed(subject)),
            ssl.DER_cert_to_PEM_cert(der).encode("ascii"),
        )

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        """Wait for the end of a head that has begun, or of a body that nobody reads; a timer waits for it."""
        between = self.cycle is not None and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if self._busy() or between:  # between two requests, uvicorn waits
            self._stop_waiting()
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(self._patience, self._too_late)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_late(self) -> None:
        self._head = None
        self.transport.abort()


def peer_of(address: tuple[Any, ...]) -> str:
    """A socket's address as gRPC writes it: `ipv4:192.0.2.1:40000` or `ipv6:%5B2001:db8::1%5D:40000`.

    An IPv4 address that was mapped into IPv6 is written as IPv4.
    """
    host, port = ipaddress.ip_address(str(address[0]).partition("%")[0]), int(address[1])
    plain = (host.ipv4_mapped or host) if isinstance(host, ipaddress.IPv6Address) else host
    return f"ipv4:{plain}:{port}" if plain.version == 4 else f"ipv6:%5B{plain}%5D:{port}"
