"""One call, as access control sees it: who calls, from where, and what is known of what they asked for."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
import urllib.parse
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from glimpse.server.access.rates import Allowance
from glimpse.server.errors import ServiceError
from glimpse.server.fair_queue import NO_LANE, Lane
from glimpse.server.floods.traffic import Traffic
from glimpse.server.sockets.addresses import counted_address, counted_network
from glimpse.server.tracing import CallSpan

# A client may name its lane, for instance when many of them share a proxy's connection. Only within its own party.
LANE_KEY = "glimpse-client"
_NONE = Traffic(None, "", 0)
_RANDOM = 8  # bytes of the random part of an answer's id
_HOSTS = 4096  # addresses whose host is remembered; finding one anew takes microseconds


class Credential(Protocol):
    """What a caller was let in by: a token or a certificate. It may be revoked while a call is open."""

    def revoked(self, call: CallContext) -> ServiceError | None:
        """Why it is no longer valid; None: it is, and the call has been given what it allows by now."""
        ...


@dataclass(slots=True)
class CallContext:
    """A call from its first to its last byte. Filled in on the way; each request of a stream gets a copy of its own."""

    request_id: str
    method: str  # with its service: glimpse.v1.ImageClassifier/Classify
    peer: str  # the connection's other end, with its port, as gRPC writes it: ipv4:192.0.2.1:40000
    client: str = ""  # what the caller calls itself, unproved
    identity: str = ""  # what the caller has proved to be; "": nothing is asked for
    allowance: Allowance | None = None  # images a second, where the caller's token says so
    address: str = ""  # where a trusted proxy says that the call comes from; "": from where the connection does
    key: str = ""  # by which requests are divided among versions; "": by `who`
    token: Credential | None = None  # by which the caller was let in; None: there is none
    connection: Credential | None = None  # with the certificate that the caller has shown; None: none is asked for
    model: str = ""  # as it was asked for, and the one that has answered
    served: str = ""  # the own name of the model that is asked for, or whatever was asked for; "": not known yet
    detail: str = ""  # what it asks for besides, where it manages models
    images: int = 0
    bytes: int = 0  # of the images
    counted: int = 0  # images that they count for; more where some are worth more than one
    trace: CallSpan | None = None  # its span, where there are traces
    begun: float = field(default_factory=time.monotonic)
    complete: float = 0.0  # when its message was there, on the same clock; 0: not yet
    refused_by_grpc: bool = False  # its message was above the limit, as far as can be known
    turn: float = 0.0  # when the caller's rate lets it in, on the same clock; 0: at once
    suspect: bool = False  # one of too many calls without a good token from its address
    task: asyncio.Task[Any] | None = None  # that answers it, where the server may have to end it
    ended: ServiceError | None = None  # why the server ended it before its time
    traffic: Traffic = _NONE  # of the connection that it came over
    port: int = 0  # that it came to, where that is not the one for gRPC
    received: int = 0  # bytes of its messages, with the five before each
    _answer_id: str = field(default="", repr=False, compare=False)
    # Its lane, and the identity that it was found for; the address is known before anybody asks.
    _lane: tuple[Lane, str | None] = field(default=(NO_LANE, None), repr=False, compare=False)

    def end(self, why: ServiceError) -> None:
        """End it: its task is cancelled, and whoever surrounds it tells the caller why. Only once; it has a `task`."""
        if self.ended is None and self.task is not None:
            self.ended = why
            self.task.cancel()

    def ended_by_us(self) -> ServiceError | None:
        """Why the server has ended it, to be asked once by the task that was cancelled; None: it was by others."""
        return None if self.ended is None or self.task is None or self.task.uncancel() else self.ended

    @property
    def who(self) -> str:
        """The party that limits count for: the identity, else the host. What a caller can choose at will is not asked.

        Both are marked with what they are, so that an identity called 192.0.2.1 is not the host of that address.
        """
        return self.lane.who

    @property
    def lane(self) -> Lane:
        """Whose turn it is; the name that a caller gives itself, else its connection, divides what its party has."""
        lane, of = self._lane
        if of is not self.identity:  # a call is asked for it some five times, and learns once who its caller is
            who = f"identity:{self.identity}" if self.identity else f"address:{self.host}"
            lane = Lane(who, self.client or self.peer)
            self._lane = lane, self.identity
        return lane

    @property
    def answer_id(self) -> str:
        """By which the answer is known afterwards.

        It begins with the id that the caller has chosen, which may be that of other calls as well; what follows is
        random, so that no caller names, or guesses, the answer to another one.
        """
        if not self._answer_id:
            self._answer_id = f"{self.request_id}.{secrets.token_hex(_RANDOM)}"
        return self._answer_id

    @property
    def host(self) -> str:
        """The machine that the call comes from, as limits count it: see `server.sockets.addresses`."""
        return counted_address(self.address) if self.address else host(self.peer)

    def take(self, size: int) -> None:
        """A message of so many bytes has been read."""
        self.received += size + 5
        self.traffic.bytes += size + 5

    def of_request(self) -> CallContext:
        """The same caller with one request of a stream, of which nothing is known yet."""
        part = CallContext(self.request_id, self.method, self.peer, self.client, self.identity, self.allowance)
        part.address, part.trace = self.address, self.trace
        part.complete = part.begun  # of a stream, the message is there when it is read
        return part


current_call: ContextVar[CallContext] = ContextVar("current_call")


@functools.lru_cache(_HOSTS)
def host(peer: str) -> str:
    """The machine behind a peer as gRPC names it, without the port; see `server.sockets.addresses`."""
    address, _, port = peer.rpartition(":")
    kind, _, name = address.partition(":")
    if not port.isdecimal() or kind not in {"ipv4", "ipv6"}:
        return peer  # a Unix socket
    inside = urllib.parse.unquote(name).strip("[]")
    return name if kind == "ipv4" or counted_network(inside) is None else counted_address(inside)
