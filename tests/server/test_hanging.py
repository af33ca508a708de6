"""Batches that hang in models that nobody has: asleep, or not loaded yet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models.outputs import Outputs
from glimpse.server.batching.batcher import Batcher
from glimpse.server.batching.device import SharedDevice
from glimpse.server.batching.sleep_queue import SleepQueue
from glimpse.server.batching.waiting import Answer
from glimpse.server.errors import (
    Reason,
    UnavailableError,
)
from glimpse.server.repository.hanging import Hanging
from tests.server.fake_executor import Observed

LONG = 60.0  # seconds; until something is called hung


def run(do: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(do(), LONG))


async def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


class Hung:
    """A model on a shared device whose batch hangs until it is told to go on, by a clock of the test's."""

    def __init__(self) -> None:
        self.device, self.now, self.go_on, self.begun = SharedDevice(1), 0.0, threading.Event(), threading.Event()
        self.device.clock = lambda: self.now
        self.batcher = Batcher(
            self._compute,
            input_shape=(1, 1, 3),
            batch_sizes=(1,),
            capacity=1,
            observer=Observed(),
            stuck_seconds=60.0,
            share=self.device.share(),
            clock=lambda: self.now,
        )
        self.batcher.start()

    def _compute(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        self.begun.set()
        assert self.go_on.wait(LONG)
        return dict.fromkeys(outputs, np.zeros((len(pixels), 10), np.float32))

    def ask(self) -> Future[Answer]:
        answer = self.batcher.submit(np.zeros((1, 1, 3), np.uint8))
        assert self.begun.wait(LONG)
        return answer


def test_a_batch_that_hangs_in_a_model_that_sleeps_gives_the_device_up() -> None:
    """Else no other model would be computed any more, and nobody would notice."""
    hung = Hung()

    async def do() -> None:
        hanging = Hanging(0.005)
        queue = SleepQueue(hung.batcher, lambda _: pytest.fail("nobody wakes it"))
        answer = hung.ask()
        assert not queue.sleep(0.0)
        abandoned = queue.abandon()
        assert abandoned is not None
        hanging.abandon(abandoned)
        hung.now = 50.0
        await asyncio.sleep(0.02)
        assert hung.device._free == 0
        hung.now = 61.0
        await until(lambda: hung.device._free == 1)
        with pytest.raises(UnavailableError):
            answer.result(LONG)
        assert hanging._abandoned
        hung.go_on.set()
        await until(lambda: not hanging._abandoned)
        assert hung.batcher.close(0.0)
        assert hanging._looking is not None
        await hanging._looking  # nothing is left to look at

    run(do)


def test_a_first_image_that_hangs_gives_the_device_up() -> None:
    """A model computes it while it is loaded, before anybody has it who would ask."""
    hung = Hung()

    def first(hanging: Hanging) -> None:
        with hanging.watched(hung.batcher):
            hung.ask().result(LONG)

    async def do() -> None:
        hanging = Hanging(0.005)
        asked = asyncio.create_task(asyncio.to_thread(first, hanging))
        assert await asyncio.to_thread(hung.begun.wait, LONG)
        assert hung.device._free == 0
        hung.now = 61.0
        with pytest.raises(UnavailableError):
            await asked
        assert hung.device._free == 1
        await until(lambda: not hanging._watched)
        hung.go_on.set()
        assert await asyncio.to_thread(hung.batcher.close, LONG)

    run(do)


class Hangs:
    """A queue whose last batch never ends."""

    def trouble(self) -> str:
        return "A batch hangs."

    def close(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        return False


def test_a_queue_that_sleeps_takes_nothing_and_one_that_hangs_is_given_up() -> None:
    hangs = Hangs()
    queue = SleepQueue(hangs, lambda _: pytest.fail("nobody wakes it"))  # type: ignore[arg-type]
    assert not queue.sleep(0.0)
    assert queue.abandon() is hangs  # type: ignore[comparison-overlap]
    assert queue.sleep(0.0)
    assert (queue.depth(), queue.seconds_to_compute(1), queue.trouble()) == (0, 0.0, None)
    with pytest.raises(UnavailableError, match="being loaded again"):
        queue.submit(np.zeros((1, 1, 3), np.uint8))
    assert queue.close()
    with pytest.raises(UnavailableError) as refused:
        queue.submit(np.zeros((1, 1, 3), np.uint8))
    assert refused.value.reason is Reason.DRAINING
