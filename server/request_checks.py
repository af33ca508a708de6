"""What a request asks for: whether it may, and whether there is time for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glimpse.models.bundle import Bundle
from glimpse.models.decoding.cost import Cost
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.answers import explanations
from glimpse.server.answers.class_choice import Chosen
from glimpse.server.answers.drift import ModelDrift
from glimpse.server.answers.explanations import Explaining
from glimpse.server.answers.novelty import threshold
from glimpse.server.answers.postprocessing import DEFAULT_TOP_K
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.domain import Caller, ClassChoice, ClassifyRequest
from glimpse.server.errors import DeadlineExceededError, InvalidRequestError, Reason, shown
from glimpse.server.fair_queue import Ahead
from glimpse.server.fields import Field
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.metrics.metrics import Metrics, ModelMetrics
from glimpse.server.nouns import noun
from glimpse.server.registry import ModelRegistry

_NAMED = 5  # outputs that a message repeats
_OF_A_CHOICE = frozenset({PROBABILITIES, LOGITS})  # of which the probabilities among some classes are made


@dataclass(slots=True)  # not frozen, which takes several times as long to make
class Job:
    """What a request wants done with each of its images."""

    model: LoadedModel
    recipe: Recipe
    top_k: int
    passed_only: bool  # of a multi-label model, labels that are at least their threshold alone
    min_probability: float
    outputs: frozenset[str]  # that are computed
    wanted: frozenset[str]  # those of them that are returned
    ranked: bool
    chosen: Chosen | None  # the classes that may answer; None: all
    roll_up: float
    caller: Caller
    metrics: ModelMetrics
    novelty: NoveltyThreshold | None  # None: not asked for
    drift: ModelDrift | None  # None: nothing is counted
    require_known: bool
    explaining: Explaining | None  # None: not asked for


class RequestChecks:
    """Makes jobs of requests, and refuses those that may not be."""

    def __init__(
        self,
        registry: ModelRegistry,
        decoders: DecodePool,
        metrics: Metrics,
        *,
        max_images: int,
        geometries: frozenset[str],
        classes: ClassChoice | None = None,
        novelty: bool = False,
        looked_at: Callable[[Bundle], frozenset[str]] | None = None,
    ) -> None:
        """Check by the models of `registry` and by what waits for `decoders`.

        A request may hold `max_images` and ask for one of `geometries`. One that does not choose which classes may
        answer gets `classes`; None: all. `novelty`: tell of each image whether it shows any of the classes, unless a
        request says otherwise. `looked_at`: the outputs of a model that the server itself looks at, which come with
        each answer; None: none.
        """
        self._registry = registry
        self._decoders = decoders
        self._metrics = metrics
        self.max_images = max_images
        self._geometries = geometries
        self._classes, self._novelty, self._looked_at = classes, novelty, looked_at

    @property
    def looks_at_answers(self) -> bool:
        """Whether the server itself looks at what networks give."""
        return self._looked_at is not None

    def model(self, request: ClassifyRequest) -> LoadedModel:
        """The model that a request means.

        Raises:
            ModelNotFoundError, FailedPreconditionError, UnavailableError: expected; see `ModelRegistry.resolve`.
        """
        return self._registry.resolve(request.model)

    def check_number(self, images: int) -> None:
        """To be asked before anything is made of each image of a request.

        Raises:
            InvalidRequestError: expected; TOO_MANY_IMAGES.
        """
        if images > self.max_images:
            raise InvalidRequestError(
                Reason.TOO_MANY_IMAGES,
                f"A request may have at most {self.max_images} {noun(self.max_images, 'image')}. Received: {images}. "
                "Send several requests.",
                field=Field.IMAGES,
            )

    def job(self, request: ClassifyRequest, caller: Caller) -> Job:
        """What the request asks for, if it may.

        Raises:
            ModelNotFoundError, UnavailableError: expected; there is no such model, or none yet.
            InvalidRequestError: expected; an option or the number of images is out of range, or the model lacks an
                output: whoever lets callers name them has looked, but another version may answer by now.
            ValueError: you should fix your code; no output is asked for.
        """
        model = self.model(request)
        if not request.images:
            raise InvalidRequestError(
                Reason.NO_IMAGES, "The request has no image. Send at least one.", field=Field.IMAGES
            )
        self.check_number(len(request.images))
        k = _top_k(request, model)
        self._check_outputs(request, model)
        choice = request.classes or model.choice or self._classes
        chosen = None if choice is None else model.classes.chosen(choice)
        outputs = request.outputs if chosen is None else request.outputs | _OF_A_CHOICE
        metrics = self._metrics.of(model.identity.name, model.identity.version)
        recipe = self.recipe(request, model)
        novelty = threshold(request, model.bundle, default=self._novelty)
        if novelty is not None:
            outputs |= novelty.needs
        drift = self._metrics.drift.of(model.bundle)
        if drift is not None:
            outputs |= drift.needs
        if self._looked_at is not None:
            outputs |= self._looked_at(model.bundle)
        explaining = explanations.explaining(request, model, recipe, chosen, max_images=self.max_images)
        if explaining is not None:
            outputs |= explaining.needs
        return Job(
            model=model,
            recipe=recipe,
            top_k=k,
            passed_only=request.top_k is None and model.classes.thresholds is not None,
            min_probability=request.min_probability,
            outputs=outputs,
            wanted=request.outputs,
            ranked=request.ranked,
            chosen=chosen,
            roll_up=request.roll_up,
            caller=caller,
            metrics=metrics,
            novelty=novelty,
            drift=drift,
            require_known=request.require_known,
            explaining=explaining,
        )

    def _check_outputs(self, request: ClassifyRequest, model: LoadedModel) -> None:
        """Look whether the model has the outputs that are asked for.

        Raises:
            InvalidRequestError: expected; it lacks one.
            ValueError: you should fix your code; no output is asked for.
        """
        if request.outputs and request.outputs <= model.outputs:
            return
        received = ", ".join(map(shown, sorted(request.outputs - model.outputs)[:_NAMED])) or "none"
        told = f"outputs must be some of {', '.join(sorted(model.outputs))}. Received: {received}"
        if not request.outputs:
            raise ValueError(told)
        if request.ranked:
            raise InvalidRequestError(Reason.UNKNOWN_OUTPUT, told, field=Field.OUTPUTS)
        raise InvalidRequestError(Reason.INVALID_TENSOR, told, field=Field.OUTPUTS)

    def recipe(self, request: ClassifyRequest, model: LoadedModel) -> Recipe:
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
                field=Field.GEOMETRY,
            )
        return model.bundle.recipe.with_geometry(request.geometry)

    def check_in_time(self, costs: Sequence[Cost], job: Job, images: int) -> None:
        """Refuse what cannot be answered in time, before it takes anything that others could use.

        The estimate is a hopeful one: stages overlap, and nobody else comes. Where nothing waits there is none, for
        trying costs nobody anything.

        Args:
            costs: of decoding each image of the request.
            job: what it asks for.
            images: that the network is computed for, those counted that explain its answers.

        Raises:
            DeadlineExceededError: expected; the deadline will have passed.
        """
        deadline, lane, batcher = job.caller.deadline, job.caller.lane, job.model.batcher
        if deadline is None:
            return
        expensive = sum([cost.work for cost in costs if cost.expensive])
        ordinary = sum([cost.work for cost in costs if not cost.expensive])
        left = deadline - time.monotonic()
        if not expensive:  # nearly always, even all that waits leaves time enough; whose turn comes before takes longer
            waiting, depth = self._decoders.waiting(), batcher.depth()
            if not (waiting.items + depth) or left >= max(
                self._decoders.expected(waiting.work + ordinary),
                batcher.seconds_to_compute(waiting.items + depth + images),
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
            batcher.seconds_to_compute(before - before_expensive.items + images),
        )
        if expected > left:
            raise DeadlineExceededError(
                f"The request cannot be answered by its deadline: {before} {noun(before, 'image is', 'images are')} "
                f"ahead of it, and the answer is expected in {expected:.3f} s, but the deadline is in "
                f"{max(0.0, left):.3f} s. Allow more time, or send less at once."
            )


def _top_k(request: ClassifyRequest, model: LoadedModel) -> int:
    """How many predictions an image gets at the most, where all numbers among the options are in range.

    Raises:
        InvalidRequestError: expected; one is out of range.
    """
    classes, thresholds = len(model.bundle.labels), model.classes.thresholds
    k = request.top_k
    if k is None:  # of a multi-label model, all that are at least their threshold
        k = min(DEFAULT_TOP_K, classes) if thresholds is None else classes
    if not 1 <= k <= classes:
        raise InvalidRequestError(
            Reason.TOP_K_OUT_OF_RANGE,
            f"top_k must be from 1 to {classes}, the number of classes. Received: {k}",
            field=Field.TOP_K,
        )
    if not 0 <= request.min_probability <= 1:
        raise InvalidRequestError(
            Reason.MIN_PROBABILITY_OUT_OF_RANGE,
            f"min_probability must be from 0 to 1. Received: {request.min_probability}",
            field=Field.MIN_PROBABILITY,
        )
    if not 0 <= request.roll_up <= 1:
        raise InvalidRequestError(
            Reason.ROLL_UP_OUT_OF_RANGE,
            f"roll_up must be from 0 to 1. Received: {request.roll_up}",
            field=Field.ROLL_UP,
        )
    if request.roll_up and thresholds is not None:
        raise InvalidRequestError(
            Reason.ROLL_UP_OUT_OF_RANGE,
            f"roll_up must be 0 for {model.bundle.name}, a multi-label model: its probabilities are each for "
            f"itself, and a group has none. Received: {request.roll_up}",
            field=Field.ROLL_UP,
        )
    return k
