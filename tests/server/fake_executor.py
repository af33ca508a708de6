"""A batcher with a fake model and a fake clock around it; its threads are real."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS, PROBABILITIES, Outputs
from glimpse.server.batching.batch_queue import Answer, Slot
from glimpse.server.batching.batcher import Batcher
from glimpse.server.domain import BatchReport
from glimpse.server.fair_queue import NO_LANE, Lane

SHAPE = (1, 1, 3)
SECOND = 1000
WAIT = 30.0  # seconds until a test is called hung; never the measure of a result


class FakeModel:
    """Answers each image with its first pixel's value, when it is let to; every other output with `SECOND` more."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.answers: int | None = None  # fewer than it was asked for
        self.asked: list[frozenset[str]] = []  # outputs, a batch each
        self.begun: queue.Queue[NDArray[np.uint8]] = queue.Queue()
        self.go: queue.Queue[float | BaseException] = queue.Queue()  # seconds that the batch takes, or its failure

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        self.asked.append(outputs)
        self.begun.put(pixels.copy())
        outcome = self.go.get(timeout=WAIT)
        if isinstance(outcome, BaseException):
            raise outcome
        self.clock.now += outcome
        values = pixels[: self.answers, 0, 0, :1].astype(np.float32)
        return {name: values + SECOND * (name != PROBABILITIES) for name in outputs}

    def values(self) -> list[int]:
        """Wait for the next batch to begin; its images' values, padding included."""
        return [int(value) for value in self.begun.get(timeout=WAIT)[:, 0, 0, 0]]


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Observed:
    """What the batcher reported."""

    def __init__(self) -> None:
        self.batches: list[BatchReport] = []
        self.expired_images = 0
        self.cancelled_images = 0
        self.halvings = 0

    def batch(self, report: BatchReport) -> None:
        self.batches.append(report)

    def expired(self, count: int) -> None:
        self.expired_images += count

    def cancelled(self, count: int) -> None:
        self.cancelled_images += count

    def halved(self) -> None:
        self.halvings += 1


class Bench:
    """A batcher with everything around it fake."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.model = FakeModel(self.clock)
        self.observed = Observed()
        self.batcher = Batcher(
            self.model,
            **{
                "input_shape": SHAPE,
                "batch_sizes": (1, 2, 4),
                "capacity": 16,
                "observer": self.observed,
                "clock": self.clock,
                **options,
            },
        )
        self.batcher.start()

    def submit(
        self,
        value: int,
        *,
        lane: Lane = NO_LANE,
        deadline: float | None = None,
        outputs: frozenset[str] = DEFAULT_OUTPUTS,
    ) -> Future[Answer]:
        return self.batcher.submit(np.full(SHAPE, value, np.uint8), lane=lane, deadline=deadline, outputs=outputs)

    def burst(self, values: Sequence[int]) -> list[Future[Answer]]:
        """Queue images as if they came in one instant."""
        slots = [Slot(np.full(SHAPE, value, np.uint8), NO_LANE, None, 0.0, Future()) for value in values]
        with self.batcher._changed:
            for slot in slots:
                self.batcher._queue.put(slot)
            self.batcher._changed.notify_all()
        return [slot.future for slot in slots]

    def occupy(self) -> Future[Answer]:
        """Keep the device busy with one image of value 255 until `release`."""
        future = self.submit(255)
        assert self.model.values() == [255]
        return future

    def release(self, outcome: float | BaseException = 0.0) -> None:
        self.model.go.put(outcome)


def value(future: Future[Answer]) -> float:
    return float(future.result(WAIT).outputs[PROBABILITIES][0])


@contextmanager
def benches() -> Iterator[Callable[..., Bench]]:
    """Make benches; at the end everything that hangs is let go."""
    made: list[Bench] = []

    def build(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield build
    for bench in made:
        for _ in range(50):
            bench.release()
        assert bench.batcher.close(WAIT), "a worker hangs"
