"""The way of a request, from pixels in any form to labels, step by step.

resolve the model -> check the options -> take permits
-> for each image: decode -> pre-stem -> queue -> compute -> post-processing
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from glimpse.models.decoding.cost import Cost
from glimpse.models.prestem.recipe import Recipe
from glimpse.server import domain
from glimpse.server.admission import Admission, Permits
from glimpse.server.batching.batch_queue import Answer
from glimpse.server.decoding.pool import DecodePool, DecodeTask
from glimpse.server.decoding.prepare import is_prepared
from glimpse.server.decoding.where import Decoding
from glimpse.server.domain import Arrival, Caller, Classification, ClassifyRequest, ImageResult, Timing
from glimpse.server.errors import (
    DeadlineExceededError,
    InvalidImageError,
    InvalidRequestError,
    Reason,
    ServiceError,
    shown,
)
from glimpse.server.fair_queue import Ahead
from glimpse.server.metrics import Metrics, ModelMetrics
from glimpse.server.postprocessing import DEFAULT_TOP_K, postprocess
from glimpse.server.registry import LoadedModel, ModelRegistry


@dataclass(frozen=True, slots=True)
class _Job:
    """What a request wants done with each of its images."""

    model: LoadedModel
    recipe: Recipe
    top_k: int
    min_probability: float
    outputs: frozenset[str]
    ranked: bool
    caller: Caller
    metrics: ModelMetrics


@dataclass(slots=True, eq=False)
class _Flight:
    """One image on its way. Its future ends in a decoder thread (refused), in the batcher's, or by being cancelled."""

    image: domain.Image
    cost: Cost  # of decoding it, predicted
    timing: Timing
    admitted: float  # on the clock of `time.monotonic`
    answer: Future[Answer] = field(default_factory=Future)
    preparing: DecodeTask | None = None  # in a decoder thread; None: done on the event loop


