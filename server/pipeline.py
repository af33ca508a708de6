"""The way of a request, from pixels in any form to labels, step by step.

resolve the model -> check the options -> take permits
-> for each image: decode -> pre-stem -> queue -> compute -> post-processing
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from glimpse.models.decoding.cost import Cost
from glimpse.models.drift import ImageFigures, image_figures
from glimpse.models.outputs import PROBABILITIES, Outputs
from glimpse.server import domain
from glimpse.server.admission import Admission, Permits
from glimpse.server.answers import explanations
from glimpse.server.answers.drift import Seen
from glimpse.server.answers.novelty import told_novelty
from glimpse.server.answers.postprocessing import postprocess
from glimpse.server.batching.batch_queue import Answer
from glimpse.server.decoding.pool import DecodePool, DecodeTask
from glimpse.server.decoding.prepare import is_prepared
from glimpse.server.decoding.where import Decoding
from glimpse.server.domain import (
    AT_ONCE,
    Arrival,
    Caller,
    Classification,
    ClassifyRequest,
    Computed,
    ImageResult,
    Timing,
)
from glimpse.server.errors import (
    DeadlineExceededError,
    InvalidImageError,
    ServiceError,
)
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.request_checks import Job, RequestChecks
from glimpse.server.together import Together


@dataclass(slots=True, eq=False)
class _Flight:
    """One image on its way. Its future ends in a decoder thread (refused), in the batcher's, or by being cancelled."""

    image: domain.Image
    cost: Cost  # of decoding it, predicted
    timing: Timing
    admitted: float  # on the clock of `time.monotonic`
    answer: Future[Answer] = field(default_factory=Future)
    figures: ImageFigures | None = None  # of the network's input, where drift is counted
    preparing: DecodeTask | None = None  # in a decoder thread; None: done on the event loop
    kept: explanations.Input | None = None  # where its answer is to be explained


