"""Bulk work over one `ClassifyStream`: bounded in flight, each image answered once.

Three threads, because three things can block: a reader of the caller's iterable and of the files (`client.reading`),
gRPC's own sender, and a receiver of replies. They only put events into one queue; every decision is taken by the
consumer, who is the caller iterating, so that there is no state to lock.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc

from client import wire
from client.errors import Code, DeadlineExceededError, GlimpseError, StreamBrokenError
from client.reading import Exhausted, Failed, Job, Reader, in_order
from client.results import ImageResult
from client.status import from_request_error, from_rpc_error
from glimpse.v1 import classifier_pb2 as pb

if TYPE_CHECKING:
    from client.sources import Source

K = TypeVar("K")

# Codes of a refused request that speak of this moment or this image; any other would hit all images alike.
_PASSING = frozenset({Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.CANCELLED, Code.ABORTED})
_MOST_ATTEMPTS = 6
_GOODBYE_SECONDS = 5.0  # for the server to end the stream, when all answers are here


@dataclass(frozen=True, slots=True)
class _Ended:
    """The stream is over."""

    error: grpc.RpcError | None  # None: with OK


_Event = Job[K] | Exhausted | Failed | _Ended | pb.ClassifyStreamResponse


class Bulk(Generic[K]):
    """One run over one stream; `run` once."""

    def __init__(
        self,
        open_stream: Callable[[Iterator[pb.ClassifyStreamRequest]], Any],
        target: str,
        to_request: Callable[[Source], pb.ClassifyRequest],
        *,
        in_flight: int,
        ordered: bool,
        timeout: float,
    ) -> None:
        """Prepare a run; nothing is opened before there is something to send.

        Args:
            open_stream: starts the call.
            target: for messages.
            to_request: loads an image and wraps it up; its OSError and ImageRefusedError fail that image alone.
            in_flight: images that may hold a permit, at least 1.
            ordered: whether to yield in the order of the images.
            timeout: seconds without an answer after which to give up.
        """
        self._open_stream = open_stream
        self._target = target
        self._ordered = ordered
        self._timeout = timeout
        self._events: SimpleQueue[_Event[K]] = SimpleQueue()
        self._reader: Reader[K] = Reader(to_request, self._events.put, window=in_flight)
        self._outbox: SimpleQueue[pb.ClassifyStreamRequest | None] = SimpleQueue()  # None: no more will come
        self._call: Any = None
        self._unanswered: dict[str, Job[K]] = {}  # by the id on the wire
        self._retries: list[tuple[float, str]] = []  # heap of when (time.monotonic) and which id
        self._waiting_since = 0.0  # time.monotonic of the last sign of life, while anything is unanswered
        self._heard = False  # whether the server has answered anything

    def run(self, images: Iterable[tuple[K, Source]]) -> Iterator[tuple[K, ImageResult]]:
        """Yield each image's key and result; see `Client.classify_many`."""
        self._reader.start(images)
        finished = self._finished()
        try:
            for job in in_order(finished) if self._ordered else finished:
                if job.result is not None:  # always; for the type checker
                    yield job.key, job.result
                self._reader.done_with_one()
                self._waiting_since = time.monotonic()  # what the consumer did meanwhile is not the server's delay
        finally:
            self._reader.stop()
            self._outbox.put(None)  # wakes gRPC's sender
            if self._call is not None:
                self._call.cancel()  # does nothing to a call that has ended

    def _receive(self, call: Any) -> None:
        try:
            for reply in call:
                self._events.put(reply)
        except grpc.RpcError as error:
            self._events.put(_Ended(error))
        else:
            self._events.put(_Ended(None))

    def _finished(self) -> Iterator[Job[K]]:
        """Jobs that have a result, as they get it."""
        done = 0
        total: int | None = None
        while done != total:
            event = self._next_event()
            finished: Job[K] | None = None
            if isinstance(event, Job):
                if event.result is None:
                    self._send(event)
                else:
                    finished = event
            elif isinstance(event, pb.ClassifyStreamResponse):
                finished = self._answered(event)
            elif isinstance(event, Exhausted):
                total = event.images
            elif isinstance(event, Failed):
                raise event.error
            else:
                raise self._broken(event.error)
            if finished is not None:
                done += 1
                yield finished
        self._say_goodbye()

    def _next_event(self) -> _Event[K]:
        """The next event; sends what is due for another attempt while it waits.

        Raises:
            DeadlineExceededError: something is unanswered and there was no sign of life for the timeout.
        """
        while True:
            now = time.monotonic()
            if self._retries and self._retries[0][0] <= now:
                self._transmit(heapq.heappop(self._retries)[1])
                continue
            waits = [self._retries[0][0] - now] if self._retries else []
            if self._unanswered:
                waits.append(self._waiting_since + self._timeout - now)
            try:
                return self._events.get(timeout=max(0.0, min(waits)) if waits else None)
            except Empty:
                if self._unanswered and time.monotonic() >= self._waiting_since + self._timeout:
                    raise DeadlineExceededError(
                        Code.DEADLINE_EXCEEDED,
                        "",
                        f"No answer from {self._target} for {self._timeout:g} seconds, "
                        f"unanswered images: {len(self._unanswered)}.",
                    ) from None

    def _send(self, job: Job[K]) -> None:
        if self._call is None:  # only now, so that a run without a readable image needs no server
            self._call = self._open_stream(iter(self._outbox.get, None))
            Thread(target=self._receive, args=(self._call,), name="glimpse-bulk-receive", daemon=True).start()
        if not self._unanswered:
            self._waiting_since = time.monotonic()
        self._unanswered[str(job.number)] = job
        self._transmit(str(job.number))

    def _transmit(self, request_id: str) -> None:
        job = self._unanswered[request_id]
        job.attempts += 1
        self._outbox.put(pb.ClassifyStreamRequest(id=request_id, request=job.request))

    def _answered(self, reply: pb.ClassifyStreamResponse) -> Job[K] | None:
        """The job with its result; None where it gets another attempt.

        Raises:
            GlimpseError: the refusal would hit all images alike.
        """
        self._heard = True
        self._waiting_since = time.monotonic()
        job = self._unanswered.get(reply.id)
        if job is None or (reply.HasField("response") and len(reply.response.results) != 1):
            raise self._broken(None, f"An answer does not fit what was asked (id {reply.id!r}).")
        if reply.HasField("response"):
            job.result = wire.from_response(reply.response)[0]
        else:
            error = from_request_error(reply.error)
            if error.retry_after is not None and job.attempts < _MOST_ATTEMPTS:
                # What was refused together is told the same; a little chance keeps it from coming back together.
                delay = error.retry_after * random.uniform(1.0, 1.25)
                heapq.heappush(self._retries, (time.monotonic() + delay, reply.id))
                return None
            if error.code not in _PASSING:
                raise error
            job.result = ImageResult.failed(error.code, error.reason, error.message)
        job.request = None
        return self._unanswered.pop(reply.id)

    def _broken(self, error: grpc.RpcError | None, why: str = "The server ended it early.") -> GlimpseError:
        cause = None if error is None else from_rpc_error(error, self._target)
        if cause is not None and not self._heard:
            return cause  # it never stood
        broken = StreamBrokenError(
            Code.UNAVAILABLE if cause is None else cause.code,
            "" if cause is None else cause.reason,
            f"The stream to {self._target} broke, unanswered images: {len(self._unanswered)}. "
            f"{why if cause is None else cause.message}",
            retry_after=None if cause is None else cause.retry_after,
        )
        broken.__cause__ = error
        return broken

    def _say_goodbye(self) -> None:
        """Let the server end the stream with OK, so that a finished run does not look cancelled in its metrics."""
        if self._call is None:
            return
        self._outbox.put(None)
        with contextlib.suppress(Empty):
            while not isinstance(self._events.get(timeout=_GOODBYE_SECONDS), _Ended):
                pass
