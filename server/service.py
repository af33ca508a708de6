"""The service itself, without a transport: every server in front of it converts messages and calls this one object.

A transport begins and ends each call by `calls`, reads its message in one of the places of this service, converts it to
the plain values of `server/domain.py`, and has it classified here: within the caller's rate, then by the pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace

from glimpse.models.decoding.cost import Cost
from glimpse.server.access.call_context import CallContext
from glimpse.server.admission import Admission
from glimpse.server.calls import Calls
from glimpse.server.domain import Arrival, Caller, Classification, ClassifyRequest, ModelSelector
from glimpse.server.errors import ServiceError, draining
from glimpse.server.labelling.labelling import Labelling
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.metrics.model_statistics import ModelStatistics
from glimpse.server.pipeline import Pipeline
from glimpse.server.registry import ModelRegistry, ModelStatus
from glimpse.server.repository.traffic import Traffic

# What comes a little too fast waits for its turn, so that it need not be sent again. A stream is not read on meanwhile,
# so that it has one such request at a time; unary calls hold their images in memory, and so are few and short.
_STREAM_PATIENCE = 10.0  # seconds
_UNARY_PATIENCE = 1.8  # seconds
_MOST_WAITING = 32 << 20  # bytes of images, of all unary calls that wait

_LOGGED = 128  # characters of a model's name as it is logged

# Work that one image may be worth for a caller's rate: twice what an ordinary JPEG photo of 25 million pixels takes.
# What costs more counts as several.
_ONE_IMAGE = 50_000_000


class Service:
    """Classifies images and describes models for callers of any transport. Lives on the event loop."""

    def __init__(
        self,
        calls: Calls,
        admission: Admission,
        pipeline: Pipeline,
        registry: ModelRegistry,
        *,
        stream_window: int,
        traffic: Traffic | None = None,
        labelling: Labelling | None = None,
    ) -> None:
        """Put the service together.

        Args:
            calls: begins and ends the calls of this service.
            admission: gives a place to each call and each stream, before anything is read of it.
            pipeline: classifies what the rate of a caller allows.
            registry: the models.
            stream_window: requests of one stream that are worked on at once.
            traffic: divides requests among the versions of a model; None: there is one version of each.
            labelling: looks at answers, to keep samples and to take feedback; None: nobody does.
        """
        self.calls = calls
        self.metrics, self.access = calls.metrics, calls.access
        self.place_for_call, self.place_for_stream = admission.call, admission.stream
        self.stream_window = stream_window
        self.bytes_read = 0  # of images of requests that are not answered yet, whether they are admitted or not
        self.readers: set[asyncio.Task[None]] = set()  # of the open streams, which a drain ends
        self.draining = False
        self.alive, self.ready = True, False  # whether another process could help, and whether it takes requests
        self.serves = False  # whether it takes requests, whichever of its models answer
        self.models_ready: Mapping[str, bool] = {}  # of a repository, whether each model by its name takes requests
        self.statistics = ModelStatistics()
        self._pipeline = pipeline
        self._registry = registry
        self._traffic = traffic
        self.labelling = labelling
        self._waiting_bytes = 0  # of unary calls that wait for their turn
        self._drains = asyncio.Event()

    def drain(self) -> None:
        """Read no more from the open streams; they end once what they have sent is answered."""
        self.draining = True
        self._drains.set()
        for reader in self.readers:
            reader.cancel()

    def model(self, selector: ModelSelector) -> LoadedModel:
        """A loaded model.

        Raises:
            ModelNotFoundError, UnavailableError: expected; there is no such model, or none yet.
        """
        return self._registry.resolve(selector)

    def name(self, name: str) -> str:
        """The model's own name, where it is asked for by another one or by none."""
        return self._registry.name(name)

    def answers(self, model: LoadedModel) -> bool:
        """Whether requests for a loaded model are answered, as health checks tell it of each model of a repository."""
        name = model.identity.name
        if name not in self.models_ready:
            return self.ready
        return self.models_ready[name] if self._registry.usual(name) is model else self.serves

    def models(self) -> tuple[ModelStatus, ...]:
        """Every version of every model with its state, by name; of each name the oldest first."""
        return self._registry.models()

    def check_size(self, call: CallContext, model: str, images: int) -> None:
        """Note what a request asks for, and check how many images it has, before anything is made of each of them.

        Raises:
            InvalidRequestError: expected; TOO_MANY_IMAGES.
        """
        call.model, call.images = model[:_LOGGED], images
        call.served = self._registry.name(model)
        self._pipeline.check_number(images)

    async def room(self, caller: Caller) -> None:
        """Wait until reading another request of a caller's stream is worth its memory."""
        await self._pipeline.room(caller)

    async def classify(
        self, request: ClassifyRequest, call: CallContext, caller: Caller, *, bulk: bool = False
    ) -> Classification:
        """Classify the images of one request, which `check_size` has been told of, as soon as its caller's rate allows.

        A request takes its images from the caller's rate even where it is refused later: what is wrong with it had to
        be found out. Only of more images than a request may hold nothing is found out but their number.

        Args:
            request: what to classify.
            call: the call, or the part of it that is this request's where it is a stream.
            caller: who asks, and until when.
            bulk: wait for room instead of being refused; for streams.

        Raises:
            ServiceError: expected; the request as a whole gets an error.
        """
        call.bytes = size = sum(len(image.data) for image in request.images)
        self.bytes_read += size
        divided = False  # among versions, each of which counts its own failures
        try:
            costs = None
            if self.access.rates is not None:
                patience = _STREAM_PATIENCE if bulk else self._patience(call, caller)
                if (costs := self._pipeline.costs(request)) is not None:
                    call.counted = sum(map(_counted, costs)) + self._copies(request, call)
                if seconds := self.access.take(call, call.images, patience=patience):
                    await self._turn(call, seconds, bulk=bulk)
            arrival = Arrival(call.begun, call.complete or call.begun)
            if request.timeout is not None or request.priority != caller.lane.priority:
                caller = _asked_by(request, call, caller)
            if self._traffic is None or not self._traffic.divided(request.model):
                answer = await self._pipeline.classify(request, caller, costs=costs, bulk=bulk, arrival=arrival)
            else:
                divided = True

                async def compute(asked: ClassifyRequest) -> Classification:
                    try:
                        return await self._pipeline.classify(asked, caller, bulk=bulk, arrival=arrival)
                    except ServiceError:
                        self._failed(asked.model, call)
                        raise

                answer = await self._traffic.classify(request, call, caller, compute)
        except ServiceError:
            if not divided:
                self._failed(request.model, call)
            raise
        finally:
            self.bytes_read -= size
        call.model = answer.model.name
        return answer if self.labelling is None else self.labelling.answered(request, call, answer)

    def replied(self, answer: Classification, call: CallContext, *, stream_id: str = "") -> None:
        """The reply to a request has been put together: that was the last stage of its images.

        `stream_id`: the id of the request where the call is a stream.
        """
        self._pipeline.replied(answer)
        self.statistics.answered(
            answer.model, time.monotonic() - call.begun, [result.timing for result in answer.results]
        )
        if call.trace is not None:
            call.trace.images(answer.results, stream_id=stream_id)

    def failed(self, answer: Classification, call: CallContext) -> None:
        """A request that has been classified gets an error all the same, because of what is wrong with an image."""
        self.statistics.failed(answer.model, time.monotonic() - call.begun)

    def _copies(self, request: ClassifyRequest, call: CallContext) -> int:
        """How many images explaining takes besides a request's own, with the version that is going to answer it."""
        if request.explain is None:
            return 0
        if self._traffic is not None and self._traffic.divided(request.model):
            request = replace(request, model=self._traffic.version(request, call))
        return self._pipeline.copies(request)

    def _failed(self, selector: ModelSelector, call: CallContext) -> None:
        with contextlib.suppress(ServiceError):  # no such model: there is nothing that it could count for
            self.statistics.failed(self.model(selector).identity, time.monotonic() - call.begun)

    def _patience(self, call: CallContext, caller: Caller) -> float:
        """Seconds that a unary call may wait for its turn."""
        if self._waiting_bytes + call.bytes > _MOST_WAITING:
            return 0.0
        return _UNARY_PATIENCE if caller.deadline is None else min(_UNARY_PATIENCE, caller.deadline - time.monotonic())

    async def _turn(self, call: CallContext, seconds: float, *, bulk: bool) -> None:
        """Wait for the time at which the caller's rate lets in what has been taken from it.

        Raises:
            UnavailableError: expected; the server drains before that.
        """
        call.turn = time.monotonic() + seconds
        waiting = 0 if bulk else call.bytes
        self._waiting_bytes += waiting
        try:
            async with asyncio.timeout(seconds):
                await self._drains.wait()
        except TimeoutError:
            return
        except asyncio.CancelledError:
            self.access.give_back(call, call.images)
            raise
        finally:
            self._waiting_bytes -= waiting
        self.access.give_back(call, call.images)
        raise draining()


def _asked_by(request: ClassifyRequest, call: CallContext, caller: Caller) -> Caller:
    """The caller as this request has it: with its priority, and until its time is over where that is sooner."""
    deadline = caller.deadline
    if request.timeout is not None:
        own = call.begun + request.timeout
        deadline = own if deadline is None else min(own, deadline)
    return Caller(caller.lane._replace(priority=request.priority), deadline)


def _counted(cost: Cost) -> int:
    """How many images one counts for."""
    return max(1, -(-cost.work // _ONE_IMAGE))
