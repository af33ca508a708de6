"""A guard, a clock, and the connections that it sees."""

from __future__ import annotations

from glimpse.server.floods.guard import Guard
from glimpse.server.floods.penalties import Penalty
from glimpse.server.floods.traffic import Traffic
from glimpse.server.sockets.connections import Connection

FLOODER, NEIGHBOUR = "ipv4:192.0.2.1:4000", "ipv6:%5B2001:db8::1%5D:5000"
PLACES = 256
MIB = 1024 * 1024


class Scene:
    """A guard, and a clock that stands still until it is told."""

    def __init__(self, **settings: object) -> None:
        self.guard = Guard(allowance=PLACES, **settings)  # type: ignore[arg-type]
        self.now = 1000.0
        self.guard.evaluate(self.now, overloaded=True)

    def calls(
        self, peer: str, code: str, count: int, *, received: int = 0, seconds: float = 0.0, gated: bool = True
    ) -> Traffic:
        for _ in range(count):
            traffic = self.guard.began(peer)
            traffic.bytes += received
            self.guard.ended(traffic, code, received=received, gated=gated, seconds=seconds)
        return traffic

    def evaluate(self, seconds: float = 0.05, *, overloaded: bool = True) -> list[Penalty]:
        self.now += seconds
        return self.guard.evaluate(self.now, overloaded=overloaded)

    def look(self, *found: Connection, seconds: float = 0.25) -> list[Penalty]:
        self.now += seconds
        return [*self.guard.look(self.now, found), *self.guard.evaluate(self.now, overloaded=True)]
