"""The batcher's threads: they begin when there is something to compute, and may end when there has been nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Workers:
    """Threads that all do the same work, each with a number. No lock of its own; the batcher's guards it."""

    def __init__(self, number: int, work: Callable[[int], None]) -> None:
        """So many threads; none has begun.

        Args:
            number: of threads.
            work: what a thread does, told its number, from 0; it ends with it.
        """
        self._work = work
        self.threads = [self._thread(each) for each in range(number)]
        self.ended: list[int] = []  # numbers of those that have ended because there was nothing to do

    def start(self) -> None:
        """Begin all of them."""
        for thread in self.threads:
            thread.start()

    def start_again(self) -> bool:
        """Begin those again that have ended because there was nothing to do; whether one at least is there.

        Where the process may have no further thread, those that are missing are begun another time.
        """
        while self.ended:
            number = self.ended[-1]
            thread = self._thread(number)
            try:
                thread.start()
            except RuntimeError:
                _log.warning("no thread to compute in", exc_info=True)
                break
            self.threads[number] = thread
            self.ended.pop()
        return len(self.ended) < len(self.threads)

    def join(self, timeout: float | None) -> bool:
        """Wait for their end, without the lock; whether all have ended within `timeout` seconds, None: however long."""
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self.threads:
            if thread.ident is not None:
                thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self.threads)

    def _thread(self, number: int) -> threading.Thread:
        return threading.Thread(
            target=self._work,
            args=(number,),
            name=f"batcher-{number}",
            daemon=True,  # a hung device must not keep the process alive
        )
