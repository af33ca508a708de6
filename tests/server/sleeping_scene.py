"""A repository on a simulated device whose models may sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from glimpse.models.outputs import PROBABILITIES
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.domain import ModelSelector
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.progress import Progress, untold
from glimpse.server.repository.model_sleep import ModelSleep
from tests.server.repositories import add
from tests.server.repository_scene import Scene

LONG = 60.0  # seconds; until something is called hung
MAY_SLEEP = "required = false\n"


class Sleepy(Scene):
    """A repository whose models take what is expected of them, by a clock of the test's."""

    def __init__(self, root: Path, limit: int) -> None:
        super().__init__(root, models_memory_bytes=limit)
        self.now = 0.0
        sleepers = self.repository.sleepers
        sleepers.clock = lambda: self.now
        sleepers.memory.measure = lambda: None
        sleepers.memory.available = lambda: None

    def model(self, name: str) -> LoadedModel:
        return self.registry.resolve(ModelSelector(name))

    def sleep(self, name: str) -> ModelSleep:
        found = self.model(name).sleep
        assert isinstance(found, ModelSleep)
        return found

    async def ask(self, name: str, deadline: float | None = None) -> str:
        """As a request does: have the model awake, and an image computed."""
        model = self.model(name)
        self.now += 1.0
        with model.uses:
            assert model.sleep is not None
            await model.sleep.wake(deadline)
            pixels = np.zeros(model.bundle.recipe.pixels_shape, np.uint8)
            answer = await asyncio.wrap_future(model.batcher.submit(pixels))
            assert answer.outputs[PROBABILITIES].shape == (10,)
            return model.identity.name

    def counted(self, name: str, before: Callable[[], object] = lambda: None) -> list[int]:
        """Count how often a model is loaded again, from now on; `before` is called in the thread that loads."""
        queue, loads = self.sleep(name).queue, list[int]()
        load = queue.load

        def counting(progress: Progress) -> ModelQueue:
            loads.append(1)
            progress("compute batches of 8 images")
            before()
            return load(untold)

        queue.load = counting
        return loads

    async def asleep(self, name: str) -> None:
        """Put a model to sleep as the need for memory does."""
        async with self.repository.sleepers.changing:
            await self.repository.sleepers._put_to_sleep(self.sleep(name))


@asynccontextmanager
async def sleepy(root: Path, fit: float = 0.0) -> AsyncIterator[Sleepy]:
    """`fit`: so many models fit into the memory; 0: all do."""
    made = Sleepy(root, 0)
    size = 10_000_000

    def expected(*_: object, **__: object) -> int:
        return size

    made.repository.sleepers.memory.limit = int(fit * size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glimpse.server.runtime.memory_budget.expected", expected)
        assert await asyncio.wait_for(made.repository.start(made.stop), LONG)
        try:
            yield made
        finally:
            made.stop.set()
            for model in made.registry:
                model.close()


def run(do: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(do(), 5 * LONG))


def models(root: Path, **files: str) -> Path:
    """A repository of models with these `model.toml`, in alphabetical order."""
    for name, text in files.items():
        folder = add(root, 1, name)
        (folder.parent / "model.toml").write_text(text)
    return root


async def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)
