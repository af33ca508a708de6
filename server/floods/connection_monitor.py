"""The connection monitor: a thread that closes the connections that flood the server, and blocks their addresses.

Every quarter of a second it reads how busy the process is, which takes some 50 microseconds. Only if that, or the
penalty points of calls, indicate an overload or a flood, it looks at the connections themselves. It is a thread because
a flood keeps the event loop busy.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from glimpse.server.floods.guard import Guard
from glimpse.server.floods.penalties import Penalty
from glimpse.server.machine import cores
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.sampling import Sampled
from glimpse.server.sockets import connections, filters

_log = structlog.get_logger(__name__)

_CALM, _ALERT = 0.25, 0.05  # seconds between two readings, usually and during an alert
_ALERTED = 3.0  # seconds that an alert lasts
_SELDOM = 0.5  # seconds between two looks at the connections of a server that is only busy
_PAUSE = 1.0  # seconds until the next reading, where one failed
_EFFORT = 200  # times the duration of a look: until the next one of a server that is only busy
_BUSY = 0.6  # of the event loop's time
_USED = 0.2  # of the time of all cores; where other processes use the cores, too, a flood gets no more than that
_REMEMBERED = 2048  # connections; with more, it is looked which of them have ended


class ConnectionMonitor:
    """The monitor's thread, and what it does."""

    def __init__(self, guard: Guard, metrics: Metrics, tell: Callable[[Penalty, int], None] | None = None) -> None:
        """Nothing is monitored yet.

        Args:
            guard: decides which connections to close and which addresses to block.
            metrics: count what is closed and blocked.
            tell: called in the thread with each penalty and the number of connections that were closed.
        """
        self._guard, self._metrics, self._tell = guard, metrics, tell
        self._load = Load()
        self._lines = Sampled(lambda _: None)  # the next line says how many were left out
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._ports: tuple[int, ...] = ()
        self._points = 0.0
        self._alert = self._next_look = 0.0
        self._blocked: list[filters.Network] = []
        self._by_kernel = True

    def start(self, *ports: int) -> None:
        """Monitor the connections to these ports of this process, of which the first is that for gRPC.

        To be called in the thread of the event loop that answers them.
        """
        self._ports = ports
        self._load = Load(asyncio.get_running_loop())
        self._guard.wake = self._wake.set
        self._thread = threading.Thread(target=self._run, name="connections", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and unblock all addresses."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._once(time.monotonic())
            except Exception:  # noqa: BLE001 - logged, and tried again
                _log.exception("a background task failed", task="connections", again_in_seconds=_PAUSE)
                self._wake.wait(_PAUSE)
            alert = time.monotonic() < self._alert or (self._blocked and not self._by_kernel)
            if self._wake.wait(_ALERT if alert else _CALM):
                self._wake.clear()
        self._block([])

    def _once(self, now: float) -> None:
        guard = self._guard
        spent, self._points = guard.points - self._points, guard.points
        busy, overloaded = self._load.measure(now, answering=spent > 0)
        if guard.refuses:
            guard.unblock(now)
        penalties = []
        crowded = connections.open_files() >= guard.share or len(guard) > _REMEMBERED
        due = now >= self._next_look
        looks = (busy and due) or (overloaded and spent > 0) or now < self._alert or bool(self._blocked) or crowded
        if looks:
            found = connections.accepted(*self._ports)
            penalties += guard.look(now, found, block=not self._by_kernel)
            self._next_look = now + max(_SELDOM, _EFFORT * (time.monotonic() - now))
        if spent or guard.unexplained or (overloaded and looks):
            overloaded = overloaded or guard.unexplained
            if overloaded and (spent or guard.unexplained):
                self._alert = max(self._alert, now + _ALERTED)
            penalties += guard.evaluate(now, overloaded=overloaded)
        for penalty in penalties:
            self._apply(penalty)
            self._alert = max(self._alert, now + penalty.seconds + _ALERTED)
        if penalties or self._blocked:
            self._block(guard.blocked(now))

    def _apply(self, penalty: Penalty) -> None:
        first, *others = self._ports
        ends = set(penalty.connections)
        count = len(connections.close_all(first, ends, *others)) if ends else 0
        self._metrics.connections_closed(penalty.reason, count)
        if penalty.reason == "blocked" or (penalty.reason == "share" and not penalty.connections):
            return  # the block has been logged already, or nothing was closed
        if self._tell is not None:
            self._tell(penalty, count)
        left_out = self._lines.left_out(penalty.address, "", penalty.reason)
        if left_out is not None:
            _log.warning(
                "connections closed",
                reason=penalty.reason,
                address=penalty.address,
                connections=count,
                blocked_seconds=round(penalty.seconds, 1),
                left_out=left_out,
            )

    def _block(self, networks: list[filters.Network]) -> None:
        if networks != self._blocked:
            # More than fit into one filter are closed as they come.
            dropped = [filters.drop_new(port, networks) for port in self._ports]
            self._by_kernel = all(dropped) and len(networks) <= filters.MOST
            self._blocked = networks
            self._metrics.addresses_blocked(len(networks))


class Load:
    """How busy the process is."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Measure from now on; `loop` runs in this thread."""
        self._loop = loop
        self._statistics = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._cores = cores.available()
        self._last = time.monotonic(), time.process_time(), self._wanted()
        self._asked: float | None = None

    def measure(self, now: float, *, answering: bool) -> tuple[bool, bool]:
        """Whether it has been busy since the last time, and whether it has more to do than it can, or little less.

        `answering`: ask the event loop itself, too.
        """
        then, used, wanted = self._last
        self._last = now, time.process_time(), self._wanted()
        seconds = now - then
        if seconds <= 0:
            return False, False
        late = self._asked is not None and now - self._asked > _ALERT
        if answering and self._asked is None and self._loop is not None:
            self._asked = now
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # it has closed
                self._loop = None
        loop, process = self._last[2] - wanted, self._last[1] - used
        used_up = process / (self._cores * seconds)
        return used_up > _USED / 2, late or loop > _BUSY * seconds or used_up > _USED

    def _answer(self) -> None:
        self._asked = None

    def _wanted(self) -> float:
        """Seconds that the event loop's thread has run, or wanted to and had no core."""
        try:
            ran, waited, _ = self._statistics.read_text("ascii").split()
        except (OSError, ValueError):
            return 0.0
        return (int(ran) + int(waited)) / 1e9
