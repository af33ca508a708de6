"""Bulk work on an event loop, over one `ClassifyStream` after another: bounded in flight, each image answered once.

The same as `client.bulk`, with tasks in place of threads: a reader (`client.aio_reading`) and the streams
(`client.aio_stream`) only put events into one queue, and the consumer takes every decision (`client.dispatch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

from glimpse.client.aio_reading import AsyncReader, start
from glimpse.client.aio_stream import AsyncStream, OpenCall
from glimpse.client.dispatch import GOODBYE_SECONDS, Dispatch
from glimpse.client.events import BulkStream, Ended, Event
from glimpse.client.reachability import Reachability
from glimpse.client.reading import Failed, InOrder, Reader, ToRequest
from glimpse.client.results import ImageResult

if TYPE_CHECKING:
    from glimpse.client.image_values import ImageInput

K = TypeVar("K")


class AsyncBulk(Generic[K]):
    """One run; `run` once."""

    def __init__(
        self,
        open_stream: Callable[[], OpenCall],
        target: str,
        to_request: ToRequest,
        *,
        in_flight: int,
        ordered: bool,
        reachability: Reachability,
        timeout: float,
    ) -> None:
        """Prepare a run; the arguments are those of `client.bulk.Bulk`.

        But for `open_stream`: it gives what starts a call, or raises a ValueError where the client is closed.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1. Received: {in_flight}")
        self._open_stream = open_stream
        self._to_request = to_request
        self._in_flight = in_flight
        self._ordered = ordered
        self._events: asyncio.Queue[Event[K]] = asyncio.Queue()
        self._dispatch: Dispatch[K] = Dispatch(self._open, target, reachability=reachability, timeout=timeout)
        self._reader: Reader[K] | AsyncReader[K] | None = None
        self._last: AsyncStream | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(
        self, images: Iterable[tuple[K, ImageInput]] | AsyncIterable[tuple[K, ImageInput]]
    ) -> AsyncGenerator[tuple[K, ImageResult], None]:
        """Yield each image's key and result; see `AsyncClient.classify_many`."""
        self._reader = start(images, self._to_request, self._events.put_nowait, self._in_flight)
        if isinstance(self._reader, AsyncReader):
            self._keep(self._reader.task)
        order: InOrder[K] = InOrder()
        try:
            while not self._dispatch.over:
                for finished in self._dispatch.happened(await self._next_event()):
                    for job in order.ready(finished) if self._ordered else (finished,):
                        if job.result is not None:  # always; for the type checker
                            yield job.key, job.result
                        self._reader.done_with_one()
                        self._dispatch.taken()
            await self._say_goodbye()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Be done with it, wherever it is; a consumer that waits for a result hears of it. Leaves no task behind."""
        if self._reader is not None:
            self._reader.stop()
        self._events.put_nowait(Failed(self._dispatch.closed()))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _open(self) -> BulkStream:
        careful = self._last is not None and self._last.end_is_hidden
        self._last = AsyncStream(self._open_stream(), self._events.put_nowait, careful=careful)
        self._keep(self._last.task)
        return self._last

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _next_event(self) -> Event[K]:
        """The next event; does what falls due while it waits.

        Raises:
            DeadlineExceededError: something is unanswered and there was no sign of life for the timeout.
            GlimpseError: no stream brings answers any more.
        """
        while True:
            due = self._dispatch.due(time.monotonic())
            with contextlib.suppress(asyncio.QueueEmpty):
                return self._events.get_nowait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                    return await self._events.get()
            self._dispatch.check_silence(time.monotonic())

    async def _say_goodbye(self) -> None:
        """Let the server end the stream with OK, so that a finished run does not look cancelled in its metrics."""
        stream = self._dispatch.stream
        if stream is None:
            return
        stream.half_close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                while True:
                    event = await self._events.get()
                    if isinstance(event, Ended) and event.stream is stream:
                        return
