"""What becomes of each image of bulk work: sent, answered, sent again, given up. The decisions, for both clients.

Nothing here waits, and there are no threads and no tasks: whoever runs it (`client.bulk`, `client.aio_bulk`) brings it
what happened, one event at a time, and comes again when the next thing falls due.

A stream that breaks for a passing reason (its server drains or dies, the connection is lost or has come of age) costs
nothing but time: the next one, on whichever server gRPC chooses, gets the images that are still unanswered.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import grpc

from glimpse.client import messages
from glimpse.client.backoff import Backoff
from glimpse.client.calls import RATE_LIMITED
from glimpse.client.errors import Code, DeadlineExceededError, GlimpseError, ImageRefusedError, StreamBrokenError
from glimpse.client.events import BulkStream, Ended, Event, Reply
from glimpse.client.message_size import MessageSize
from glimpse.client.nouns import noun
from glimpse.client.rate_control import RateControl
from glimpse.client.reachability import Reachability
from glimpse.client.reading import Exhausted, Job
from glimpse.client.results import ImageResult
from glimpse.client.status import from_request_error, from_rpc_error
from glimpse.v1 import classifier_pb2 as pb

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
GOODBYE_SECONDS = 5.0  # for the server to end the stream, when all answers are here


class Dispatch(Generic[K]):
    """One run."""

    def __init__(
        self, open_stream: Callable[[], BulkStream], target: str, *, reachability: Reachability, timeout: float
    ) -> None:
        """Prepare a run; nothing is opened before there is something to send.

        Args:
            open_stream: starts a call, each time on a server that can take it; a ValueError says that the client is
                closed.
            target: for messages.
            reachability: what the client knows of its servers.
            timeout: seconds without an answer after which to give up.
        """
        self.stream: BulkStream | None = None
        self._open_stream = open_stream
        self._target = target
        self._timeout = timeout
        self._unanswered: dict[str, Job[Any]] = {}  # by the id on the wire, in the order of their reading
        self._retries: list[tuple[float, str]] = []  # heap of when (time.monotonic) and which id
        self._rate = RateControl()
        self._held: deque[str] = deque()  # not sent yet on this stream: the server refuses what comes too fast
        self._out: set[str] = set()  # on the way since the pace is limited
        self._out_again: set[str] = set()  # those of them that had been refused before
        self._waiting_since = 0.0  # time.monotonic of the last sign of life, while anything is unanswered
        self._answers = 0
        self._finished = 0
        self._total: int | None = None  # images; None: more may come
        self._reachability = reachability
        self._backoff = Backoff(known=reachability.expected(time.monotonic()))
        self._leave_by: float | None = None  # time.monotonic; set while the stream gets no more images
        self._leaving_for: GlimpseError | None = None  # why
        self._size = MessageSize()
        self._reopen_at: float | None = 0.0  # time.monotonic; None while there is a stream

    @property
    def over(self) -> bool:
        """Whether each image has its result."""
        return self._finished == self._total

    def happened(self, event: Event[K]) -> list[Job[K]]:
        """The jobs that have their result by what happened, mostly one or none.

        Raises:
            GlimpseError: no stream would do better, or a refusal would hit all images alike.
            BaseException: whatever the caller's iterable raised.
        """
        finished: list[Job[K]] = []
        if isinstance(event, Job):
            if event.result is None and not self._size.refuse(event):
                self._send(event)
            else:
                finished = [event]
        elif isinstance(event, Reply):
            answered = self._replied(event)
            finished = [] if answered is None else [answered]
        elif isinstance(event, Ended):
            if event.stream is self.stream:  # else it has been left, and nobody waits for it
                finished = self._ended(event.error)
        elif isinstance(event, Exhausted):
            self._total = event.images
        else:
            raise event.error
        self._finished += len(finished)
        return finished

    def taken(self) -> None:
        """The consumer has had a result and wants the next; what it did meanwhile is not the server's delay."""
        self._waiting_since = time.monotonic()

    def due(self, now: float) -> float | None:
        """Do what it is time for.

        Args:
            now: time.monotonic.

        Returns:
            When to come again if nothing happens before; None: nothing will fall due.

        Raises:
            GlimpseError: no stream brings answers any more.
        """
        times = self._do_what_is_due(now)
        if self._unanswered:
            times.append(self._waiting_since + self._timeout)
        return min(times) if times else None

    def check_silence(self, now: float) -> None:
        """See whether there was a sign of life.

        Raises:
            DeadlineExceededError: something is unanswered, and there was none for the timeout.
        """
        if self._unanswered and now >= self._waiting_since + self._timeout:
            raise DeadlineExceededError(
                Code.DEADLINE_EXCEEDED,
                "",
                f"No answer from {self._target} for {self._timeout:g} {noun(self._timeout, 'second')}, "
                f"unanswered images: {len(self._unanswered)}.",
            )

    def closed(self) -> GlimpseError:
        """The error of a run whose client is closed meanwhile."""
        return self._broken(None, "The client was closed.")

    def _do_what_is_due(self, now: float) -> list[float]:
        """Leave, open and send what it is time for; the times at which there will be more to do."""
        stream = self.stream
        if stream is not None and self._leave_by is not None and (now >= self._leave_by or not stream.pending):
            stream.cancel()
            self._broke(self._leaving_for, "It takes no more images.")
        if self._unanswered and self._reopen_at is not None and now >= self._reopen_at:
            self._open()
        if self._reopen_at is not None:
            return [self._reopen_at] if self._unanswered else []
        if self._leave_by is not None:
            return [self._leave_by]
        return self._send_what_is_due(now)

    def _send_what_is_due(self, now: float) -> list[float]:
        """Send what may be sent by now; the time at which there will be more to send."""
        pace = self._rate
        while self._retries and pace.room(len(self._out_again)):
            due = max(self._retries[0][0], pace.next)
            if due > now:
                return [due]
            self._transmit(heapq.heappop(self._retries)[1], again=True)
        # Whoever was told to come back goes first.
        while self._held and not self._retries and pace.room(len(self._out)):
            if pace.next > now:
                return [pace.next]
            self._transmit(self._held.popleft())
        return []

    def _send(self, job: Job[K]) -> None:
        if not self._unanswered:
            self._waiting_since = time.monotonic()
        self._unanswered[str(job.number)] = job
        if self.stream is None or self._leave_by is not None:
            return  # the next stream begins with it
        if self._rate.limited:
            self._held.append(str(job.number))
        else:
            self._transmit(str(job.number))

    def _transmit(self, request_id: str, *, again: bool = False) -> None:
        if self._rate.limited:
            self._rate.sent(time.monotonic())
            self._out.add(request_id)
            if again:
                self._out_again.add(request_id)
        if self.stream is not None:  # always; for the type checker
            self.stream.send(pb.ClassifyStreamRequest(id=request_id, request=self._unanswered[request_id].request))

    def _open(self) -> None:
        """Open a stream and send what is unanswered, but for what was told to come back later."""
        try:
            self.stream = self._open_stream()
        except ValueError as error:
            raise self.closed() from error
        self._reopen_at = None
        later = {request_id for _, request_id in self._retries}
        for request_id in self._unanswered:
            if request_id in later:
                continue
            if self._rate.limited:
                self._held.append(request_id)
            else:
                self._transmit(request_id)

    def _replied(self, reply: Reply) -> Job[K] | None:
        """The job with its result; None where it gets another attempt.

        Raises:
            GlimpseError: the refusal would hit all images alike, or the answer makes no sense.
        """
        stream, message = reply.stream, reply.message
        if stream is not self.stream:  # it has been left: the image was sent again, and is answered there
            return None
        fits = message.id in stream.pending
        if not fits or (message.HasField("response") and len(message.response.results) != 1):
            raise self._broken(None, f"An answer does not fit what was asked (id {message.id!r}).")
        stream.pending.discard(message.id)
        job = self._unanswered[message.id]
        self._waiting_since = time.monotonic()
        alone = self._out == {message.id}
        self._out.discard(message.id)
        self._out_again.discard(message.id)
        if message.HasField("response"):
            stream.answered = True
            self._reachability.answered()
            self._answers += 1
            self._rate.answered()
            job.result = messages.from_response(message.response)[0]
        else:
            job.result = self._refused(job, from_request_error(message.error), alone=alone)
            if job.result is None:
                return None
        job.request = None
        return self._unanswered.pop(message.id)

    def _refused(self, job: Job[K], error: GlimpseError, *, alone: bool) -> ImageResult | None:
        """What becomes of a refused image; None: another attempt. `alone`: no other one was on the way with it.

        Raises:
            GlimpseError: the refusal would hit all images alike.
        """
        if error.code is Code.UNAVAILABLE:  # the server is going: others can do it
            if self._leave_by is None and self.stream is not None:
                self.stream.half_close()
                self._leave_by = time.monotonic() + _LEAVE_SECONDS
                self._leaving_for = error
            return None
        job.refusals = job.refusals + 1 if job.answers == self._answers else 1
        job.answers = self._answers
        if error.retry_after is not None and job.refusals < _MOST_REFUSALS:
            if error.reason == RATE_LIMITED:
                # Each has a place of its own in the server's line. It is told when that is, and goes then.
                self._rate.refused(time.monotonic(), error.retry_after, alone=alone)
                delay = error.retry_after
            else:
                # What was refused together is told the same; a little chance keeps it from coming back together.
                delay = error.retry_after * random.uniform(1.0, 1.25)
            heapq.heappush(self._retries, (time.monotonic() + delay, str(job.number)))
            return None
        if error.code not in _PASSING:
            raise error
        return ImageResult.failed(error.code, error.reason, error.message)

    def _ended(self, error: grpc.RpcError | None) -> list[Job[K]]:
        """Think of another stream after this one ended by itself; the jobs that were its end have their result.

        Raises:
            GlimpseError: another one would do no better.
        """
        if self._leaving_for is not None:  # it ended as it was asked to
            self._broke(self._leaving_for, "It takes no more images.")
            return []
        cause = None if error is None else from_rpc_error(error, self._target)
        if error is not None and isinstance(cause, ImageRefusedError):
            return self._without_large_ones(error, cause)
        if cause is not None and cause.code not in _PASSING_ENDS and cause.retry_after is None:
            raise self._broken(cause) from error
        self._broke(cause)
        return []

    def _without_large_ones(self, error: grpc.RpcError, cause: GlimpseError) -> list[Job[K]]:
        """Go on without the images that are too large for the server, after one of them has ended a stream.

        Raises:
            GlimpseError: nothing was sent that could be the cause.
        """
        sent = [] if self.stream is None else [self._unanswered[each] for each in self.stream.pending]
        if self.stream is None or not self._size.learn(error, cause, sent):
            raise self._broken(cause) from error
        refused = [job for job in self._unanswered.values() if self._size.refuse(job)]
        for job in refused:
            del self._unanswered[str(job.number)]
        self._retries = [each for each in self._retries if each[1] in self._unanswered]
        heapq.heapify(self._retries)
        self.stream.answered = True  # by the refusal
        self._broke(cause)
        return refused

    def _broke(self, cause: GlimpseError | None, why: str = "The server ended it early.") -> None:
        """Be done with the stream; there will be another one, after a while.

        Raises:
            GlimpseError: there have been enough without an answer.
        """
        if self.stream is not None:
            self._backoff.broke(answered=self.stream.answered)
        self.stream = self._leave_by = self._leaving_for = None
        self._held.clear()
        self._out.clear()
        self._out_again.clear()
        delay = self._backoff.delay(at_least=0.0 if cause is None else cause.retry_after or 0.0)
        # Without an unanswered image a stream is not missed, and whether the next one stands is not known yet.
        if delay is None and self._unanswered:
            raise self._broken(cause, why)
        self._reopen_at = time.monotonic() + (delay or 0.0)

    def _broken(self, cause: GlimpseError | None, why: str = "The server ended it early.") -> GlimpseError:
        stood = self._backoff.ever_answered or (self.stream is not None and self.stream.answered)
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
