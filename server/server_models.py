"""The models that a server answers with: the one of its settings, those of a repository, or those of an engine."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from glimpse.server.decoding.where import Decoding
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_configured
from glimpse.server.machine.memory import Memory, settle
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.processes.interruptible import run_until_stopped
from glimpse.server.processes.startup import StartupError
from glimpse.server.registry import ModelRegistry
from glimpse.server.repository.remote import RemoteRepository
from glimpse.server.repository.repository import Repository
from glimpse.server.repository.rollout import Rollouts
from glimpse.server.settings import Settings


class Provider(Protocol):
    """Where a worker's model comes from: an engine, of which the supervisor tells."""

    async def model(self, stop: asyncio.Event) -> LoadedModel | None:
        """The model, once an engine has loaded it; None: the server is told to stop before."""

    def available(self) -> bool:
        """Whether an engine answers now."""


class ServerModels:
    """Loads the models of a server, and tells the metrics of them."""

    def __init__(
        self,
        settings: Settings,
        registry: ModelRegistry,
        rollouts: Rollouts,
        metrics: Metrics,
        decoding: Decoding,
        *,
        memory: Memory,
        provider: Provider | None,
        rejoin: Callable[[], object],
        changed: Callable[[], Awaitable[None]],
        forget: Callable[[str, str], object],
    ) -> None:
        """Nothing is loaded yet.

        Args:
            settings: of the server.
            registry: gets what is loaded.
            rollouts: which version of a model answers which share of its requests.
            metrics: are told of every model that is loaded or closed.
            decoding: is started before the first model is loaded.
            memory: gives back what loading and closing leave behind.
            provider: of a worker, whose model an engine computes; None: this process loads its models.
            rejoin: asks for another channel to the engine of a repository.
            changed: is told when a model of a repository has become ready, or is so no more.
            forget: is told the name and version of a model of which nothing is loaded any more.
        """
        self._settings, self._registry, self._rollouts, self._metrics = settings, registry, rollouts, metrics
        self._decoding, self._memory, self._provider = decoding, memory, provider
        self._rejoin, self._changed, self._forget = rejoin, changed, forget
        self.repository = None if settings.models is None else self._of_models(settings.models)

    @property
    def ready(self) -> bool:
        """Whether those answer, once loaded, that the server needs to be ready."""
        if self.repository is not None:
            return self.repository.ready
        return self._provider is None or self._provider.available()

    def needs(self, name: str) -> bool:
        """Whether the server is ready only while the model of that name is."""
        return self.repository is None or self.repository.needs(name)

    def ready_by_name(self) -> dict[str, bool]:
        """Whether each model of a repository is ready; empty where there is none."""
        return {} if self.repository is None else self.repository.names()

    async def load(self, stop: asyncio.Event) -> bool:
        """Load the models beside the event loop; False when told to stop meanwhile, of which nothing is left then.

        Raises:
            StartupError: expected; the message says what to do.
        """
        if self.repository is not None:
            self._start_decoding()
            going_on = await self.repository.start(stop)
            await self._settle()
            return going_on
        model = await self._model(stop)
        if model is None:
            return False
        await self._settle()
        if not any(self._registry):  # else another engine has told of its model meanwhile
            self._registry.put(model)
            self._tell_loaded(model)
        return True

    def replace(self, model: LoadedModel) -> None:
        """Serve another model from now on, which an engine has loaded that replaces another."""
        before = list(self._registry)
        self._registry.replace(model)
        self._tell_loaded(model)
        for each in before:
            self._metrics.models.closed(each.identity, each.runtime, each.precision)

    def join(self, connected: socket.socket) -> None:
        """Answer with the models of the engine at the other end of a channel's socket, from now on."""
        if not isinstance(self.repository, RemoteRepository):
            connected.close()
            raise TypeError("this server has no models of an engine")
        self.repository.connect(connected)

    def look(self) -> None:
        """Look at the repository of models now, and try again what could not be loaded; for SIGHUP."""
        if self.repository is not None:
            self.repository.look()

    async def _model(self, stop: asyncio.Event) -> LoadedModel | None:
        if self._provider is None:
            return await run_until_stopped(stop, self._prepare_and_load)
        self._start_decoding()
        return await self._provider.model(stop)

    def _prepare_and_load(self) -> LoadedModel:
        self._start_decoding()
        return load_configured(self._settings, self._metrics.of)

    def _start_decoding(self) -> None:
        try:
            self._decoding.start()
        except RuntimeError as error:
            raise StartupError(str(error)) from error

    def _of_models(self, root: Path) -> Repository | RemoteRepository:
        if self._provider is not None:  # the engine has the models
            return RemoteRepository(
                self._registry,
                slots=self._settings.max_images_in_flight,
                changed=self._changed,
                loaded=self._tell_loaded,
                closed=self._closed,
                rejoin=self._rejoin,
                rollouts=self._rollouts,
            )
        self._metrics.models.follow(
            lambda: [(each.name, each.version, each.state.value) for each in self._registry.models()]
        )
        repository = Repository(
            root,
            self._settings,
            self._registry,
            self._metrics.of,
            changed=self._changed,
            loaded=self._tell_loaded,
            closed=self._closed,
            rollouts=self._rollouts,
            freed=self._freed,
            woken=self._metrics.memory.woken,
        )
        self._metrics.memory.follow(
            lambda: [(each.identity, size) for each, size in repository.sleepers.taken()],
            self._settings.models_memory_bytes,
        )
        return repository

    def _tell_loaded(self, model: LoadedModel) -> None:
        self._metrics.of(model.identity.name, model.identity.version)  # all of its series begin at 0
        self._metrics.models.loaded(model.identity, model.runtime, model.precision)
        if (found := model.agreement) is not None:
            self._metrics.models.compared(model.identity, found.precision, found.share, found.speed)

    async def _closed(self, model: LoadedModel) -> None:
        self._metrics.models.closed(model.identity, model.runtime, model.precision)
        key = model.identity.name, model.identity.version
        if key not in {(each.identity.name, each.identity.version) for each in self._registry}:
            self._forget(*key)
        del model
        await self._freed()

    async def _freed(self) -> None:
        # What was there when the server had loaded its first models is looked at for garbage, too.
        gc.unfreeze()
        await self._settle()

    async def _settle(self) -> None:
        """Give back what loading or closing a model has left behind."""
        settle()
        if (trimming := self._memory.trim()) is not None:
            await trimming
        self._memory.settled()
