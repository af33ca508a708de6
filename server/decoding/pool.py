"""The decoder threads: work from many callers, in turn by lane."""

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

    def __init__(self, threads: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the threads.

        Args:
            threads: pieces of work that run side by side.
            clock: seconds, monotonic.
        """
        self._clock = clock
        self._turns: Turns[Work] = Turns()
        self._look_through = _SHELLS
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"decode-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, lane: str, do: Callable[[], None]) -> Work:
        """Queue one piece of work, which must not raise, in `lane`.

        Raises:
            RuntimeError: the pool is closed.
        """
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
        with self._changed:
            self._turns.discard(Work.cancelled)
            return len(self._turns)

    def ahead(self, lane: str) -> int:
        """How many pieces of work are begun before one that comes in `lane` now, if no others come."""
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
        with self._changed:
            self._closed = True
            while len(self._turns):
                self._turns.take().cancel()
            self._changed.notify_all()

    def _run(self) -> None:
        while (work := self._next()) is not None:
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

    def _next(self) -> Work | None:
        with self._changed:
            while not len(self._turns):
                if self._closed:
                    return None
                self._changed.wait()
            return self._turns.take()
