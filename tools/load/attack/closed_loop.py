"""Calls in a closed loop: when one has ended, the next one begins."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from dataclasses import dataclass, field

from tests.server.hostile.wire import call
from tools.load.attack.clock import Clock, Result
from tools.load.attack.connection import LARGEST_WINDOW, Connection, Crowd, block
from tools.load.attack.messages import body

_AGAIN = 0.1  # seconds until a connection that was closed is made anew
_TRICKLE = 0.5  # seconds from one byte to the next


@dataclass(frozen=True, slots=True)
class Plan:
    """What is called, and how."""

    port: int
    sources: list[str]  # addresses to come from, in turn by connection
    seconds: float
    path: str
    sent: str = ""  # the kind of message that each call sends; empty: none, headers alone
    end: bool = True  # whether a call says that nothing follows
    connections: int = 1
    at_once: int = 1  # calls of each connection
    names: int = 0  # so many names that the calls take in turn (`glimpse-client`); 0: none
    name: str = ""  # one name that all take
    headers: list[list[str]] = field(default_factory=list)  # more of them, of each call
    packed: bool = False  # messages are packed by gzip
    pause: float = 0.0  # seconds from the end of a call to the next
    leave: float = 0.0  # seconds after which a call is left; 0: never
    count: int = 0  # calls that are begun at most; 0: no limit
    rate: float = 0.0  # calls that are begun in a second at most; 0: no limit
    trickle: bool = False  # send a byte more of each call now and then
    window: int = LARGEST_WINDOW  # bytes of each answer that the server may send
    reads: bool = True  # whether anything is read of what the server says

    def blocks(self) -> list[bytes]:
        """The headers of calls, to be taken in turn."""
        more = [(key, value) for key, value in self.headers]
        if self.packed:
            more.append(("grpc-encoding", "gzip"))
        names = [self.name] if self.name else [f"caller {number}" for number in range(self.names)]
        called = [[("glimpse-client", name)] for name in names] or [[]]
        return [block(call(self.path, *more, *own)) for own in called]


class ClosedLoop:
    """Callers who are never content."""

    def __init__(self, plan: Plan) -> None:
        """Put together what is sent, and begin to connect."""
        self._plan = plan
        self._content = memoryview(body(plan.sent, packed=plan.packed)) if plan.sent else memoryview(b"")
        self._blocks = itertools.cycle(plan.blocks())
        self._crowd = Crowd()
        self._clock = Clock(plan.seconds)
        self._live: list[set[int]] = [set() for _ in range(plan.connections)]  # streams, by connection
        self._due = [(self._clock.began, number) for number in range(plan.connections) for _ in range(plan.at_once)]
        self._leaving: deque[tuple[float, int, int]] = deque()  # when, connection, stream
        self._trickled = self._clock.began
        self._made = [self._connect(number) for number in range(plan.connections)]

    def run(self) -> Result:
        """Call until the time is up."""
        while not self._clock.over:
            now = time.monotonic()
            self._begin(now)
            self._leave(now)
            if self._plan.trickle and now >= self._trickled:
                self._trickled = now + _TRICKLE
                self._trickle()
            for gone in self._crowd.turn(0.005):
                self._replace(gone, now + _AGAIN)
        return self._clock.result(self._crowd.close())

    def _connect(self, number: int) -> Connection:
        plan = self._plan
        source = plan.sources[number % len(plan.sources)]
        connection = Connection(plan.port, source, window=plan.window, reads=plan.reads)
        connection.ended = lambda stream: self._ended(number, stream)
        self._clock.connections += 1
        return self._crowd.add(connection)

    def _begin(self, now: float) -> None:
        """Begin the calls that are due."""
        plan, clock = self._plan, self._clock
        while self._due and self._due[0][0] <= now and not (plan.count and clock.calls >= plan.count):
            if plan.rate and clock.calls >= plan.rate * (now - clock.began):
                return
            _, number = heapq.heappop(self._due)
            stream = self._made[number].call(next(self._blocks), self._content, end=plan.end)
            self._live[number].add(stream)
            clock.calls += 1
            if plan.leave:
                self._leaving.append((now + plan.leave, number, stream))

    def _leave(self, now: float) -> None:
        """Leave the calls whose time has come."""
        while self._leaving and self._leaving[0][0] <= now:
            _, number, stream = self._leaving.popleft()
            if stream in self._live[number]:
                self._made[number].reset(stream)
                self._ended(number, stream)

    def _ended(self, number: int, stream: int) -> None:
        if stream in self._live[number]:
            self._live[number].discard(stream)
            heapq.heappush(self._due, (time.monotonic() + self._plan.pause, number))

    def _trickle(self) -> None:
        for connection, streams in zip(self._made, self._live, strict=True):
            if not connection.uploading:
                for stream in streams:
                    connection.upload(stream, b"\0", end=False)

    def _replace(self, gone: Connection, when: float) -> None:
        """Make a connection anew, and its calls a moment later."""
        number = self._made.index(gone)
        self._crowd.remove(gone)
        self._due += [(when, number)] * len(self._live[number])
        heapq.heapify(self._due)
        self._live[number] = set()
        self._made[number] = self._connect(number)
