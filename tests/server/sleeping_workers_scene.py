"""An engine whose models may sleep, and two workers, in one process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from glimpse.models.outputs import PROBABILITIES
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.domain import ModelSelector
from glimpse.server.engine.host import Host
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.progress import Progress
from glimpse.server.registry import ModelRegistry
from glimpse.server.repository.model_sleep import ModelSleep
from glimpse.server.repository.remote import RemoteRepository
from glimpse.server.repository.remote_sleep import RemoteSleep
from glimpse.server.repository.rollout import Rollouts
from glimpse.server.repository.served import ServedModels
from glimpse.server.settings import Settings
from tests.server.sleeping_scene import until

LONG = 60.0  # seconds; until something is called hung
SIZE = 10_000_000  # bytes that each model is expected to take


async def nothing(*_: object) -> None:
    pass


class Worker:
    """What a worker has of the models; `engine` is joined at once."""

    def __init__(self, engine: ServedModels, number: int) -> None:
        self.registry = ModelRegistry()
        self.repository = RemoteRepository(
            self.registry,
            slots=16,
            changed=nothing,
            loaded=lambda _: None,
            closed=nothing,
            rejoin=lambda: None,
            rollouts=Rollouts(Metrics().rollouts),
        )
        self._engine, self._number = engine, number
        self.join()

    def join(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._engine.join(self._number, ours)
        self.repository.connect(theirs)

    def model(self, name: str = "a") -> LoadedModel:
        return self.registry.resolve(ModelSelector(name))

    def sleep(self, name: str = "a") -> RemoteSleep:
        found = self.model(name).sleep
        assert isinstance(found, RemoteSleep)
        return found

    async def ask(self, name: str = "a", deadline: float | None = None) -> str:
        """As a request does: have the model awake, and an image computed."""
        model = self.model(name)
        with model.uses:
            await self.sleep(name).wake(deadline)
            pixels = np.zeros(model.bundle.recipe.pixels_shape, np.uint8)
            answer = await asyncio.wrap_future(model.batcher.submit(pixels))
            assert answer.outputs[PROBABILITIES].shape == (10,)
            return f"{model.identity.name}/{model.identity.version}"


class Both:
    """An engine, and two workers."""

    def __init__(self, root: Path) -> None:
        self.metrics = Metrics()
        plain = Settings(runtime="simulated", log_level="error")  # type: ignore[call-arg]
        chosen = Settings.model_construct(**{**dict(plain), "models": root, "models_poll": 0.0})
        self.engine = ServedModels(root, chosen, self.metrics, lambda _: None)
        self.sleepers = self.engine.repository.sleepers
        self.sleepers.memory.measure = lambda: None
        self.sleepers.memory.available = lambda: None
        self.workers = [Worker(self.engine, number) for number in (1, 2)]

    def allow(self, fit: int) -> None:
        """Let so many models be awake at once."""
        self.sleepers.memory.limit = fit * SIZE

    def states(self) -> list[dict[str, str]]:
        """As the engine and each worker list them."""
        registries = [self.engine._registry, *(each.registry for each in self.workers)]
        return [{f"{each.name}/{each.version}": each.state.value for each in every.models()} for every in registries]

    async def all_say(self, state: str, version: str = "a/1") -> None:
        await until(lambda: all(each.get(version) == state for each in self.states()))

    def sleep(self, name: str = "a") -> ModelSleep:
        found = self.engine._registry.resolve(ModelSelector(name)).sleep
        assert isinstance(found, ModelSleep)
        return found

    def served(self, name: str = "a") -> Host:
        """What serves a model to the workers."""
        return self.engine._served[id(self.engine._registry.resolve(ModelSelector(name)))].host

    def aged(self, seconds: float, name: str = "a") -> None:
        """Have everything that was asked of a model be so much longer ago."""
        self.sleep(name).used -= seconds
        self.served(name)._used -= seconds

    async def put_to_sleep(self, name: str = "a") -> bool:
        async with self.sleepers.changing:
            return await self.sleepers._put_to_sleep(self.sleep(name))

    def counted(self, before: Callable[[], object] = lambda: None, name: str = "a") -> list[int]:
        """Count how often a model is loaded again, from now on; `before` is called in the thread that loads."""
        queue, loads = self.sleep(name).queue, list[int]()
        load = queue.load

        def counting(progress: Progress) -> ModelQueue:
            loads.append(1)
            before()
            return load(progress)

        queue.load = counting
        return loads

    def wake_ups(self, outcome: str, name: str = "a") -> float:
        labels = {"model": name, "outcome": outcome}
        return self.metrics.registry.get_sample_value("glimpse_model_wake_ups_total", labels) or 0.0


@asynccontextmanager
async def both(root: Path, fit: int = 0) -> AsyncIterator[Both]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glimpse.server.runtime.memory_budget.expected", lambda *_, **__: SIZE)
        made = Both(root)
        made.allow(fit)
        running = asyncio.create_task(made.engine.run())
        stop = asyncio.Event()
        for worker in made.workers:
            assert await asyncio.wait_for(worker.repository.start(stop), LONG)
        try:
            yield made
        finally:
            made.engine.stop()
            await asyncio.wait_for(running, LONG)
            for model in [*made.engine._registry, *(model for each in made.workers for model in each.registry)]:
                model.close()


def run(do: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(do(), 5 * LONG))
