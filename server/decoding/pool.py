"""The decoder threads: work from many callers, in turn by party and by lane.

Expensive work has threads of its own, half as many: however much of it there is, small images find a thread. And there
may be a thread more for parties of which nothing is being worked on: who keeps all the others busy does not have it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from glimpse.server.fair_queue import Ahead, FairQueue, Lane

_log = structlog.get_logger(__name__)

_REMEMBERED = 64  # pieces of work whose time, for what was predicted of them, is expected of the next ones
_SHELLS = 256  # cancelled pieces that may lie in the queue before it is looked through for them


class DecodeTask(Future[None]):
    """One piece of work. Cancelled before its turn, it lets go of what it would have worked on at once."""

    def __init__(self, do: Callable[[], None], who: str = "", cost: int = 1) -> None:
        super().__init__()
        self.do: Callable[[], None] | None = do
        self.who = who
        self.cost = cost

    def cancel(self) -> bool:
        """Cancel it, unless it has begun; returns whether it will never run."""
        cancelled = super().cancel()
        if cancelled:
            self.do = None  # an image of megabytes
        return cancelled


class Times:
    """How long the latest pieces of work took, for what was predicted of them."""

    def __init__(self) -> None:
        self._done: deque[tuple[float, int]] = deque()  # seconds, and the cost that was predicted
        self._sums = 0.0, 0  # of both, replaced as a whole: others read it without a lock

    def add(self, seconds: float, cost: int) -> None:
        """One more."""
        self._done.append((seconds, cost))
        gone = self._done.popleft() if len(self._done) > _REMEMBERED else (0.0, 0)
        self._sums = self._sums[0] + seconds - gone[0], self._sums[1] + cost - gone[1]

    def expected(self, cost: int) -> float:
        """Seconds for a piece that was predicted to cost so much; 0 before any was done."""
        seconds, costs = self._sums
        return cost * seconds / costs if costs else 0.0


class DecodePool:
    """Threads that take the parties' work in turn, so that a bulk caller's images do not stand before a lone one's.

    The turns are equal in predicted work: whoever sends expensive images has as much of the threads' time as others.
    """

    def __init__(
        self,
        threads: int,
        *,
        expensive: int = 0,
        spare: int = 0,
        clock: Callable[[], float] = time.monotonic,
        name: str = "decode",
    ) -> None:
        """Start the threads.

        Args:
            threads: pieces of work that run side by side.
            expensive: pieces of expensive work that run beside those, in threads of their own; 0: it is as any other.
            spare: threads more, for work of parties of which nothing is being worked on.
            clock: seconds that only rise, by which work is timed and threads are overdue.
            name: what the threads are called, a number behind it.
        """
        self._expensive = DecodePool(expensive, clock=clock, name=f"{name}-expensive") if expensive else None
        self._clock = clock
        self._turns: FairQueue[DecodeTask] = FairQueue()
        self._look_through = _SHELLS
        self._times = Times()
        lock = threading.RLock()
        self._changed, self._spare_wanted = threading.Condition(lock), threading.Condition(lock)
        self._idle = 0  # threads that wait and have not been woken, the spare ones aside
        self._working = 0  # threads that work, the spare ones aside
        self._busy: dict[str, int] = {}  # pieces that are being worked on, by party
        self._usual = threads
        self._closed = False
        self._begun: dict[int, tuple[float, str]] = {}  # by thread: when it began what it is at, and for whom
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(threads + spare)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, lane: Lane, do: Callable[[], None], cost: int = 1, *, expensive: bool = False) -> DecodeTask:
        """Queue one piece of work, which must not raise, in `lane`.

        Args:
            lane: whose turn it uses.
            do: the work.
            cost: what it was predicted to cost; in pixels of an ordinary JPEG photo.
            expensive: whether it has to wait for a thread for expensive work.

        Raises:
            RuntimeError: the pool is closed.
        """
        if expensive and self._expensive is not None:
            return self._expensive.submit(lane, do, cost)
        work = DecodeTask(do, lane.who, cost)
        with self._changed:
            if self._closed:
                raise RuntimeError("The decoders have stopped.")
            if len(self._turns) >= self._look_through:
                self._turns.discard(DecodeTask.cancelled)
                self._look_through = max(_SHELLS, 2 * len(self._turns))
            self._turns.put(lane, work, cost)
            if self._idle:
                self._idle -= 1
                self._changed.notify()
            elif self._working == self._usual and lane.who not in self._busy:
                self._spare_wanted.notify()
        return work

    def depth(self) -> int:
        """How many pieces of work wait for a thread."""
        expensive = self._expensive.depth() if self._expensive is not None else 0
        with self._changed:
            self._turns.discard(DecodeTask.cancelled)
            return expensive + len(self._turns)

    def overdue(self, seconds: float) -> int:
        """How many threads, without those for expensive work, have been at one piece of work for longer."""
        with self._changed:
            now = self._clock()
            return sum(now - begun > seconds for begun, _ in self._begun.values())

    def waiting(self) -> Ahead:
        """What waits for a thread, of work that is not expensive: at least what `ahead` finds, for less."""
        return self._turns.all()

    def ahead(self, lane: Lane, *, expensive: bool = False) -> Ahead:
        """What is begun before a piece of work that comes in `lane` now, if no others come."""
        if expensive and self._expensive is not None:
            return self._expensive.ahead(lane)
        with self._changed:
            return self._turns.ahead(lane)

    def expected(self, cost: int, *, expensive: bool = False) -> float:
        """Seconds for work that was predicted to cost so much, all its threads together, by the latest."""
        if expensive and self._expensive is not None:
            return self._expensive.expected(cost)
        # Without the lock: it is an estimate, asked for at every call.
        return self._times.expected(cost) / self._usual

    def close(self) -> None:
        """Drop what has not begun. What has begun goes on; nobody waits for it."""
        if self._expensive is not None:
            self._expensive.close()
        with self._changed:
            self._closed = True
            while len(self._turns):
                self._turns.take().cancel()
            self._changed.notify_all()
            self._spare_wanted.notify_all()

    def _run(self, number: int) -> None:
        following = self._next if number < self._usual else self._next_beside
        took: tuple[float, int] | None = None
        while (work := following(number, took)) is not None:
            took = self._do(work)
            del work  # neither the wait for the next nor a caller's hold on the future may keep an image

    def _do(self, work: DecodeTask) -> tuple[float, int] | None:
        """Do it, unless it was cancelled; seconds that it took, and the cost that was predicted."""
        do = work.do
        if do is None or not work.set_running_or_notify_cancel():
            return None
        begun = self._clock()
        try:
            do()
        except Exception:  # noqa: BLE001 - whatever it is, it is to be seen
            # It was not to raise; the thread is needed by others.
            _log.exception("a defect of the service")
        seconds = self._clock() - begun
        work.do = None
        work.set_result(None)
        return seconds, work.cost

    def _next(self, number: int, took: tuple[float, int] | None) -> DecodeTask | None:
        """The next piece of work for a thread that has just done another, in so many seconds; waits until there is one.

        Together, because callers wait for the lock.
        """
        with self._changed:
            self._working -= self._ended(number, took)
            while not len(self._turns):
                if self._closed:
                    return None
                self._idle += 1
                self._changed.wait()
            work = self._begin(number, self._turns.take())
            self._working += 1
            if self._working == self._usual and self._turns.parties > 1 and self._turns.any_beside(self._busy):
                self._spare_wanted.notify()
            return work

    def _next_beside(self, number: int, took: tuple[float, int] | None) -> DecodeTask | None:
        """As `_next`, of parties of which nothing is being worked on."""
        with self._changed:
            self._ended(number, took)
            while True:
                # Not while another thread is about to take what waits: then a party could have them all.
                if self._working == self._usual and (work := self._turns.take_beside(self._busy)) is not None:
                    return self._begin(number, work)
                if self._closed:
                    return None
                self._spare_wanted.wait()

    def _begin(self, number: int, work: DecodeTask) -> DecodeTask:
        self._begun[number] = self._clock(), work.who
        self._busy[work.who] = self._busy.get(work.who, 0) + 1
        return work

    def _ended(self, number: int, took: tuple[float, int] | None) -> bool:
        """What a thread has begun is done; whether there was anything."""
        if took is not None:
            self._times.add(*took)
        begun = self._begun.pop(number, None)
        if begun is None:
            return False
        who = begun[1]
        left = self._busy[who] - 1
        if left:
            self._busy[who] = left
        else:
            del self._busy[who]
        return True
