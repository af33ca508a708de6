"""Bulk work over one `ClassifyStream` after another: bounded in flight, each image answered once.

Three threads, because three things can block: a reader of the caller's iterable and of the files (`client.reading`),
gRPC's own sender, and a receiver of replies (`client.stream`). They only put events into one queue; every decision is
taken by the consumer, who is the caller iterating, so that there is no state to lock.

A stream that breaks for a passing reason (its server drains or dies, the connection is lost or has come of age) costs
nothing but time: the next one, on whichever server gRPC chooses, gets the images that are still unanswered.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc

from client import wire
from client.backoff import Backoff
from client.errors import Code, DeadlineExceededError, GlimpseError, StreamBrokenError
from client.reading import Exhausted, Failed, Job, Reader, in_order
from client.results import ImageResult
from client.status import from_request_error, from_rpc_error
from client.stream import Ended, OpenStream, Reply, Stream
from glimpse.v1 import classifier_pb2 as pb

if TYPE_CHECKING:
    from client.sources import Source

K = TypeVar("K")

# Codes of a refused request that speak of this moment or this image; any other would hit all images alike.
_PASSING = frozenset({Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.CANCELLED, Code.ABORTED})
# Codes of a broken stream after which another one may do better: its server went, or something between us and it.
# INTERNAL and UNKNOWN are how a connection that was cut in the middle of a message can look.
_PASSING_ENDS = frozenset(
    {
        Code.UNAVAILABLE,
        Code.CANCELLED,
        Code.ABORTED,
        Code.DEADLINE_EXCEEDED,  # of the server's own, for example UPLOAD_TOO_SLOW: we set none
        Code.INTERNAL,
        Code.UNKNOWN,
    }
)
_MOST_REFUSALS = 6  # of one image while no other is answered: a server that is merely busy goes on answering
_LEAVE_SECONDS = 5.0  # for a server that refuses further images, to answer those that it has taken
_GOODBYE_SECONDS = 5.0  # for the server to end the stream, when all answers are here

_Event = Job[K] | Exhausted | Failed | Reply | Ended


class Bulk(Generic[K]):
    """One run; `run` once."""

    def __init__(
        self,
        open_stream: OpenStream,
        target: str,
        to_request: Callable[[Source], pb.ClassifyRequest],
        *,
        in_flight: int,
        ordered: bool,
        timeout: float,
    ) -> None:
        """Prepare a run; nothing is opened before there is something to send.

        Args:
            open_stream: starts a call, each time on a server that can take it.
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
        self._unanswered: dict[str, Job[K]] = {}  # by the id on the wire, in the order of their reading
        self._retries: list[tuple[float, str]] = []  # heap of when (time.monotonic) and which id
        self._waiting_since = 0.0  # time.monotonic of the last sign of life, while anything is unanswered
        self._answers = 0
        self._backoff = Backoff()
        self._stream: Stream | None = None
        self._leave_by: float | None = None  # time.monotonic; set while the stream gets no more images
        self._leaving_for: GlimpseError | None = None  # why
        self._reopen_at: float | None = 0.0  # time.monotonic; None while there is a stream

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
            if self._stream is not None:
                self._stream.cancel()

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
            elif isinstance(event, Reply):
                finished = self._replied(event)
            elif isinstance(event, Ended):
                if event.stream is self._stream:  # else it has been left, and nobody waits for it
                    self._ended(event.error)
            elif isinstance(event, Exhausted):
                total = event.images
            else:
                raise event.error
            if finished is not None:
                done += 1
                yield finished
        self._say_goodbye()

    def _next_event(self) -> _Event[K]:
        """The next event; does what falls due while it waits.

        Raises:
            DeadlineExceededError: something is unanswered and there was no sign of life for the timeout.
            GlimpseError: no stream brings answers any more.
        """
        while True:
            due = self._do_what_is_due(time.monotonic())
            if self._unanswered:
                due.append(self._waiting_since + self._timeout)
            try:
                return self._events.get(timeout=max(0.0, min(due) - time.monotonic()) if due else None)
            except Empty:
                if self._unanswered and time.monotonic() >= self._waiting_since + self._timeout:
                    raise DeadlineExceededError(
                        Code.DEADLINE_EXCEEDED,
                        "",
                        f"No answer from {self._target} for {self._timeout:g} seconds, "
                        f"unanswered images: {len(self._unanswered)}.",
                    ) from None

    def _do_what_is_due(self, now: float) -> list[float]:
        """Leave, open and send what it is time for; the times at which there will be more to do."""
        stream = self._stream
        if stream is not None and self._leave_by is not None and (now >= self._leave_by or not stream.pending):
            stream.cancel()
            self._broke(self._leaving_for, "It takes no more images.")
        if self._unanswered and self._reopen_at is not None and now >= self._reopen_at:
            self._open()
        if self._reopen_at is not None:
            return [self._reopen_at] if self._unanswered else []
        if self._leave_by is not None:
            return [self._leave_by]
        while self._retries and self._retries[0][0] <= now:
            self._transmit(heapq.heappop(self._retries)[1])
        return [self._retries[0][0]] if self._retries else []

    def _send(self, job: Job[K]) -> None:
        if not self._unanswered:
            self._waiting_since = time.monotonic()
        self._unanswered[str(job.number)] = job
        if self._stream is not None and self._leave_by is None:
            self._transmit(str(job.number))  # otherwise the next stream begins with it

    def _transmit(self, request_id: str) -> None:
        if self._stream is not None:  # always; for the type checker
            self._stream.send(pb.ClassifyStreamRequest(id=request_id, request=self._unanswered[request_id].request))

    def _open(self) -> None:
        """Open a stream and send what is unanswered, but for what was told to come back later."""
        try:
            self._stream = Stream(self._open_stream, self._events.put)
        except ValueError as error:
            raise self._broken(None, "The client was closed.") from error
        self._reopen_at = None
        later = {request_id for _, request_id in self._retries}
        for request_id in self._unanswered:
            if request_id not in later:
                self._transmit(request_id)

    def _replied(self, reply: Reply) -> Job[K] | None:
        """The job with its result; None where it gets another attempt.

        Raises:
            GlimpseError: the refusal would hit all images alike, or the answer makes no sense.
        """
        stream, message = reply.stream, reply.message
        if stream is not self._stream:  # it has been left: the image was sent again, and is answered there
            return None
        fits = message.id in stream.pending
        if not fits or (message.HasField("response") and len(message.response.results) != 1):
            raise self._broken(None, f"An answer does not fit what was asked (id {message.id!r}).")
        stream.pending.discard(message.id)
        job = self._unanswered[message.id]
        self._waiting_since = time.monotonic()
        if message.HasField("response"):
            stream.answered = True
            self._answers += 1
            job.result = wire.from_response(message.response)[0]
        else:
            job.result = self._refused(job, from_request_error(message.error))
            if job.result is None:
                return None
        job.request = None
        return self._unanswered.pop(message.id)

    def _refused(self, job: Job[K], error: GlimpseError) -> ImageResult | None:
        """What becomes of a refused image; None: another attempt.

        Raises:
            GlimpseError: the refusal would hit all images alike.
        """
        if error.code is Code.UNAVAILABLE:  # the server is going: others can do it
            if self._leave_by is None and self._stream is not None:
                self._stream.half_close()
                self._leave_by = time.monotonic() + _LEAVE_SECONDS
                self._leaving_for = error
            return None
        job.refusals = job.refusals + 1 if job.answers == self._answers else 1
        job.answers = self._answers
        if error.retry_after is not None and job.refusals < _MOST_REFUSALS:
            # What was refused together is told the same; a little chance keeps it from coming back together.
            delay = error.retry_after * random.uniform(1.0, 1.25)
            heapq.heappush(self._retries, (time.monotonic() + delay, str(job.number)))
            return None
        if error.code not in _PASSING:
            raise error
        return ImageResult.failed(error.code, error.reason, error.message)

    def _ended(self, error: grpc.RpcError | None) -> None:
        """Think of another stream after this one ended by itself.

        Raises:
            GlimpseError: another one would do no better.
        """
        if self._leaving_for is not None:  # it ended as it was asked to
            self._broke(self._leaving_for, "It takes no more images.")
            return
        cause = None if error is None else from_rpc_error(error, self._target)
        if cause is not None and cause.code not in _PASSING_ENDS and cause.retry_after is None:
            raise self._broken(cause) from error
        self._broke(cause)

    def _broke(self, cause: GlimpseError | None, why: str = "The server ended it early.") -> None:
        """Be done with the stream; there will be another one, after a while.

        Raises:
            GlimpseError: there have been enough without an answer.
        """
        if self._stream is not None:
            self._backoff.broke(answered=self._stream.answered)
        self._stream = self._leave_by = self._leaving_for = None
        delay = self._backoff.delay(at_least=0.0 if cause is None else cause.retry_after or 0.0)
        # Without an unanswered image a stream is not missed, and whether the next one stands is not known yet.
        if delay is None and self._unanswered:
            raise self._broken(cause, why)
        self._reopen_at = time.monotonic() + (delay or 0.0)

    def _broken(self, cause: GlimpseError | None, why: str = "The server ended it early.") -> GlimpseError:
        stood = self._backoff.ever_answered or (self._stream is not None and self._stream.answered)
        if cause is not None and not stood:
            return cause
        broken = StreamBrokenError(
            Code.UNAVAILABLE if cause is None else cause.code,
            "" if cause is None else cause.reason,
            f"The stream to {self._target} broke, unanswered images: {len(self._unanswered)}. "
            f"{why if cause is None else cause.message}",
            retry_after=None if cause is None else cause.retry_after,
        )
        broken.__cause__ = cause
        return broken

    def _say_goodbye(self) -> None:
        """Let the server end the stream with OK, so that a finished run does not look cancelled in its metrics."""
        if self._stream is None:
            return
        self._stream.half_close()
        with contextlib.suppress(Empty):
            while True:
                event = self._events.get(timeout=_GOODBYE_SECONDS)
                if isinstance(event, Ended) and event.stream is self._stream:
                    return
