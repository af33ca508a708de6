"""Copies of images, which another version of the model classifies beside the real requests, one after the other.

A copy is an image as it came: the other version decodes and fits it by its own recipe. Copies wait in a short line
until the server has next to nothing to do, and are dropped where that takes too long or the line is full. So a real
request waits for one image of a copy at most, and no copy takes permits of admission or counts as an image of a caller.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from glimpse.models.labels import ClassLabel
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.batching.batch_queue import Answer
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.decoding.where import Decoding
from glimpse.server.domain import ClassChoice, Image, ModelSelector
from glimpse.server.errors import Reason, ServiceError
from glimpse.server.fair_queue import PRIORITIES, Lane
from glimpse.server.labelling.sampler import Disagreed
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.registry import ModelRegistry
from glimpse.server.repository.rollout import Rollout, Rollouts
from glimpse.server.repository.verdicts import Verdicts, name, of_model

_LANE = Lane("copies of requests", priority=PRIORITIES)
_MOST, _MOST_BYTES = 64, 32 << 20  # images that wait, and their bytes
_BUSY_SECONDS = 0.05  # real work that waits and takes longer makes copies wait
_PAUSE_SECONDS = 0.005  # until the next look whether the server is busy
_PATIENCE = 5.0  # seconds that a copy may wait
_LONGEST = 60.0  # seconds that one may take to be classified; something hangs that others watch
# What is computed where all classes may answer, and where some may.
_ALL, _CHOSEN = frozenset({PROBABILITIES}), frozenset({PROBABILITIES, LOGITS})
_NO_PLACE = {Reason.DRAINING, Reason.NOT_READY, Reason.MODEL_NOT_FOUND, Reason.QUEUE_FULL, Reason.MEMORY_FULL}


@dataclass(frozen=True, slots=True)
class Copy:
    """One image of a request that has been answered."""

    rollout: Rollout
    version: str  # that is to classify it
    image: Image
    geometry: str  # that the request has chosen; "": the version's own
    classes: ClassChoice | None  # that could answer the request, and may answer the copy; None: all
    first: ClassLabel | None  # of the answer; None: a multi-label model has told none
    probability: float  # of that class
    seconds: float  # that the answer took, without waiting
    since: float  # when the request was answered, on the clock of the copies
    verdicts: Verdicts | None = None  # on its labels, where the model that answered is multi-label
    disagreed: Disagreed | None = None  # called if the version names another class; None: nobody has to know


class Copies:
    """Classifies copies and compares the answers. Lives on the event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        rollouts: Rollouts,
        decoders: DecodePool,
        decoding: Decoding,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the models from `registry`; `decoders` run `decoding` for real requests, too."""
        self._registry, self._rollouts = registry, rollouts
        self._decoders, self._decoding = decoders, decoding
        self.clock = clock
        self._waiting: deque[Copy] = deque()
        self._bytes = 0
        self._there = asyncio.Event()

    def has_room(self, rollout: Rollout, image: Image) -> bool:
        """Whether a copy of an image may wait; where too many do, the rollout is told that it was dropped.

        To be asked before the copy is made: one of raw pixels takes milliseconds.
        """
        if len(self._waiting) < _MOST and self._bytes + len(image.data) <= _MOST_BYTES:
            return True
        rollout.drop()
        return False

    def add(self, copy: Copy) -> None:
        """Have a copy, for which `has_room`, classified when there is time; returns at once."""
        self._bytes += len(copy.image.data)
        self._waiting.append(copy)
        self._there.set()

    async def run(self) -> None:
        """Classify what is offered, for as long as the server lives."""
        while True:
            await self._there.wait()
            while self._waiting:
                copy = self._waiting.popleft()
                try:
                    if await self._time_for(copy):
                        await self._classify(copy)
                    else:
                        copy.rollout.drop()
                finally:
                    self._bytes -= len(copy.image.data)
            self._there.clear()

    async def _time_for(self, copy: Copy) -> bool:
        """Wait until the server is not busy; False where that takes too long, or nobody wants the copy any more."""
        while True:
            if not copy.rollout.running or self.clock() - copy.since > _PATIENCE:
                return False
            if not self._busy():
                return True
            await asyncio.sleep(_PAUSE_SECONDS)

    def _busy(self) -> bool:
        if self._decoders.expected(self._decoders.waiting().work) > _BUSY_SECONDS:
            return True
        queues = (model.batcher for model in self._registry)
        return any((depth := each.depth()) and each.seconds_to_compute(depth) > _BUSY_SECONDS for each in queues)

    async def _classify(self, copy: Copy) -> None:
        rollout = copy.rollout
        try:
            model = self._registry.resolve(ModelSelector(rollout.name, copy.version))
            with model.uses:
                if model.sleep is not None:
                    await model.sleep.wake(time.monotonic() + _LONGEST)
                chosen = None if copy.classes is None else model.classes.chosen(copy.classes)
                answer, prepared = await asyncio.wait_for(self._answer(copy, model), _LONGEST)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the other version's
            if isinstance(error, ServiceError) and error.reason in _NO_PLACE:
                rollout.drop()
            else:
                self._count(copy, 0.0, ok=False)
            return
        probabilities = answer.outputs[PROBABILITIES]
        if chosen is not None:
            probabilities, _ = chosen.probabilities(answer.outputs)
        labels = model.bundle.labels
        wanted = None if copy.first is None else name(copy.first)
        same = next((index for index, label in enumerate(labels) if name(label) == wanted), None)
        probability = 0.0 if same is None else float(probabilities[same])
        self._count(copy, prepared + answer.compute_seconds, ok=True)
        first = int(np.argmax(probabilities))
        agrees = same == first if copy.verdicts is None else copy.verdicts.agrees(of_model(model, probabilities))
        rollout.compare(abs(copy.probability - probability), agrees=agrees)
        if copy.disagreed is not None and not agrees:
            copy.disagreed(copy.version, labels[first], float(probabilities[first]))
        self._rollouts.judge(rollout)

    def _count(self, copy: Copy, seconds: float, *, ok: bool) -> None:
        """Of a shadow, what both versions took; of a canary, its requests are counted."""
        if copy.version == copy.rollout.terms.version:
            copy.rollout.answered(copy.seconds, new=False)
            copy.rollout.answered(seconds, new=True, ok=ok)

    async def _answer(self, copy: Copy, model: LoadedModel) -> tuple[Answer, float]:
        """What the version answers, and how long it took to prepare the image, in seconds."""
        recipe = model.bundle.recipe
        if copy.geometry:
            recipe = recipe.with_geometry(copy.geometry)
        cost = self._decoding.cost(copy.image, recipe)
        answer: Future[Answer] = Future()
        took = [0.0]

        def prepare() -> None:
            try:
                took[0] = self._prepare(copy, recipe, model, answer, expensive=cost.expensive)
            except BaseException as error:  # noqa: BLE001 - it is told where the answer is waited for
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(error)

        preparing = self._decoders.submit(_LANE, prepare, cost.work, expensive=cost.expensive)
        try:
            return await asyncio.wrap_future(answer), took[0]
        finally:
            preparing.cancel()

    def _prepare(
        self, copy: Copy, recipe: Recipe, model: LoadedModel, answer: Future[Answer], *, expensive: bool
    ) -> float:
        """Decode, fit and queue an image; in a decoder thread. Returns seconds."""
        begun = time.monotonic()
        prepared = self._decoding(copy.image, recipe, expensive=expensive)
        seconds = time.monotonic() - begun
        outputs = _ALL if copy.classes is None else _CHOSEN
        model.batcher.submit(prepared.pixels, lane=_LANE, future=answer, outputs=outputs)
        return seconds