class Pipeline:
    """Classifies requests; everything it needs is given to it."""

    def __init__(
        self,
        admission: Admission,
        decoders: DecodePool,
        decoding: Decoding,
        metrics: Metrics,
        checks: RequestChecks,
    ) -> None:
        """Put the stages together; `decoders` runs `decoding` beside the event loop, `checks` makes requests jobs."""
        self._admission = admission
        self._decoders = decoders
        self._decoding = decoding
        self._metrics = metrics
        self._checks = checks
        self.check_number = checks.check_number

    def costs(self, request: ClassifyRequest) -> list[Cost] | None:
        """What each image of a request is going to cost; None where `classify` refuses it before that matters."""
        if len(request.images) > self._checks.max_images:
            return None
        try:
            recipe = self._checks.recipe(request, self._checks.model(request))
        except ServiceError:
            return None
        return [self._decoding.cost(image, recipe) for image in request.images]

    def copies(self, request: ClassifyRequest) -> int:
        """How many images the network is computed for besides those of a request, to explain its answers."""
        if request.explain is None:
            return 0
        try:
            return explanations.copies(request, self._checks.model(request))
        except ServiceError:
            return 0

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
        work = self._checks.job(request, caller)
        if costs is None:
            costs = [self._decoding.cost(image, work.recipe) for image in request.images]
        images = len(costs) if work.explaining is None else len(costs) + self.copies(request)
        load = Permits(images, sum([len(image.data) for image in request.images]), sum([cost.work for cost in costs]))
        # From here on the request is this version's, whatever becomes the usual one meanwhile.
        with work.model.uses:
            if work.model.sleep is not None:
                await work.model.sleep.wake(caller.deadline)
            self._checks.check_in_time(costs, work, images)
            async with self._admission.admit(load, wait=bulk, lane=caller.lane):
                admitted = time.monotonic()
                receive, admission = arrival.complete - arrival.begun, admitted - arrival.complete
                flights = [
                    _Flight(image, cost, Timing(receive, admission, begun=arrival.begun), admitted)
                    for image, cost in zip(request.images, costs, strict=True)
                ]
                try:
                    await self._answers(flights, work)
                except BaseException:
                    for flight in flights:
                        self._abandon(flight, work)
                    raise
                results = await self._results(flights, work)
                if work.novelty is not None:
                    results = told_novelty(
                        results,
                        [_outputs(flight) for flight in flights],
                        work.novelty,
                        require_known=work.require_known,
                    )
                classified = len([None for result in results if result.error is None])
                if work.explaining is not None:
                    try:
                        results = await work.explaining.explained(
                            results, [_kept(flight) for flight in flights], caller, self._decoders
                        )
                    except BaseException as error:
                        work.metrics.image(_end(error, caller), classified)
                        raise
                work.metrics.image("classified", classified)
                if work.drift is not None:
                    work.drift.add([seen for flight in flights if (seen := _seen(flight)) is not None])
        computed = _computed(flights, work) if self._checks.looks_at_answers else None
        return Classification(work.model.identity, results, work.model.bundle.labels, computed)

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

    async def _answers(self, flights: Sequence[_Flight], work: Job) -> None:
        """Send the images on their way and wait until all have an answer or an error of their own.

        Raises:
            ServiceError: expected; what ends the request as a whole, as soon as one image meets it.
        """
        together, shape = Together(len(flights)), work.recipe.pixels_shape
        prepared = [is_prepared(flight.image, shape) for flight in flights]
        alike = all(prepared)
        for flight, ready in zip(flights, prepared, strict=True):
            flight.answer.add_done_callback(together.one_done)
            if ready:
                if not alike:  # given up, it may wait in the queue, and would keep the others' pixels in memory
                    flight.image = domain.apart(flight.image)
                self._prepare_and_queue(flight, work)  # a thread would cost more
            else:
                flight.preparing = self._decoders.submit(
                    work.caller.lane,
                    partial(self._prepare_in_thread, flight, work),
                    flight.cost.work,
                    expensive=flight.cost.expensive,
                )
        await together.all_done

    def _prepare_in_thread(self, flight: _Flight, work: Job) -> None:
        """`_prepare_and_queue` in a decoder thread, unless the image has been given up meanwhile."""
        if not flight.answer.cancelled():
            self._prepare_and_queue(flight, work)

    def _prepare_and_queue(self, flight: _Flight, work: Job) -> None:
        """Decode, pre-stem, queue. Any error is set on the answer's future."""
        answer = flight.answer
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

    def _prepared(self, flight: _Flight, work: Job, begun: float) -> tuple[NDArray[np.uint8], float]:
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
        if work.drift is not None:
            flight.figures = image_figures(prepared.pixels, work.recipe.depth)
        if work.explaining is not None:
            flight.kept = work.explaining.keep(flight.image, prepared.pixels)
        ready = time.monotonic()
        # All that this thread was busy with the image: also with handing it to a process and waiting for that.
        timing.decode, timing.pre_stem = ready - begun - prepared.pre_stem_seconds, prepared.pre_stem_seconds
        work.metrics.prepared(timing, fitted=True)
        return prepared.pixels, ready

    async def _results(self, flights: Sequence[_Flight], work: Job) -> tuple[ImageResult, ...]:
        """What became of the images; between many of them with many classes each, others have the event loop."""
        if not work.ranked or len(flights) * work.top_k <= AT_ONCE:
            return tuple([self._result(flight, work) for flight in flights])
        results: list[ImageResult] = []
        try:
            for flight in flights:
                results.append(self._result(flight, work))
                await asyncio.sleep(0)
        except BaseException as error:
            refused = len([None for result in results if result.error is not None])
            work.metrics.image(_end(error, work.caller), len(flights) - refused)
            raise
        return tuple(results)

    def _result(self, flight: _Flight, work: Job) -> ImageResult:
        timing = flight.timing
        try:
            answer = flight.answer.result()
        except InvalidImageError as error:
            work.metrics.image_refused(error.reason)
            # Its traceback leads to the image, and from there back to it: a circle that only a look for garbage ends.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            return ImageResult(timing, error=error)
        timing.queue, timing.compute = answer.queue_seconds, answer.compute_seconds
        timing.batch_size, timing.batch = answer.batch_size, answer.batch
        outputs, outside = answer.outputs, None
        if work.chosen is not None:
            among, outside = work.chosen.probabilities(outputs)
            outputs = {name: among if name == PROBABILITIES else outputs[name] for name in work.wanted}
        elif work.outputs != work.wanted:
            outputs = {name: values for name, values in outputs.items() if name in work.wanted}
        if not work.ranked:
            return ImageResult(timing, outputs=outputs, outside=outside)
        model = work.model
        predictions, others = postprocess(
            outputs,
            model.bundle.labels,
            k=work.top_k,
            min_probability=work.min_probability,
            chosen=work.chosen,
            groups=model.classes.groups if work.roll_up else (),
            roll_up=work.roll_up,
            thresholds=model.classes.thresholds,
            passed_only=work.passed_only,
        )
        return ImageResult(timing, predictions, others, outside=outside)

    def _abandon(self, flight: _Flight, work: Job) -> None:
        """Count an image of a request that has failed, and stop what can be stopped of its way."""
        if flight.preparing is not None:
            if flight.preparing.cancel():
                work.metrics.gave_up_decoding(time.monotonic() - flight.admitted)
            elif not flight.preparing.done():
                load = Permits(1, len(flight.image.data), flight.cost.work)
                self._admission.keep_until_done(flight.preparing, load, work.caller.lane)
        flight.answer.cancel()
        ended = flight.answer.done() and not flight.answer.cancelled()
        work.metrics.image(_end(flight.answer.exception() if ended else None, work.caller))


def _end(error: BaseException | None, caller: Caller) -> str:
    """How an image of a failed request ended, by its own error, if it has one."""
    if error is not None and not isinstance(error, asyncio.CancelledError):
        return "expired" if isinstance(error, DeadlineExceededError) else "failed"
    # gRPC cancels for both: the caller who left, and the deadline that passed.
    return "expired" if caller.deadline is not None and caller.deadline <= time.monotonic() else "cancelled"


def _seen(flight: _Flight) -> Seen | None:
    """What is counted of an image that was classified."""
    if flight.figures is None or flight.answer.exception():
        return None
    return Seen(flight.figures, flight.cost.pixels, flight.answer.result().outputs)


def _computed(flights: Sequence[_Flight], work: Job) -> Computed:
    """What the network gave for the images that were classified."""
    found: list[Outputs | None] = []
    for flight in flights:
        outputs: Outputs | None = None if flight.answer.exception() else flight.answer.result().outputs
        if outputs is not None and work.chosen is not None:
            outputs = {**outputs, PROBABILITIES: work.chosen.probabilities(outputs)[0]}
        found.append(outputs)
    bundle = work.model.bundle
    known = None if bundle.drift is None else bundle.drift.bins.get("novelty")
    return Computed(tuple(found), bundle.novelty, work.model.classes.thresholds, known)


def _outputs(flight: _Flight) -> Outputs | None:
    """Those of an image that was classified."""
    return None if flight.answer.exception() else flight.answer.result().outputs


def _kept(flight: _Flight) -> tuple[explanations.Input, Outputs] | None:
    """What is explained of an image that was classified."""
    return None if flight.kept is None or flight.answer.exception() else (flight.kept, flight.answer.result().outputs)
