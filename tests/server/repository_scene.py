"""A repository on a simulated device, which is looked at whenever a test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from glimpse.server.domain import ModelSelector
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_model
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.registry import ModelRegistry
from glimpse.server.repository import known
from glimpse.server.repository.repository import Repository
from glimpse.server.repository.rollout import Rollouts
from glimpse.server.settings import Settings

LONG = 60.0  # seconds; until something is called hung


class Scene:
    """A repository that is looked at whenever a test says so."""

    def __init__(self, root: Path, **chosen: Any) -> None:
        self.stop = asyncio.Event()
        self.registry = ModelRegistry({"photos": "cifar", "usual": ""})
        self.closed: list[LoadedModel] = []
        self.metrics = metrics = Metrics()
        self.rollouts = Rollouts(metrics.rollouts)
        self.repository = Repository(
            root,
            Settings.model_construct(**{**dict(settings()), "models": root, "models_poll": 0.0, **chosen}),
            self.registry,
            metrics.of,
            changed=_nothing,
            loaded=lambda _: None,
            closed=self._closed,
            rollouts=self.rollouts,
        )

    async def _closed(self, model: LoadedModel) -> None:
        self.closed.append(model)

    async def look(self) -> None:
        await asyncio.wait_for(self.repository._looking.now(), LONG)
        await self.settled()

    async def settled(self) -> None:
        """Wait for those that retire and that nobody uses."""
        waits = [task for task in self.repository._lives.retiring if not task.done()]
        if waits and not any(model.uses._number for model in self.registry):
            await asyncio.wait_for(asyncio.gather(*waits), LONG)

    def states(self) -> dict[str, str]:
        return {f"{each.name}/{each.version}": each.state.value for each in self.registry.models()}

    def reason(self, version: str, name: str = "cifar") -> str:
        return next(each.reason for each in self.registry.models() if (each.name, each.version) == (name, version))

    def answers(self, name: str = "", version: str = "") -> str:
        identity = self.registry.resolve(ModelSelector(name, version)).identity
        return f"{identity.name}/{identity.version}"


def settings() -> Settings:
    return Settings(runtime="simulated", log_level="error")  # type: ignore[call-arg]


async def _nothing() -> None:
    pass


@asynccontextmanager
async def scene(root: Path, **chosen: Any) -> AsyncIterator[Scene]:
    made = Scene(root, **chosen)
    assert await asyncio.wait_for(made.repository.start(made.stop), LONG)
    try:
        yield made
    finally:
        made.stop.set()
        for model in made.registry:
            model.close()


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies there is complete, unless a test says otherwise."""
    monkeypatch.setattr(known, "_OLD_SECONDS", 0.0)
    monkeypatch.delenv("GLIMPSE_WEIGHTS", raising=False)


def run(do: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(do(), 5 * LONG))


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not done():  # noqa: ASYNC110 - it is told to nobody
            await asyncio.sleep(0.01)


class Held:
    """Loads of one version of `cifar` wait, at a step that they tell, until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.ended: list[LoadedModel] = []
        load = load_model

        def held(*arguments: Any, **named: Any) -> LoadedModel:
            if named["named"] == ("cifar", version):
                named["progress"]("compute batches of 8 images")
                self.begun.set()
                assert self.go.wait(LONG)
                self.ended.append(model := load(*arguments, **{**named, "progress": lambda *_, **__: None}))
                return model
            return load(*arguments, **named)

        monkeypatch.setattr("glimpse.server.repository.lifecycle.load_model", held)
