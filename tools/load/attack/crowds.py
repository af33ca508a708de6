"""Calls as fast as the server reads them, connections that come and go, and connections that stay."""

from __future__ import annotations

import contextlib
import itertools
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from tests.server.hostile.wire import CHECK, PREFACE, call, frame
from tools.load.attack.clock import Clock, Result
from tools.load.attack.connection import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST,
    SETTINGS,
    WINDOW,
    Connection,
    Crowd,
    block,
)
from tools.load.attack.messages import body

_AGAIN = 0.1  # seconds until connections that were closed are made anew
_AT_ONCE = 100  # connections that are made at the same moment: the queue of a listening socket is not endless
_CHUNK = 100  # calls of a flood that are written at once; whole ones are few
_FRAME = 16_384
_PRIORITY, _PADDED = 2, 8


@cache
def _hello() -> bytes:
    """What a client of TLS says first."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    heard, said = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(heard, said, server_hostname="localhost").do_handshake()
    return said.read()


def _greeting(how: str) -> bytes | None:
    """What a connection says of itself before it does nothing more, or ends; None: what HTTP/2 wants."""
    greetings = {
        "silent": b"",
        "half a greeting": PREFACE[:10],
        "hello": _hello(),
        "half a hello": _hello()[:100],
        "records": b"\x16\x03\x01\x40\x00" + bytes(0x4000),  # of TLS, as large as may be, of no meaning
        "greeted": None,
        "calling": None,
    }
    return greetings[how]


# What HTTP/2 lets a client say at any time, for nothing; the first call of the connection is stream 1.
_FRAMES = {
    "pings": frame(PING, 0, 0, b"areyouup"),
    "settings": frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535)),
    "priorities": frame(_PRIORITY, 0, 1, struct.pack(">IB", 0, 1)),
    "good-byes": frame(GOAWAY, 0, 0, bytes(8)),
    "windows": frame(WINDOW, 0, 0, struct.pack(">I", 1)),
    "empty data": frame(DATA, 0, 1, b""),
    "padding": frame(DATA, _PADDED, 1, b"\xff" + bytes(255)),
}


@dataclass(frozen=True, slots=True)
class Flood:
    """Calls that nobody waits for."""

    port: int
    sources: list[str]  # addresses to come from, in turn by connection
    seconds: float
    path: str
    # empty: a call ends with its headers; reset: headers and a reset; left: a whole call and a reset; else no calls but
    # frames of this name
    how: str
    sent: str = "photo"  # the kind of message of `left`
    connections: int = 1
    headers: list[list[str]] = field(default_factory=list)  # more of them, of each call
    rate: float = 0.0  # calls of each connection a second; 0: no limit

    def run(self) -> Result:
        """Send until the time is up."""
        content = body(self.sent) if self.how == "left" else b""
        fields = block(call(self.path, *[(key, value) for key, value in self.headers]))
        clock, crowd = Clock(self.seconds), Crowd()
        numbers: dict[Connection, int] = {}
        again = [(clock.began, number) for number in range(self.connections)]
        while not clock.over:
            now = time.monotonic()
            while again and again[0][0] <= now:
                _, number = again.pop(0)
                connection = crowd.add(Connection(self.port, self.sources[number % len(self.sources)]))
                connection.refill = self._words(connection, clock, fields, content).__next__
                clock.connections += 1
                numbers[connection] = number
            for gone in crowd.turn(0.01):
                crowd.remove(gone)
                again.append((now + _AGAIN, numbers.pop(gone)))
            if self.rate:
                time.sleep(0.01)
        return clock.result(crowd.close())

    def _words(self, connection: Connection, clock: Clock, fields: bytes, content: bytes) -> Iterator[bytes]:
        """What a connection says next, again and again."""
        size, own = (2 if content else _CHUNK), 0
        if self.how in _FRAMES:
            connection.say(frame(HEADERS, END_HEADERS, connection.stream(), fields))
        while True:
            if self.rate and own >= self.rate * (time.monotonic() - clock.began):
                yield b""
                continue
            own += size
            clock.calls += size
            yield b"".join(self._call(connection.stream(), fields, content) for _ in range(size))

    def _call(self, stream: int, fields: bytes, content: bytes) -> bytes:
        if self.how in _FRAMES:
            return _FRAMES[self.how]
        if self.how == "empty":
            return frame(HEADERS, END_HEADERS | END_STREAM, stream, fields)
        parts = [content[at : at + _FRAME] for at in range(0, len(content), _FRAME)]
        return b"".join(
            (
                frame(HEADERS, END_HEADERS, stream, fields),
                *(frame(DATA, 0, stream, part) for part in parts),
                frame(RST, 0, stream, CANCEL),
            )
        )


@dataclass(frozen=True, slots=True)
class Storm:
    """Connections that end as soon as they have said what they say, and others in their place."""

    port: int
    sources: list[str]  # addresses to come from, in turn
    seconds: float
    how: str  # see `_greeting`
    at_once: int  # connections that are being made
    reset: bool = False  # end them with a reset, as a crash does
    rounds: int = 2  # of the loop, until a connection ends: one to connect, one to speak, more to hear

    def run(self) -> Result:
        """Connect until the time is up."""
        greeting = _greeting(self.how)
        clock, crowd, turns = Clock(self.seconds), Crowd(), itertools.cycle(self.sources)
        rounds: dict[Connection, int] = {}
        fields = block(call())
        while not clock.over:
            while len(crowd.connections) < self.at_once:
                connection = crowd.add(Connection(self.port, next(turns), greeting=greeting))
                rounds[connection] = 0
                clock.connections += 1
                if self.how == "calling":
                    connection.call(fields, end=False)
                    clock.calls += 1
            gone = crowd.turn(0.002)
            for connection in list(crowd.connections):
                rounds[connection] += 1
                if connection in gone or rounds[connection] > self.rounds:
                    crowd.remove(connection, reset=self.reset)
                    del rounds[connection]
        return clock.result(crowd.close())


@dataclass(frozen=True, slots=True)
class Hoard:
    """Connections that stay, as many as there may be; those that are closed are made anew."""

    port: int
    sources: list[str]  # addresses to come from, in turn
    seconds: float
    how: str  # see `_greeting`
    connections: int
    drip: bool = False  # send the headers of a call, a byte every half second

    def run(self) -> Result:
        """Hold them until the time is up."""
        greeting = _greeting(self.how)
        clock, crowd, turns = Clock(self.seconds), Crowd(), itertools.cycle(self.sources)
        silent, slow = block(call(CHECK)), frame(HEADERS, END_HEADERS, 1, block(call()))
        told: dict[Connection, int] = {}
        dripping = again = clock.began
        while not clock.over:
            now = time.monotonic()
            if now >= again:
                again = now + _AGAIN
                for _ in range(min(_AT_ONCE, self.connections - len(crowd.connections))):
                    connection = crowd.add(Connection(self.port, next(turns), greeting=greeting))
                    told[connection] = 0
                    clock.connections += 1
                    if self.how == "calling":
                        connection.call(silent, end=False)
                        clock.calls += 1
            if self.drip and now >= dripping:
                dripping = now + 0.5
                for connection, at in told.items():
                    connection.say(slow[at : at + 1])
                    told[connection] = at + 1
            for gone in crowd.turn(0.01):
                crowd.remove(gone)
                del told[gone]
        return clock.result(crowd.close())
