"""Watches over the connections from a thread of its own, and closes those that flood the server.

A quarter of a second apart it reads how busy the process is: some 50 microseconds. Only where that, or what calls came
to, looks like trouble, it looks at the connections themselves. It is a thread because the event loop is what a flood
fills.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from server import connections, cores, filters
from server.guard import Guard, Sentence
from server.metrics import Metrics
from server.sampling import Sampled

_log = structlog.get_logger(__name__)

_CALM, _ALERT = 0.25, 0.05  # seconds between two readings
_ALERTED = 3.0  # seconds that an alert lasts
_SELDOM = 0.5  # seconds between two looks at the connections of a server that is only busy
_PAUSE = 1.0  # seconds until the next reading, where one failed
_EFFORT = 200  # times what a look takes: until the next one of a server that is only busy
_BUSY = 0.6  # of the event loop's time
_USED = 0.2  # of the time of all cores; on a machine that others use, too, a flood gets no more than that
_REMEMBERED = 2048  # connections, after which it is looked which of them have ended


class Watch:
    """The thread."""

    def __init__(self, guard: Guard, metrics: Metrics, tell: Callable[[Sentence, int], None] | None = None) -> None:
        """Nothing is watched yet.

        Args:
            guard: judges.
            metrics: count what is closed.
            tell: is told of each sentence, with the number of connections, from the thread.
        """
        self._guard, self._metrics, self._tell = guard, metrics, tell
        self._load = Load()
        self._lines = Sampled(lambda _: None)  # what is left out is told with the next line
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._port = 0
        self._spent = 0.0
        self._alert = self._next_look = 0.0
        self._blocked: list[filters.Network] = []
        self._by_kernel = True

    def start(self, port: int) -> None:
        """Watch the connections to `port`. To be called from the event loop that answers them."""
        self._port = port
        self._load = Load(asyncio.get_running_loop())
        self._guard.wake = self._wake.set
        self._thread = threading.Thread(target=self._run, name="connections", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more, and let everybody in again."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._once(time.monotonic())
            except Exception:  # noqa: BLE001 - whatever it is, it is to be seen
                _log.exception("a background task failed", task="connections", again_in_seconds=_PAUSE)
                self._wake.wait(_PAUSE)
            alert = time.monotonic() < self._alert or (self._blocked and not self._by_kernel)
            if self._wake.wait(_ALERT if alert else _CALM):
                self._wake.clear()
        self._block([])

    def _once(self, now: float) -> None:
        guard = self._guard
        spent, self._spent = guard.spent - self._spent, guard.spent
        busy, pressed = self._load.measure(now, answering=spent > 0)
        if guard.refuses:
            guard.pardon(now)
        sentences = []
        crowded = connections.open_files() >= guard.share or len(guard) > _REMEMBERED
        due = now >= self._next_look
        looks = (busy and due) or (pressed and spent > 0) or now < self._alert or bool(self._blocked) or crowded
        if looks:
            found = connections.accepted(self._port)
            sentences += guard.look(now, found, block=not self._by_kernel)
            self._next_look = now + max(_SELDOM, _EFFORT * (time.monotonic() - now))
        if spent or guard.noted or (pressed and looks):
            pressed = pressed or guard.noted
            if pressed and (spent or guard.noted):
                self._alert = max(self._alert, now + _ALERTED)
            sentences += guard.judge(now, pressed=pressed)
        for sentence in sentences:
            self._carry_out(sentence)
            self._alert = max(self._alert, now + sentence.seconds + _ALERTED)
        if sentences or self._blocked:
            self._block(guard.blocked(now))

    def _carry_out(self, sentence: Sentence) -> None:
        count = len(connections.close_all(self._port, set(sentence.ends))) if sentence.ends else 0
        self._metrics.connections_closed(sentence.reason, count)
        if sentence.reason == "blocked" or (sentence.reason == "share" and not sentence.ends):
            return  # it has been told, or nothing was closed
        if self._tell is not None:
            self._tell(sentence, count)
        left_out = self._lines.left_out(sentence.party, "", sentence.reason)
        if left_out is not None:
            _log.warning(
                "connections closed",
                reason=sentence.reason,
                address=sentence.party,
                connections=count,
                blocked_seconds=round(sentence.seconds, 1),
                left_out=left_out,
            )

    def _block(self, networks: list[filters.Network]) -> None:
        if networks != self._blocked:
            # More than fit into one filter are closed as they come.
            self._by_kernel = filters.drop_new(self._port, networks) and len(networks) <= filters.MOST
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
