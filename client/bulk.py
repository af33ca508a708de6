"""Bulk work over one `ClassifyStream` after another: bounded in flight, each image answered once.

Three threads, because three things can block: a reader of the caller's iterable and of the files (`client.reading`),
gRPC's own sender, and a receiver of replies (`client.stream`). They only put events into one queue; every decision
(`client.dispatch`) is taken by the consumer, who is the caller iterating, so that there is no state to lock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

from glimpse.client.dispatch import GOODBYE_SECONDS, Dispatch
from glimpse.client.events import Ended, Event
from glimpse.client.reachability import Reachability
from glimpse.client.reading import Job, Reader, in_order
from glimpse.client.results import ImageResult
from glimpse.client.stream import OpenStream, Stream
from glimpse.v1 import classifier_pb2 as pb

if TYPE_CHECKING:
    from glimpse.client.image_values import ImageInput

K = TypeVar("K")


class Bulk(Generic[K]):
    """One run; `run` once."""

    def __init__(
        self,
        open_stream: OpenStream,
        target: str,
        to_request: Callable[[ImageInput], pb.ClassifyRequest],
        *,
        in_flight: int,
        ordered: bool,
        reachability: Reachability,
        timeout: float,
    ) -> None:
        """Prepare a run; nothing is opened before there is something to send.

        Args:
            open_stream: starts a call, each time on a server that can take it.
            target: for messages.
            to_request: loads an image and wraps it up; its OSError and ImageRefusedError fail that image alone.
            in_flight: images that may hold a permit, at least 1.
            ordered: whether to yield in the order of the images.
            reachability: what the client knows of its servers.
            timeout: seconds without an answer after which to give up.
        """
        self._ordered = ordered
        self._events: SimpleQueue[Event[K]] = SimpleQueue()
        self._reader: Reader[K] = Reader(to_request, self._events.put, window=in_flight)
        self._dispatch: Dispatch[K] = Dispatch(
            lambda: Stream(open_stream, self._events.put), target, reachability=reachability, timeout=timeout
        )

    def run(self, images: Iterable[tuple[K, ImageInput]]) -> Iterator[tuple[K, ImageResult]]:
        """Yield each image's key and result; see `Client.classify_many`."""
        self._reader.start(images)
        finished = self._finished()
        try:
            for job in in_order(finished) if self._ordered else finished:
                if job.result is not None:  # always; for the type checker
                    yield job.key, job.result
                self._reader.done_with_one()
                self._dispatch.taken()
        finally:
            self._reader.stop()
            if self._dispatch.stream is not None:
                self._dispatch.stream.cancel()

    def _finished(self) -> Iterator[Job[K]]:
        """Jobs that have a result, as they get it."""
        while not self._dispatch.over:
            yield from self._dispatch.happened(self._next_event())
        self._say_goodbye()

    def _next_event(self) -> Event[K]:
        """The next event; does what falls due while it waits.

        Raises:
            DeadlineExceededError: something is unanswered and there was no sign of life for the timeout.
            GlimpseError: no stream brings answers any more.
        """
        while True:
            due = self._dispatch.due(time.monotonic())
            try:
                return self._events.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            except Empty:
                pass
            self._dispatch.check_silence(time.monotonic())

    def _say_goodbye(self) -> None:
        """Let the server end the stream with OK, so that a finished run does not look cancelled in its metrics."""
        stream = self._dispatch.stream
        if stream is None:
            return
        stream.half_close()
        with contextlib.suppress(Empty):
            while True:
                event = self._events.get(timeout=GOODBYE_SECONDS)
                if isinstance(event, Ended) and event.stream is stream:
                    return
