"""What comes over one connection: its calls and how useful they are, and its bytes as far as they belong to no call.

Calls are recorded by the event loop; the rest is written by the thread of the connection monitor alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from glimpse.server.sockets.connections import Connection, Endpoint

_USELESS_RATIO = 4  # useless calls for each useful one, which a connection may bring
_OVERHEAD = 2048  # bytes around the answer to a call: its status, and the reason of a refusal
# Sent by TLS beside answers: a chain of certificates, and tickets to resume with.
_HANDSHAKE_BYTES = 16 * 1024
# A connection that is sent more than one byte for so many of its own, beside answers, exchanges control frames.
_CONTROL_RATIO = 30
AHEAD = 256 << 10  # bytes of each call, and of a connection, that may come before they are read
# Of a connection none of whose calls was taken up yet: who sends messages is granted so much again and again, each time
# by 13 bytes. Who is sent less than that has sent calls without a message, and has reset them since.
_FIRST_BYTES, _OPENING, _GRANT = 128 * 1024, 48, 13
_CONTROL_BYTES = 32 * 1024  # bytes beside its calls that such a connection may send
# Of either that cost a point: thirty pings, each of which costs gRPC a good part of what a call does.
_CONTROL_BYTES_A_POINT = 500
_CONTROL_BYTES_FORGOTTEN = 16 * 1024  # bytes a second that are forgotten of them
_BYTES_A_POINT = 10_000  # that cost a point, of those that belong to no call
_OTHER_BYTES = 32 * 1024 * 1024  # bytes that any other may: messages that were not taken up yet, or that were given up
_OTHER_BYTES_FORGOTTEN = 1024 * 1024  # bytes a second that are forgotten of those
_BYTES_DECAY = 30.0  # seconds in which what a connection has sent and was sent fades to a third


@dataclass(slots=True, eq=False)
class Traffic:
    """What came over one connection or, through a trusted proxy, from one address."""

    end: Endpoint | None  # None: it cannot be closed, its calls can only be refused
    address: str  # that it counts for, see `server.sockets.addresses`
    number: int  # in the order in which they were first seen
    # Written by the event loop.
    calls: int = 0  # that were taken up
    bytes: int = 0  # of messages that were read, and the most that may have come of those that were not
    answered: int = 0  # bytes of answers
    waiting: int = 0  # calls whose message has not come
    useful: int = 0
    useless: float = 0.0  # points
    excused: float = 0.0  # those of them for what honest callers of an overloaded server meet, too: no room, no time
    served: bool = False  # whether an answer to a classification was sent, be it to a request of a stream that goes on
    # Written by the monitor's thread.
    refused: bool = False  # each further call is refused at once
    useless_bytes: float = 0.0  # points, too
    evaluated: tuple[int, float, float] = (0, 0.0, 0.0)  # useful, useless and excused, at the last evaluation
    recent: tuple[float, float] = (0.0, 0.0)  # the same, faded
    # Received, sent, bytes, answered and calls, at the last look.
    counted: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    flow: tuple[float, float] = (0.0, 0.0)  # bytes received, and sent beside answers, faded
    extra: float = 0.0  # bytes that belong to no call
    missed: int = 0  # looks in a row that did not find it

    @property
    def floods(self) -> bool:
        """Whether it brings much more that is useless than is useful."""
        useful, useless = self.recent
        return useless >= 1 and useless > _USELESS_RATIO * useful

    def charge_bytes(self, connection: Connection, seconds: float, *, message_bytes: int, header_bytes: int) -> bool:
        """Charge the connection for bytes that belong to none of its calls; whether there were any.

        Args:
            connection: as the kernel counts its bytes now.
            seconds: since the last time.
            message_bytes: of the largest message.
            header_bytes: of the largest headers of a call.
        """
        received, sent, taken, answered, calls = self.counted
        self.counted = (
            connection.received,
            connection.sent,
            self.bytes,
            self.answered,
            self.calls,
        )
        came, went = connection.received - received, connection.sent - sent
        begun = self.calls - calls
        decay = math.exp(-seconds / _BYTES_DECAY)
        inward = self.flow[0] * decay + came
        outward = self.flow[1] * decay + went - (self.answered - answered) - _OVERHEAD * begun
        self.flow = inward, outward
        http = self.end is not None and self.end.own
        if http:  # it has no control frames, and nothing keeps a caller from sending a whole request at once
            most, price, forgotten = _OTHER_BYTES + message_bytes, _BYTES_A_POINT, _OTHER_BYTES_FORGOTTEN
        elif (outward - _HANDSHAKE_BYTES) * _CONTROL_RATIO > inward:
            most, price, forgotten = _CONTROL_BYTES, _CONTROL_BYTES_A_POINT, _CONTROL_BYTES_FORGOTTEN
        elif not self.calls and connection.sent < _OPENING + _GRANT * (connection.received // AHEAD):
            most, price, forgotten = _FIRST_BYTES, _CONTROL_BYTES_A_POINT, _CONTROL_BYTES_FORGOTTEN
        else:  # before its first call is taken up, too: a client that is back sends what has waited for that at once
            most, price, forgotten = (
                _OTHER_BYTES + message_bytes * self.waiting,
                _BYTES_A_POINT,
                _OTHER_BYTES_FORGOTTEN,
            )
        known = self.bytes - taken + header_bytes * begun
        self.extra = max(0.0, self.extra + came - known - forgotten * seconds)
        if self.extra <= most:
            return False
        self.useless_bytes += (self.extra - most) / price
        self.extra = float(most)
        return True
