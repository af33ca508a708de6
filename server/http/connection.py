"""One HTTP/1.1 connection: uvicorn's protocol, with limits of the time and the memory that a stranger can take.

uvicorn waits for the head of a request as long as it takes, and reads on while nobody has asked for the body. Here a
head has `handshake_seconds`, and so has what comes of a body after its response; of a body, so much is read at once
as one read of the socket returns, and the next only when whoever answers asks for it. A chunked body may not be in
crumbs, each of which would cost the event loop as much as a whole read.
"""

from __future__ import annotations

import asyncio
import contextvars
import ipaddress
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from glimpse.server.access.peer_certificate import PeerCertificate
from glimpse.server.http import problems

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

_FEW = 64  # pieces of a body that one read of the socket may have, however small they are
_PIECE = 64  # bytes that all others have on average
_USUAL_HEAD = 16 << 10  # bytes
_NO_HTTP = "This is not a request of HTTP/1.1. Send one, and over TLS only where the server has a certificate."
_CRUMBS = f"The chunks of the body are too small. Send chunks of at least {_PIECE} bytes, or a Content-Length."
# What else the other end may be told, by the status of HTTP that h11 says is the right one.
_OTHERWISE = {
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "The head of the request, or of a chunk, is larger than "
    "GLIMPSE_MAX_METADATA_BYTES. Send fewer or shorter headers.",
    HTTPStatus.NOT_IMPLEMENTED: "The only Transfer-Encoding is chunked. Send that, or a Content-Length.",
}


class _Parser(h11.Connection):
    """h11 makes an event of each chunk of a body, which takes some 4 microseconds, also for a chunk of one byte.

    All events of a read are handled before anything else has its turn, and before it is known who calls.
    """

    def __init__(self, most: int) -> None:
        """Read requests, whose heads may have `most` bytes."""
        super().__init__(h11.SERVER, most)
        self._most = most
        self.crumbs = False  # whether the body came in chunks that are too small
        self.status = HTTPStatus.BAD_REQUEST  # what is answered to what is no request
        self._pieces = 0  # that may still come before the next read

    def receive_data(self, data: bytes) -> None:
        """One read of the socket."""
        self._pieces = _FEW + len(data) // _PIECE
        super().receive_data(data)

    def next_event(self) -> Any:
        """The next event of what was received.

        Raises:
            RemoteProtocolError: expected; the other end speaks no HTTP, or sends a body in crumbs.
        """
        try:
            event = super().next_event()
            if isinstance(event, h11.Request) and _size(event) > self._most:  # h11 looks while it is incomplete alone
                raise h11.RemoteProtocolError(  # noqa: TRY301 - one place notes the status
                    "The head is too long.", error_status_hint=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                )
        except h11.RemoteProtocolError as error:
            if error.error_status_hint in _OTHERWISE:
                self.status = HTTPStatus(error.error_status_hint)
            raise
        if isinstance(event, h11.Data):
            self._pieces -= 1
            if self._pieces < 0:
                self.crumbs = True
                raise h11.RemoteProtocolError(_CRUMBS)
        return event


def _size(head: h11.Request) -> int:
    """Bytes of the head of a request, without the punctuation."""
    return len(head.target) + sum([len(name) + len(value) for name, value in head.headers])


class Connection(H11Protocol):
    """A connection that was accepted."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        *,
        ends: tuple[tuple[Any, ...], int],
        patience: float,
        malformed: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        """Made for each connection by the port.

        Args:
            config: of uvicorn.
            state: of uvicorn, shared by all connections.
            ends: the other end, as the socket names it, and the port of this process.
            patience: seconds that the head of a request may take.
            malformed: called when what came is no request.
            lost: called once the connection is over.
        """
        super().__init__(config, state, {"connection": self})
        self.conn: _Parser = _Parser(config.h11_max_incomplete_event_size or _USUAL_HEAD)
        self.peer, self.port = peer_of(ends[0]), ends[1]  # the former as gRPC writes it
        self.received = 0  # bytes
        self.unsent = 0  # bytes that were not sent yet when the port last looked
        self.unsent_since: float | None = None  # since when its other end does not take what was sent
        self._patience, self._malformed, self._lost = patience, malformed, lost
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

    def handle_events(self) -> None:
        """Begin what was received, in a context of its own.

        Else a request has that of the one before on its connection, with what that one bound for its log lines.
        """
        contextvars.Context().run(super().handle_events)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_waiting()
        super().connection_lost(exc)
        self._lost()

    def on_response_complete(self) -> None:
        """A response has been written; the next request may be here already."""
        super().on_response_complete()
        self._look()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's, whose text does not say what to do
        """Refuse what is no request, and close the connection."""
        self._malformed()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:  # a response has begun
            self.transport.abort()
            return
        status = self.conn.status
        refusal = problems.response(
            problems.malformed(_CRUMBS if self.conn.crumbs else _OTHERWISE.get(status, _NO_HTTP))
        )
        head = h11.Response(
            status_code=status, headers=[*refusal.raw_headers, (b"connection", b"close")], reason=status.phrase.encode()
        )
        for event in (head, h11.Data(data=bytes(refusal.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

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
