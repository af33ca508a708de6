"""Queues whose batches may hang while nobody else looks at them: one place that does.

A queue that is asked for its trouble gives its part of the device up once a batch of it hangs (`Batcher.trouble`); else
no other model would be computed any more. Models that answer are asked by whoever tells their health. Here are the
others: a model that computes its first image before anybody has it, and one that hung when it was to be put to sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from glimpse.server.batching.model_queue import ModelQueue


class Hanging:
    """Asks them now and then, as long as there are any. Lives on the event loop."""

    def __init__(self, seconds: float) -> None:
        """There is none; `seconds` are between two looks."""
        self.seconds = seconds
        self._watched: list[ModelQueue] = []
        self._abandoned: list[ModelQueue] = []
        self._loop = asyncio.get_running_loop()
        self._looking: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watched(self, queue: ModelQueue) -> Iterator[None]:
        """Have a queue asked meanwhile; in another thread, which waits for an answer of it."""
        self._have(self._add, self._watched, queue)
        try:
            yield
        finally:
            self._have(self._watched.remove, queue)

    def abandon(self, queue: ModelQueue) -> None:
        """Nobody waits for a queue that hangs: have it asked, and closed once it comes back, if ever."""
        self._add(self._abandoned, queue)

    def look(self) -> None:
        """Ask all of them."""
        for queue in self._watched:
            queue.trouble()
        for queue in list(self._abandoned):
            if queue.trouble() is None and queue.close(0.0):
                self._abandoned.remove(queue)

    def _have(self, do: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended, and nobody waits for the thread
            self._loop.call_soon_threadsafe(do, *arguments)

    def _add(self, queues: list[ModelQueue], queue: ModelQueue) -> None:
        queues.append(queue)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on(), name="queues that may hang")

    async def _look_on(self) -> None:
        while self._watched or self._abandoned:
            await asyncio.sleep(self.seconds)
            self.look()
