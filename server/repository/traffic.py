"""Which version of a model answers a request that names none, and which of them are copied.

A canary gets the requests whose keys belong to its share. The key is what the caller says with `glimpse-key`; else the
id of the request, where the caller gives one; else the caller. What the canary refuses only because of what it is, such
as a request for more classes than it has, the usual version answers, and it counts as an error of the canary. So does a
canary that has slept and cannot be woken; where only the memory for it is lacking, that is no error of its own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from glimpse.models.labels import ClassLabel
from glimpse.models.outputs import PROBABILITIES
from glimpse.server.access.call_context import CallContext
from glimpse.server.domain import (
    Caller,
    ClassChoice,
    Classification,
    ClassifyRequest,
    ImageResult,
    ModelSelector,
    apart,
)
from glimpse.server.errors import (
    Code,
    FailedPreconditionError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    Reason,
    ServiceError,
)
from glimpse.server.labelling.labelling import Labelling
from glimpse.server.registry import ModelRegistry
from glimpse.server.repository import verdicts
from glimpse.server.repository.copies import Copies, Copy
from glimpse.server.repository.rollout import Kind, Rollout, Rollouts

Compute = Callable[[ClassifyRequest], Awaitable[Classification]]


class Traffic:
    """Distributes the requests of one process. Lives on the event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        rollouts: Rollouts,
        copies: Copies,
        *,
        classes: ClassChoice | None = None,
        sample: Callable[[], float] = random.random,
        labelling: Labelling | None = None,
    ) -> None:
        """Distribute by `rollouts`.

        `classes`: that answer requests which do not choose, as the pipeline has them; None: all. `sample` gives numbers
        from 0 to 1, by which requests are chosen to be copied. `labelling` is told where versions disagree.
        """
        self._registry, self._rollouts, self._copies, self._sample = registry, rollouts, copies, sample
        self._classes, self._labelling = classes, labelling

    def divided(self, selector: ModelSelector) -> bool:
        """Whether a request for this model may go to a canary, or be copied."""
        return not selector.version and self._rollouts.any(self._registry.name(selector.name))

    def version(self, request: ClassifyRequest, call: CallContext) -> ModelSelector:
        """What is to answer a request of which `divided` is true, as things are now."""
        name = self._registry.name(request.model.name)
        canary = self._canary(name)
        if canary is None or not self._takes(canary, call):
            return request.model
        return ModelSelector(name, canary.terms.version)

    def _canary(self, name: str) -> Rollout | None:
        """The canary of a model, unless it is the usual version; None: there is none."""
        canary, usual = self._rollouts.of(name, Kind.CANARY), self._registry.usual(name)
        if canary is None or not canary.running or usual is None or usual.identity.version == canary.terms.version:
            return None
        return canary

    def _takes(self, canary: Rollout, call: CallContext) -> bool:
        """Whether a request is the canary's."""
        return canary.takes(call.key or call.who) and self._loaded(canary.name, canary.terms.version)

    async def classify(
        self, request: ClassifyRequest, call: CallContext, caller: Caller, compute: Compute
    ) -> Classification:
        """Have a request answered by the version whose turn it is, and copied if it is to be.

        Args:
            request: of which `divided` is true.
            call: the call, or the part of it that is this request's.
            caller: who asks, and until when.
            compute: gives the answer of the pipeline.

        Raises:
            ServiceError: expected; the request as a whole gets an error.
        """
        name = self._registry.name(request.model.name)
        if (canary := self._canary(name)) is None:
            answer = await compute(request)
        elif self._takes(canary, call):
            answer = await self._by_canary(canary, request, call, caller, compute)
        else:
            answer = await self._counted(canary, request, call, caller, compute, new=False)
        self._copy(name, request, call, answer)
        return answer

    def _loaded(self, name: str, version: str) -> bool:
        try:
            self._registry.resolve(ModelSelector(name, version))
        except ServiceError:
            return False
        return True

    async def _by_canary(
        self, canary: Rollout, request: ClassifyRequest, call: CallContext, caller: Caller, compute: Compute
    ) -> Classification:
        asked = replace(request, model=ModelSelector(canary.name, canary.terms.version))
        try:
            return await self._counted(canary, asked, call, caller, compute, new=True)
        except (InvalidRequestError, FailedPreconditionError):
            answer = await compute(request)
            canary.answered(0.0, new=True, ok=False)  # the usual version does not refuse it
            self._rollouts.judge(canary)
            return answer
        except ModelNotFoundError:  # it has just been unloaded
            return await compute(request)
        except OverloadedError as error:
            if error.reason is not Reason.MEMORY_FULL:
                raise
            return await compute(request)  # it sleeps, and others need the memory

    async def _counted(
        self,
        canary: Rollout,
        request: ClassifyRequest,
        call: CallContext,
        caller: Caller,
        compute: Compute,
        *,
        new: bool,
    ) -> Classification:
        try:
            answer = await compute(request)
        except BaseException as error:
            if _failure(error, caller):
                canary.answered(0.0, new=new, ok=False)
                self._rollouts.judge(canary)
            raise
        canary.answered(time.monotonic() - call.begun, new=new)
        if new:
            self._rollouts.judge(canary)
        return answer

    def _copy(self, name: str, request: ClassifyRequest, call: CallContext, answer: Classification) -> None:
        """Have the other version of the canary, or the shadow, classify the images, too."""
        usual = self._registry.usual(name)
        if usual is None:
            return
        version = answer.model.version
        canary, shadow = (self._rollouts.of(name, kind) for kind in (Kind.CANARY, Kind.SHADOW))
        if canary is not None and canary.running and version == canary.terms.version != usual.identity.version:
            if canary.terms.min_agreement is not None:
                self._offer(canary, usual.identity.version, request, call, answer)
        elif (
            shadow is not None
            and version == usual.identity.version != shadow.terms.version
            and self._sample() < shadow.terms.share
        ):
            self._offer(shadow, shadow.terms.version, request, call, answer)

    def _offer(
        self, rollout: Rollout, version: str, request: ClassifyRequest, call: CallContext, answer: Classification
    ) -> None:
        now = self._copies.clock()
        try:
            model = self._registry.resolve(ModelSelector(answer.model.name, answer.model.version))
        except ServiceError:
            return  # it has just been unloaded
        classes = request.classes or model.choice or self._classes
        for number, (image, result) in enumerate(zip(request.images, answer.results, strict=True)):
            if result.error is not None:
                continue
            found, told = _first(result, answer), verdicts.of_answer(request, result, answer, model)
            if (found is not None or told is not None) and self._copies.has_room(rollout, image):
                first, probability = found or (None, 0.0)
                timing, kept = result.timing, apart(image)
                seconds = timing.decode + timing.pre_stem + timing.compute
                copy = Copy(rollout, version, kept, request.geometry, classes, first, probability, seconds, now, told)
                if self._labelling is not None:
                    copy = replace(copy, disagreed=self._labelling.disagreed(kept, call, answer, number))
                self._copies.add(copy)


def _first(result: ImageResult, answer: Classification) -> tuple[ClassLabel, float] | None:
    """The most probable class of an answer, and its probability; None: the answer does not say it.

    A group does not: its name is that of no class, and its probability that of several.
    """
    if result.predictions:
        first = result.predictions[0]
        if first.is_group:
            return None
        return ClassLabel(first.label, first.class_id), first.probability
    probabilities = result.outputs.get(PROBABILITIES)
    if probabilities is None:
        return None
    index = int(probabilities.argmax())
    return answer.labels[index], float(probabilities[index])


def _failure(error: BaseException, caller: Caller) -> bool:
    """Whether a request that has ended so counts as an error of the version that was to answer it."""
    if isinstance(error, asyncio.CancelledError):  # the caller has left, or the time is over
        return caller.deadline is not None and caller.deadline <= time.monotonic()
    if isinstance(error, ServiceError):
        return error.code in {Code.INTERNAL, Code.DEADLINE_EXCEEDED} or error.reason is Reason.RUNTIME_STUCK
    return isinstance(error, Exception)