class Pipeline:
    """Classifies requests; everything it needs is given to it."""

    def __init__(
        self,
        registry: ModelRegistry,
        admission: Admission,
        decoders: DecodePool,
        decoding: Decoding,
        metrics: Metrics,
        *,
        max_images: int,
        geometries: frozenset[str],
    ) -> None:
        """Put the stages together; `decoders` runs `decoding` beside the event loop.

        A request may hold `max_images` and ask for one of `geometries`.
        """
        self._registry = registry
        self._admission = admission
        self._decoders = decoders
        self._decoding = decoding
        self._metrics = metrics
        self._max_images = max_images
        self._geometries = geometries

    def check_number(self, images: int) -> None:
        """To be asked before anything is made of each image of a request.

        Raises:
            InvalidRequestError: expected; TOO_MANY_IMAGES.
        """
        if images > self._max_images:
            raise InvalidRequestError(
                Reason.TOO_MANY_IMAGES,
                f"A request may have at most {self._max_images} images. Received: {images}. Send several requests.",
                field="images",
            )

    def costs(self, request: ClassifyRequest) -> list[Cost] | None:
        """What each image of a request is going to cost; None where `classify` refuses it before that matters."""
        if len(request.images) > self._max_images:
            return None
        try:
            recipe = self._recipe(request, self._registry.resolve(request.model))
        except ServiceError:
            return None
        return [self._decoding.cost(image, recipe) for image in request.images]

    async def classify(
        self,
        request: ClassifyRequest,
        caller: Caller,
        *,
        costs: Sequence[Cost] | None = None,
        bulk: bool = False,
        arrival: Arrival | None = None,
    ) -> Classification:
        """Answer one request. An image that cannot be classified becomes an error in its own result.

        Args:
            request: what to classify.
            caller: who asks, and until when.
            costs: of its images, where they are known already.
            bulk: wait for room instead of being refused; for streams.
            arrival: when the request came; now, when left out.

        Raises:
            ServiceError: expected; the request as a whole gets an error.
        """
        if arrival is None:
            now = time.monotonic()
            arrival = Arrival(now, now)
        work = self._check(request, caller)
        if costs is None:
            costs = [self._decoding.cost(image, work.recipe) for image in request.images]
        load = Permits(
            len(costs), sum([len(image.data) for image in request.images]), sum([cost.work for cost in costs])
        )
        # From here on the request is this version's, whatever becomes the usual one meanwhile.
        with work.model.uses:
            if work.model.sleep is not None:
                await work.model.sleep.wake(caller.deadline)
            self._check_in_time(costs, work)
            async with self._admission.admit(load, wait=bulk, lane=caller.lane):
                admitted = time.monotonic()
                flights = [
                    _Flight(image, cost, _timing(arrival, admitted), admitted)
                    for image, cost in zip(request.images, costs, strict=True)
                ]
                try:
                    await self._answers(flights, work)
                except BaseException:
                    for flight in flights:
                        self._abandon(flight, work)
                    raise
                results = tuple(self._result(flight, work) for flight in flights)
        return Classification(work.model.identity, results, work.model.bundle.labels)

    def replied(self, answer: Classification) -> None:
        """The reply to a request has been put together: that was the last stage of its images."""
        now = time.monotonic()
        timings = [result.timing for result in answer.results]
        for timing in timings:
            timing.end(now)
        self._metrics.of(answer.model.name, answer.model.version).answered(timings)

    async def room(self, caller: Caller) -> None:
        """Wait until reading another request of a caller's stream is worth its memory."""
        await self._admission.room(caller.lane)

    async def _answers(self, flights: Sequence[_Flight], work: _Job) -> None:
        """Send the images on their way and wait until all have an answer or an error of their own.

        Raises:
            ServiceError: expected; what ends the request as a whole, as soon as one image meets it.
        """
        together = _Together(len(flights))
        for flight in flights:
            flight.answer.add_done_callback(together.one_done)
            if is_prepared(flight.image, work.recipe):
                self._prepare_and_queue(flight, work)  # a thread would cost more
            else:
                flight.preparing = self._decoders.submit(
                    work.caller.lane,
                    partial(self._prepare_and_queue, flight, work),
                    flight.cost.work,
                    expensive=flight.cost.expensive,
                )
        await together.all_done

    def _prepare_and_queue(self, flight: _Flight, work: _Job) -> None:
        """Decode, pre-stem, queue; in a decoder thread. Any error is set on the answer's future."""
        answer = flight.answer
        if answer.cancelled():
            return
        try:
            deadline = work.caller.deadline
            begun = time.monotonic()
            if deadline is not None and deadline <= begun:
                work.metrics.gave_up_decoding(begun - flight.admitted)
                raise DeadlineExceededError("The deadline passed before the image was decoded. Allow more time.")  # noqa: TRY301
            pixels, ready = self._prepared(flight, work, begun)
            work.model.batcher.submit(
                pixels, lane=work.caller.lane, deadline=deadline, future=answer, since=ready, outputs=work.outputs
            )
        except BaseException as error:  # noqa: BLE001 - it is told where the answer is waited for
            if answer.set_running_or_notify_cancel():
                answer.set_exception(error)

    def _prepared(self, flight: _Flight, work: _Job, begun: float) -> tuple[NDArray[np.uint8], float]:
        """The network's input, and when it was there.

        Raises:
            InvalidImageError: expected; there is none.
        """
        timing = flight.timing
        timing.decode_wait = begun - flight.admitted
        try:
            prepared = self._decoding(flight.image, work.recipe, expensive=flight.cost.expensive)
        except InvalidImageError:
            timing.decode = time.monotonic() - begun
            work.metrics.prepared(timing, fitted=False)
            raise
        ready = time.monotonic()
        # All that this thread was busy with the image: also with handing it to a process and waiting for that.
        timing.decode, timing.pre_stem = ready - begun - prepared.pre_stem_seconds, prepared.pre_stem_seconds
        work.metrics.prepared(timing, fitted=True)
        return prepared.pixels, ready

    def _result(self, flight: _Flight, work: _Job) -> ImageResult:
        timing = flight.timing
        try:
            answer = flight.answer.result()
        except InvalidImageError as error:
            self._metrics.image_refused(error.reason)
            # Its traceback leads to the image, and from there back to it: a circle that only a look for garbage ends.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            return ImageResult(timing, error=error)
        timing.queue, timing.compute = answer.queue_seconds, answer.compute_seconds
        timing.batch_size, timing.batch = answer.batch_size, answer.batch
        self._metrics.image("classified")
        if not work.ranked:
            return ImageResult(timing, outputs=answer.outputs)
        labels = work.model.bundle.labels
        predictions, others = postprocess(answer.outputs, labels, k=work.top_k, min_probability=work.min_probability)
        return ImageResult(timing, predictions, others)

    def _abandon(self, flight: _Flight, work: _Job) -> None:
        """Count an image of a request that has failed, and stop what can be stopped of its way."""
        if flight.preparing is not None:
            if flight.preparing.cancel():
                work.metrics.gave_up_decoding(time.monotonic() - flight.admitted)
            elif not flight.preparing.done():
                load = Permits(1, len(flight.image.data), flight.cost.work)
                self._admission.keep_until_done(flight.preparing, load, work.caller.lane)
        flight.answer.cancel()
        self._metrics.image(self._end(flight, work))

    def _end(self, flight: _Flight, work: _Job) -> str:
        """How an image of a failed request ended."""
        error = None if flight.answer.cancelled() or not flight.answer.done() else flight.answer.exception()
        if error is not None:
            return "expired" if isinstance(error, DeadlineExceededError) else "failed"
        # gRPC cancels for both: the caller who left, and the deadline that passed.
        deadline = work.caller.deadline
        return "expired" if deadline is not None and deadline <= time.monotonic() else "cancelled"

    def _check_in_time(self, costs: Sequence[Cost], work: _Job) -> None:
        """Refuse what cannot be answered in time, before it takes anything that others could use.

        The estimate is a hopeful one: stages overlap, and nobody else comes. Where nothing waits there is none, for
        trying costs nobody anything.

        Raises:
            DeadlineExceededError: expected; the deadline will have passed.
        """
        deadline, lane, batcher = work.caller.deadline, work.caller.lane, work.model.batcher
        if deadline is None:
            return
        expensive = sum([cost.work for cost in costs if cost.expensive])
        ordinary = sum([cost.work for cost in costs if not cost.expensive])
        left = deadline - time.monotonic()
        if not expensive:  # nearly always, even all that waits leaves time enough; whose turn comes before takes longer
            waiting, images = self._decoders.waiting(), batcher.depth()
            if not (waiting.items + images) or left >= max(
                self._decoders.expected(waiting.work + ordinary),
                batcher.seconds_to_compute(waiting.items + images + len(costs)),
            ):
                return
        decoding, queued = self._decoders.ahead(lane), batcher.ahead(lane)
        before_expensive = self._decoders.ahead(lane, expensive=True) if expensive else Ahead(0, 0)
        before = decoding.items + queued + before_expensive.items
        if not before:
            return
        expected = max(
            self._decoders.expected(decoding.work + ordinary) if ordinary else 0.0,
            self._decoders.expected(before_expensive.work + expensive, expensive=True) if expensive else 0.0,
            batcher.seconds_to_compute(before - before_expensive.items + len(costs)),
        )
        if expected > left:
            raise DeadlineExceededError(
                f"The request cannot be answered by its deadline: {before} images are ahead of it, and the answer is "
                f"expected in {expected:.3f} s, but the deadline is in {max(0.0, left):.3f} s. Allow more time, or "
                "send less at once."
            )

    def _check(self, request: ClassifyRequest, caller: Caller) -> _Job:
        """What the request asks for, if it may.

        Raises:
            ModelNotFoundError, UnavailableError: expected; there is no such model, or none yet.
            InvalidRequestError: expected; an option or the number of images is out of range, or the model lacks an
                output: whoever lets callers name them has looked, but another version may answer by now.
            ValueError: you should fix your code; no output is asked for.
        """
        model = self._registry.resolve(request.model)
        if not request.images:
            raise InvalidRequestError(Reason.NO_IMAGES, "The request has no image. Send at least one.", field="images")
        self.check_number(len(request.images))
        classes = len(model.bundle.labels)
        k = min(DEFAULT_TOP_K, classes) if request.top_k is None else request.top_k
        if not 1 <= k <= classes:
            raise InvalidRequestError(
                Reason.TOP_K_OUT_OF_RANGE,
                f"top_k must be from 1 to {classes}, the number of classes. Received: {k}",
                field="options.top_k",
            )
        if not 0 <= request.min_probability <= 1:
            raise InvalidRequestError(
                Reason.MIN_PROBABILITY_OUT_OF_RANGE,
                f"min_probability must be from 0 to 1. Received: {request.min_probability}",
                field="options.min_probability",
            )
        known = f"outputs must be some of {sorted(model.outputs)}. Received: {sorted(request.outputs)}"
        if not request.outputs:
            raise ValueError(known)
        if not request.outputs <= model.outputs:
            raise InvalidRequestError(Reason.INVALID_TENSOR, known, field="outputs")
        metrics = self._metrics.of(model.identity.name, model.identity.version)
        recipe = self._recipe(request, model)
        return _Job(model, recipe, k, request.min_probability, request.outputs, request.ranked, caller, metrics)

    def _recipe(self, request: ClassifyRequest, model: LoadedModel) -> Recipe:
        """The pre-stem of this request.

        Raises:
            InvalidRequestError: expected; its geometry is none that the server allows.
        """
        if not request.geometry:
            return model.bundle.recipe
        geometries = self._geometries if model.geometries is None else model.geometries
        if request.geometry not in geometries:
            allowed = (
                f"A request may choose one of these geometries: {', '.join(sorted(geometries))}."
                if geometries
                else "Requests cannot choose a geometry, because GLIMPSE_ALLOW_GEOMETRIES is not set on this server."
            )
            raise InvalidRequestError(
                Reason.GEOMETRY_NOT_ALLOWED,
                f"{allowed} Received: {shown(request.geometry)}",
                field="options.geometry",
            )
        return model.bundle.recipe.with_geometry(request.geometry)


def _timing(arrival: Arrival, admitted: float) -> Timing:
    return Timing(receive=arrival.complete - arrival.begun, admission=admitted - arrival.complete, begun=arrival.begun)


class _Together:
    """Wakes the event loop once: when all images of a request are done, or as soon as one has failed the request."""

    def __init__(self, images: int) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self.all_done: asyncio.Future[None] = self._loop.create_future()
        self._left = images
        self._lock = threading.Lock()

    def one_done(self, answer: Future[Answer]) -> None:
        """An image's future has ended; called from any thread."""
        error = None if answer.cancelled() else answer.exception()
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
