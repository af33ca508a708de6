"""What each model has done since the server began: counts and times, of its requests and of its images.

Times come with the answers, wherever they were taken, so that they are known alike where an engine computes. Of several
workers each counts what came to it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from glimpse.server.domain import ModelIdentity, Timing


@dataclass(slots=True)
class Total:
    """How often something happened, and how long it took together."""

    count: float = 0.0
    seconds: float = 0.0

    def add(self, seconds: float, count: float = 1.0) -> None:
        """Count it once more, or so often."""
        self.count += count
        self.seconds += seconds


@dataclass(slots=True)
class ModelCounts:
    """Of one version of a model."""

    answered: Total = field(default_factory=Total)  # requests, from their beginning to their reply
    failed: Total = field(default_factory=Total)  # requests
    queue: Total = field(default_factory=Total)  # images, waiting for the device
    prepare: Total = field(default_factory=Total)  # images, for a decoder, decoded and fitted
    compute: Total = field(default_factory=Total)  # images; each as long as its batch
    reply: Total = field(default_factory=Total)  # images, from their answer to the reply of their request
    batches: dict[int, Total] = field(default_factory=dict)  # by the number of their images
    last: float = 0.0  # seconds since 1970 of the last answer


class ModelStatistics:
    """The counts of all models. Lives on the event loop."""

    def __init__(self) -> None:
        """None yet."""
        self._models: dict[tuple[str, str], ModelCounts] = {}

    def of(self, model: ModelIdentity) -> ModelCounts:
        """The counts of a model; to be asked for those that are loaded."""
        key = model.name, model.version
        found = self._models.get(key)
        if found is None:
            found = self._models[key] = ModelCounts()
        return found

    def forget(self, name: str, version: str) -> None:
        """A version is gone: should there be another one of its number, that begins at 0."""
        self._models.pop((name, version), None)

    def answered(self, model: ModelIdentity, seconds: float, timings: Iterable[Timing]) -> None:
        """A request was answered, after so many seconds, with the times of its images."""
        counts = self.of(model)
        counts.last = time.time()
        counts.answered.add(seconds)
        images, queue, prepare, compute, reply = 0, 0.0, 0.0, 0.0, 0.0
        for timing in timings:
            if not (size := timing.batch_size):  # refused: not computed
                continue
            images += 1
            queue += timing.queue
            prepare += timing.decode_wait + timing.decode + timing.pre_stem
            compute += timing.compute
            reply += timing.reply
            batches = counts.batches.get(size)
            if batches is None:
                batches = counts.batches[size] = Total()
            # An image is that part of its batch: together they are the batch, whichever requests they came with.
            batches.add(timing.compute / size, 1 / size)
        counts.queue.add(queue, images)
        counts.prepare.add(prepare, images)
        counts.compute.add(compute, images)
        counts.reply.add(reply, images)

    def failed(self, model: ModelIdentity, seconds: float) -> None:
        """A request failed, after so many seconds."""
        self.of(model).failed.add(seconds)
