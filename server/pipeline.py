"""The way of a request, from pixels in any form to labels, on one screen.

resolve the model -> check the options -> take permits
-> for each image: decode -> pre-stem -> queue -> compute -> top-k
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.prestem.recipe import Recipe
from server import domain
from server.admission import Admission, Load
from server.decoding.prepare import Prepared
from server.domain import Caller, Classification, ClassifyRequest, ImageResult, Timing
from server.errors import DeadlineExceededError, InvalidImageError, InvalidRequestError, Reason, ServiceError, shown
from server.metrics import Metrics
from server.registry import LoadedModel, ModelRegistry
from server.topk import DEFAULT_TOP_K, top_k

# Decode and pre-stem of one image; runs beside the event loop.
Prepare = Callable[[domain.Image, Recipe], Prepared]


@dataclass(frozen=True, slots=True)
class _Work:
    """What a request wants done with each of its images."""

    model: LoadedModel
    recipe: Recipe
    top_k: int
    min_probability: float


class Pipeline:
    """Classifies requests; everything it needs is given to it."""

    def __init__(
        self,
        registry: ModelRegistry,
        admission: Admission,
        decoders: Executor,
        prepare: Prepare,
        metrics: Metrics,
        *,
        max_images: int,
        geometries: frozenset[str],
    ) -> None:
        """Put the stages together; `decoders` runs `prepare` beside the event loop.

        A request may hold `max_images` and ask for one of `geometries`.
        """
        self._registry = registry
        self._admission = admission
        self._decoders = decoders
        self._prepare = prepare
        self._metrics = metrics
        self._max_images = max_images
        self._geometries = geometries

    async def classify(self, request: ClassifyRequest, caller: Caller, *, bulk: bool = False) -> Classification:
        """Answer one request. An image that cannot be classified becomes an error in its own result.

        Args:
            request: what to classify.
            caller: who asks, and until when.
            bulk: wait for room instead of being refused; for streams.

        Raises:
            ServiceError: expected; the request as a whole gets an error.
        """
        model = self._registry.resolve(request.model)
        work = self._check(request, model)
        load = Load(len(request.images), sum(len(image.data) for image in request.images))
        async with self._admission.admit(load, wait=bulk):
            images = [self._image(image, work, caller) for image in request.images]
            results = [await images[0]] if len(images) == 1 else await _all(images)
        return Classification(model.identity, tuple(results))

    async def room(self) -> None:
        """Wait until reading another piece of a stream is worth its memory."""
        await self._admission.room()

    async def _image(self, image: domain.Image, work: _Work, caller: Caller) -> ImageResult:
        timing = Timing()
        try:
            pixels = await self._decoded(image, work.recipe, caller, timing)
            queued = work.model.batcher.submit(pixels, lane=caller.lane, deadline=caller.deadline)
            answer = await asyncio.wrap_future(queued)
        except InvalidImageError as error:
            self._metrics.image_refused(error.reason)
            return ImageResult(timing, error=error)
        except DeadlineExceededError:
            self._metrics.image("expired")
            raise
        except asyncio.CancelledError:
            # gRPC cancels for both: the caller who left, and the deadline that passed.
            late = caller.deadline is not None and caller.deadline <= time.monotonic()
            self._metrics.image("expired" if late else "cancelled")
            raise
        except BaseException:
            self._metrics.image("failed")
            raise
        timing.queue, timing.compute = answer.queue_seconds, answer.compute_seconds
        timing.batch_size = answer.batch_size
        predictions = top_k(
            answer.probabilities, work.model.bundle.labels, k=work.top_k, min_probability=work.min_probability
        )
        self._metrics.image("classified")
        return ImageResult(timing, predictions)

    async def _decoded(self, image: domain.Image, recipe: Recipe, caller: Caller, timing: Timing) -> NDArray[np.uint8]:
        work = self._decoders.submit(self._pixels, image, recipe, caller, timing)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if not work.done():
                self._admission.keep_until_done(work, len(image.data))
            raise

    def _pixels(self, image: domain.Image, recipe: Recipe, caller: Caller, timing: Timing) -> NDArray[np.uint8]:
        """Decode and pre-stem, in a decoder thread: uint8 ``[H, W, 3]``, the network's input."""
        begun = time.monotonic()
        if caller.deadline is not None and caller.deadline <= begun:
            raise DeadlineExceededError("The deadline passed before the image was decoded. Allow more time.")
        try:
            prepared = self._prepare(image, recipe)
        except InvalidImageError:
            timing.decode = time.monotonic() - begun
            self._metrics.stage_seconds("decode", timing.decode)
            raise
        timing.decode, timing.pre_stem = prepared.decode_seconds, prepared.pre_stem_seconds
        self._metrics.stage_seconds("decode", timing.decode)
        self._metrics.stage_seconds("pre_stem", timing.pre_stem)
        return prepared.pixels

    def _check(self, request: ClassifyRequest, model: LoadedModel) -> _Work:
        """What the request asks for, if it may.

        Raises:
            InvalidRequestError: expected; an option or the number of images is out of range.
        """
        if not request.images:
            raise InvalidRequestError(
                Reason.NO_IMAGES, "The request holds no image. Send at least one.", field="images"
            )
        if len(request.images) > self._max_images:
            raise InvalidRequestError(
                Reason.TOO_MANY_IMAGES,
                f"A request may hold {self._max_images} images. Received: {len(request.images)}. "
                "Send several requests.",
                field="images",
            )
        classes = len(model.bundle.labels)
        k = min(DEFAULT_TOP_K, classes) if request.top_k is None else request.top_k
        if not 1 <= k <= classes:
            raise InvalidRequestError(
                Reason.TOP_K_OUT_OF_RANGE,
                f"top_k must be in 1..{classes}, the number of classes. Received: {k}",
                field="options.top_k",
            )
        if not 0 <= request.min_probability <= 1:
            raise InvalidRequestError(
                Reason.MIN_PROBABILITY_OUT_OF_RANGE,
                f"min_probability must be in 0..1. Received: {request.min_probability}",
                field="options.min_probability",
            )
        return _Work(model, self._recipe(request, model), k, request.min_probability)

    def _recipe(self, request: ClassifyRequest, model: LoadedModel) -> Recipe:
        """The pre-stem of this request.

        Raises:
            InvalidRequestError: expected; its geometry is none that the server allows.
        """
        if not request.geometry:
            return model.bundle.recipe
        if request.geometry not in self._geometries:
            allowed = ", ".join(sorted(self._geometries)) or "none: the server allows only the model's own"
            raise InvalidRequestError(
                Reason.GEOMETRY_NOT_ALLOWED,
                f"A request may ask for these geometries: {allowed}. Received: {shown(request.geometry)}",
                field="options.geometry",
            )
        return model.bundle.recipe.with_geometry(request.geometry)


async def _all(images: Sequence[Coroutine[None, None, ImageResult]]) -> list[ImageResult]:
    """Run the images side by side; the first `ServiceError` ends the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(image) for image in images]
    except* ServiceError as errors:
        raise next(_leaves(errors)) from None
    return [task.result() for task in tasks]


def _leaves(group: BaseExceptionGroup[ServiceError]) -> Iterator[ServiceError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
