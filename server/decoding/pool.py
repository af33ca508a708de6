"""The decoder threads: work from many callers, in turn by lane.

Heavy work has threads of its own, half as many: however much of it there is, small images find a thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from server.turns import Turns

_log = structlog.get_logger(__name__)

_REMEMBERED = 64  # pieces of work whose mean time is expected of the next ones
_SHELLS = 256  # cancelled pieces that may lie in the queue before it is looked through for them


class Work(Future[None]):
    """One piece of work. Cancelled before its turn, it lets go of what it would have worked on at once."""

    def __init__(self, do: Callable[[], None]) -> None:
        super().__init__()
        self.do: Callable[[], None] | None = do

    def cancel(self) -> bool:
        """Cancel it, unless it has begun; returns whether it will never run."""
        cancelled = super().cancel()
        if cancelled:
            self.do = None  # an image of megabytes
        return cancelled


class DecodePool:
    """Threads that take the lanes' work in turn, so that a bulk caller's images do not stand before a lone one's."""

    def __init__(
        self, threads: int, *, heavy: int = 0, clock: Callable[[], float] = time.monotonic, name: str = "decode"
    ) -> None:
        """Start the threads.

        Args:
            threads: pieces of work that run side by side.
            heavy: pieces of heavy work that run beside those, in threads of their own; 0: heavy work is as any other.
            clock: seconds, monotonic.
            name: what the threads are called, a number behind it.
        """
        self._heavy = DecodePool(heavy, clock=clock, name=f"{name}-heavy") if heavy else None
        self._clock = clock
        self._turns: Turns[Work] = Turns()
        self._look_through = _SHELLS
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._changed = threading.Condition()
        self._closed = False
        self._begun: dict[int, float] = {}  # by thread: when it began what it is at
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, lane: str, do: Callable[[], None], *, heavy: bool = False) -> Work:
        """Queue one piece of work, which must not raise, in `lane`.

        Raises:
            RuntimeError: the pool is closed.
        """
        if heavy and self._heavy is not None:
            return self._heavy.submit(lane, do)
        work = Work(do)
        with self._changed:
            if self._closed:
                raise RuntimeError("The decoders have stopped.")
            if len(self._turns) >= self._look_through:
                self._turns.discard(Work.cancelled)
                self._look_through = max(_SHELLS, 2 * len(self._turns))
            self._turns.put(lane, work)
            self._changed.notify()
        return work

    def depth(self) -> int:
        """How many pieces of work wait for a thread."""
        heavy = self._heavy.depth() if self._heavy is not None else 0
        with self._changed:
            self._turns.discard(Work.cancelled)
            return heavy + len(self._turns)

    def overdue(self, seconds: float) -> int:
        """How many threads, of those for work that is not heavy, have been at one piece of it for longer than that."""
        with self._changed:
            now = self._clock()
            return sum(now - begun > seconds for begun in self._begun.values())

    def ahead(self, lane: str) -> int:
        """How many pieces, heavy ones aside, are begun before one that comes in `lane` now, if no others come."""
        with self._changed:
            return self._turns.ahead(lane)

    def expected(self, pieces: int) -> float:
        """Seconds for so many pieces of work, all threads together, going by the latest; 0 before any was done."""
        with self._changed:
            if not self._seconds:
                return 0.0
            return pieces * sum(self._seconds) / len(self._seconds) / len(self._threads)

    def close(self) -> None:
        """Drop what has not begun. What has begun goes on; nobody waits for it."""
        if self._heavy is not None:
            self._heavy.close()
        with self._changed:
            self._closed = True
            while len(self._turns):
                self._turns.take().cancel()
            self._changed.notify_all()

    def _run(self, number: int) -> None:
        while (work := self._next(number)) is not None:
            self._do(work)
            del work  # neither the wait for the next nor a caller's hold on the future may keep an image

    def _do(self, work: Work) -> None:
        do = work.do
        if do is None or not work.set_running_or_notify_cancel():
            return
        begun = self._clock()
        try:
            do()
        except Exception:  # noqa: BLE001 - whatever it is, it is to be seen
            # It was not to raise; the thread is needed by others.
            _log.exception("a defect of the service")
        finally:
            work.do = None
            work.set_result(None)
            with self._changed:
                self._seconds.append(self._clock() - begun)

    def _next(self, number: int) -> Work | None:
        with self._changed:
            self._begun.pop(number, None)
            while not len(self._turns):
                if self._closed:
                    return None
                self._changed.wait()
            self._begun[number] = self._clock()
            return self._turns.take()
