"""Waiting on the event loop for all images of a request, which end in other threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import CancelledError, Future

from glimpse.server.batching.batch_queue import Answer
from glimpse.server.errors import InvalidImageError


class Together:
    """Wakes the event loop once: when all images of a request are done, or as soon as one has failed the request."""

    def __init__(self, images: int) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self.all_done: asyncio.Future[None] = self._loop.create_future()
        self._left = images
        self._lock = threading.Lock()

    def one_done(self, answer: Future[Answer]) -> None:
        """An image's future has ended; called from any thread."""
        try:
            error = answer.exception()
        except CancelledError:
            error = None
        failed = None if isinstance(error, InvalidImageError) else error
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if not last and failed is None:
            return
        if threading.get_ident() == self._thread:  # where an engine has computed: no message to the loop is needed
            self._wake(failed)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake, failed)

    def _wake(self, failed: BaseException | None) -> None:
        if self.all_done.done():
            return
        if failed is None:
            self.all_done.set_result(None)
        else:
            self.all_done.set_exception(failed)
