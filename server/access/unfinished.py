"""Messages that are not complete yet, with an estimate of the memory that each holds. Plain data: no clock, no tasks.

gRPC tells nothing of a message before it is complete, but holds in memory what has come of it. The kernel counts the
bytes of each connection. What a connection has received, less its complete messages, belongs to the incomplete ones;
and none of them holds more than its connection has received since it was begun, nor than the largest message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping
from typing import Any

from glimpse.server.errors import ServiceError

# What a whole message takes off its connection's bytes, besides its own: of the frames around it one byte in so many,
# and the headers of its call.
_FRAMES, _HEADERS = 64, 256
_REMEMBERED = 4096  # connections whose whole messages are known; of more, those without a message on its way are not


class Reading:
    """A message that is being read."""

    __slots__ = ("base", "begun", "held", "most", "peer", "refusal", "stream", "task", "who")

    def __init__(self, who: str, peer: str, task: asyncio.Task[Any] | None, begun: float, *, stream: bool) -> None:
        """By `who`, on the connection from `peer` (as gRPC writes it), in `task`, since `begun` on the loop's clock."""
        self.who, self.peer, self.task, self.begun, self.stream = who, peer, task, begun, stream
        self.base: int | None = None  # bytes that its connection had received before it, at most; None: not known yet
        self.most = 0  # bytes that it can hold
        self.held = 0.0  # bytes that it holds, by the estimate
        self.refusal: ServiceError | None = None  # why it was ended

    def end(self, refusal: ServiceError) -> None:
        """Cancel its task, once, for `refusal`: whoever awaits the message raises that instead."""
        if self.refusal is None and self.task is not None:
            self.refusal = refusal
            self.task.cancel()

    def ended(self) -> bool:
        """Whether a CancelledError that came is of `end` alone, and nobody else's, too. To be asked once."""
        return self.refusal is not None and self.task is not None and not self.task.uncancel()


class _Connection:
    """A connection with a message on its way, at the last look."""

    __slots__ = ("moved", "received", "silent_at", "slow_since", "unfinished", "whole")

    def __init__(self, received: int, unfinished: float) -> None:
        self.received = received  # bytes
        self.unfinished = unfinished  # bytes of messages that are not whole
        self.whole = 0  # bytes of messages that have become whole since then
        self.moved = False  # whether a read has begun or ended since then
        self.silent_at = received - unfinished  # bytes that it had received when no message was on its way
        self.slow_since: float | None = None  # since when one is, while no read begins or ends


class Unfinished:
    """All messages that are being read."""

    def __init__(self, largest: int) -> None:
        """No message is larger than `largest` bytes."""
        self._largest = largest
        self.readings: dict[Reading, None] = {}  # the first that was begun first
        self._connections: dict[str, _Connection] = {}  # by peer
        # Of all connections that may be asked about later. What has come of the messages of a connection, when it is
        # looked at for the first time, is what it has received less this.
        self._whole: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.readings)

    def begin(self, reading: Reading) -> None:
        """A read begins."""
        self.readings[reading] = None
        if self._connections and (connection := self._connections.get(reading.peer)) is not None:
            connection.moved = True

    def end(self, reading: Reading, size: int) -> None:
        """It ends with a message of so many bytes; 0: with none, and what came of it is not known."""
        del self.readings[reading]
        if size:
            size += size // _FRAMES + _HEADERS
            self._whole[reading.peer] = self._whole.get(reading.peer, 0) + size
            if len(self._whole) > 2 * _REMEMBERED:  # where nobody looks, as all messages come quickly
                self._forget_others({each.peer for each in self.readings})
        if self._connections and (connection := self._connections.get(reading.peer)) is not None:
            connection.whole += size
            connection.moved = True

    def forget(self, reading: Reading) -> None:
        """Count a read that was ended no more, though it has not noticed yet."""
        if (connection := self._connections.get(reading.peer)) is not None:
            connection.unfinished = max(0.0, connection.unfinished - reading.held)
        reading.held = 0.0

    def look(self, received: Mapping[str, int]) -> float:
        """Estimate anew what each read holds.

        Args:
            received: bytes that the connections from these peers have received. A read on any other may hold the
                largest message.

        Returns:
            Bytes of all of them together.
        """
        by_peer: dict[str, list[Reading]] = {}
        for reading in self.readings:
            if reading.refusal is None:
                by_peer.setdefault(reading.peer, []).append(reading)
        before, self._connections = self._connections, {}
        total = 0.0
        for peer, readings in by_peer.items():
            size = received.get(peer)
            if size is None:
                for reading in readings:
                    reading.held = reading.most = self._largest
                total += len(readings) * self._largest
            else:
                connection = self._connections[peer] = self._seen(peer, size, before.get(peer), readings)
                total += connection.unfinished
        if len(self._whole) > _REMEMBERED:
            self._forget_others(by_peer)
        return total

    def _forget_others(self, peers: Container[str]) -> None:
        """Know no longer what became whole of connections but those from `peers`."""
        self._whole = {peer: size for peer, size in self._whole.items() if peer in peers}

    def _seen(self, peer: str, received: int, connection: _Connection | None, readings: list[Reading]) -> _Connection:
        if connection is None:
            base = min(self._whole.get(peer, 0), received)
            connection = _Connection(received, received - base)
        else:
            # Never below 0: what frames and headers count too much is of no use later.
            connection.unfinished = max(0.0, connection.unfinished + received - connection.received - connection.whole)
            base = connection.received  # those that are new were begun since
        connection.received, connection.whole = received, 0
        most = 0
        for reading in readings:
            if reading.base is None:
                reading.base = base
            reading.most = min(self._largest, received - reading.base)
            most += reading.most
        connection.unfinished = min(connection.unfinished, most)
        for reading in readings:
            reading.held = connection.unfinished * reading.most / most if most else 0.0
        return connection

    def slow(self, now: float, seconds: float, silent: int) -> Iterable[Reading]:
        """Reads of streams whose message has been on its way for longer than `seconds`.

        Which of a connection's reads a byte is for is not known. So it is told only of connections on which no read has
        begun or ended for so long, though more than `silent` bytes a read have come: one read a connection.
        """
        streams: dict[str, list[Reading]] = {}
        for reading in self.readings:
            if reading.stream and reading.refusal is None:
                streams.setdefault(reading.peer, []).append(reading)
        for peer, connection in self._connections.items():
            readings = streams.get(peer)
            if readings is None or connection.moved:
                connection.silent_at = connection.received - connection.unfinished
                connection.moved, connection.slow_since = False, None
            elif connection.received - connection.silent_at <= silent * (len(readings) + 1):
                connection.slow_since = None
            elif connection.slow_since is None:
                connection.slow_since = now
            elif now - connection.slow_since > seconds:
                connection.slow_since = now
                yield readings[0]
