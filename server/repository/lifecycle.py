"""The life of the versions of a repository: loading, warming, ready, retiring; or failed, and why.

A version is ready once it has computed every batch size and its answers are the recorded ones. Only then does it get
requests, and only then is the one retired whose place it takes: that one answers what has begun with it, and is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import structlog

from glimpse.models.sources import ModelSource
from glimpse.server.batching.device import SharedDevice
from glimpse.server.batching.observer import Observer
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_model
from glimpse.server.machine import cores
from glimpse.server.machine.awake import AwakeClock
from glimpse.server.processes.startup import StartupError
from glimpse.server.progress import Progress
from glimpse.server.registry import ModelRegistry, ModelState, ModelStatus
from glimpse.server.repository.audience import Audience
from glimpse.server.repository.known import Known, KnownVersion
from glimpse.server.repository.model_file import ListedModel
from glimpse.server.repository.scan import weights_in
from glimpse.server.repository.sleeping import Loading, Sleepers
from glimpse.server.repository.watched_load import load_watched
from glimpse.server.settings import Settings

_log = structlog.get_logger(__name__)

_FREEING_SECONDS = 5.0  # that the next load waits for what a model held that has just been closed
_IDLE_SECONDS = 60.0  # without a request, after which a model gives its threads back; to start them takes 0.1 ms


class Lifecycle:
    """Loads versions, lets them answer, and lets go of them. Lives on the event loop."""

    def __init__(
        self,
        known: Known,
        registry: ModelRegistry,
        settings: Settings,
        observe: Callable[[str, str], Observer],
        *,
        sleepers: Sleepers,
        audience: Audience,
        changed: Callable[[], Awaitable[None]],
        loaded: Callable[[LoadedModel], object],
        closed: Callable[[LoadedModel], Awaitable[None]],
    ) -> None:
        """Nothing is loaded yet; see `Repository`."""
        self.stop = asyncio.Event()  # the server is told to stop
        self.began = False  # all that was found first has been loaded, or has failed
        self.needed: set[str] = set()  # required models, without which the server is not ready
        self.loading: KnownVersion | None = None  # what is being loaded
        self.retiring: set[asyncio.Task[None]] = set()
        self._freeing: set[asyncio.Task[object]] = set()  # those of them whose model is closed, but not yet free
        self._known, self._registry, self._settings, self._observe = known, registry, settings, observe
        self._sleepers, self._audience = sleepers, audience
        self._changed, self._loaded, self._closed = changed, loaded, closed
        self._device = SharedDevice(cores.available(), AwakeClock(limit=settings.stuck_seconds))

    @property
    def ready(self) -> bool:
        """Whether every required model answers, of those that were found first or have answered since."""
        return self.began and any(self._registry) and all(map(self._registry.ready, self.needed))

    def names(self) -> dict[str, bool]:
        """Every model by name, and whether it answers."""
        return {name: self._registry.ready(name) and not self._sleepers.broken(name) for name in self._known.models}

    async def load(self, entry: KnownVersion) -> None:
        """Load a version and let it answer; where it fails, all stays as it was."""
        name, version = entry.key
        stamp, before = entry.found.stamp, entry.loaded
        if self._freeing:  # else there would be a third model for a while, beside the two of a swap
            await asyncio.wait(self._freeing, timeout=_FREEING_SECONDS)
        self._tell_state(entry, ModelState.LOADING)
        _log.info("loading", model=name, version=version)
        loop = asyncio.get_running_loop()

        def warms() -> None:
            loop.call_soon_threadsafe(self._tell_state, entry, ModelState.WARMING)

        try:
            model = await self._loaded_and_offered(entry, warms)
        except StartupError as error:
            entry.stamp, entry.failed = stamp, str(error)
            _log.error("model failed", model=name, version=version, detail=str(error))
            self.tell()
            return
        if model is None:
            return
        entry.stamp, entry.failed, entry.loaded = stamp, "", model
        self._loaded(model)
        self._registry.put(model, newer=tuple(self._known.newer(name, version)))
        self.put_in_force(name)
        if self.began:  # else it is a matter of time which of them is there
            self._registry.set_default(self._known.default())
        _log.info("model ready", model=name, version=version, weights_digest=model.identity.weights_digest)
        if entry.model.file.required and self.began:
            self.needed.add(name)
        await self._audience.told()
        if before is not None:
            self._retire(before)
        self.retire_what_is_not_wanted()
        self.tell()
        await self._changed()

    async def _loaded_and_offered(self, entry: KnownVersion, warms: Callable[[], object]) -> LoadedModel | None:
        """The model of a version, once everybody could answer with it; None: the server stops.

        Raises:
            StartupError: expected; it cannot be loaded.
        """
        seconds = self._settings.load_step_seconds
        self.loading = entry
        try:
            with self._sleepers.loading() as loading:
                load = partial(self._load_now, entry, loading)
                model = await load_watched(self.stop, load, named=entry.key, seconds=seconds, warms=warms)
                if model is not None:
                    model = await loading.done(model, lambda: entry.model.file)
                    await self._audience.offer(model)
                return model
        finally:
            self.loading = None

    def _load_now(self, entry: KnownVersion, loading: Loading, progress: Progress) -> LoadedModel:
        """In a thread of its own."""
        options = entry.model.file.load_options(self._settings, self._device)
        options = replace(options, sleeps=True, room=loading.room, idle_seconds=_IDLE_SECONDS)
        model = load_model(_source(entry), options, self._observe, named=entry.key, progress=progress)
        self._audience.examine(model, progress)
        return model

    def retire_what_is_not_wanted(self) -> None:
        """Let go of versions whose place others have taken, that are unloaded, or that have been removed."""
        for entry in self._known.superseded():
            self._let_go(entry)
        versions, names = self._known.drop_gone()
        for key in versions:
            self._registry.forget(*key)
        for name in names:
            self.needed.discard(name)
            self._registry.alias(name, {})
            self._registry.forget(name, "")

    def _let_go(self, entry: KnownVersion) -> None:
        model, entry.loaded = entry.loaded, None
        if model is None:
            return
        if entry.asked:
            entry.asked = None
        self._registry.take(*entry.key)
        self._retire(model)

    def _retire(self, model: LoadedModel) -> None:
        task = asyncio.create_task(self._close(model), name="retiring")
        self.retiring.add(task)
        task.add_done_callback(self.retiring.discard)

    async def _close(self, model: LoadedModel) -> None:
        identity = model.identity
        _log.info("retiring", model=identity.name, version=identity.version)
        await self._registry.retire(model)
        self._sleepers.forget(model)
        freeing = asyncio.ensure_future(self._closed(model))
        self._freeing.add(freeing)
        freeing.add_done_callback(self._freeing.discard)
        del model  # else what it holds would not be free when memory is settled
        await freeing
        _log.info("model gone", model=identity.name, version=identity.version)
        await self._changed()

    def put_in_force(self, name: str) -> None:
        """Have callers answered by the aliases of a model, but for those whose version is not ready yet."""
        usual = self._registry.usual(name)
        self._registry.alias(name, self._known.put_in_force(name, "" if usual is None else usual.identity.version))

    def tell(self) -> None:
        """Tell the registry of all versions that do not answer."""
        for entry in self._known.versions.values():
            if entry is self.loading:  # which says how far it is
                continue
            if entry.loaded is not None:
                if entry.failed:  # to load it again, with other files
                    self._tell_state(entry, ModelState.FAILED, entry.failed)
                else:
                    self._registry.forget(*entry.key)
                continue
            if why := entry.problem or (entry.failed if entry.stamp == entry.found.stamp else ""):
                self._tell_state(entry, ModelState.FAILED, why)
            elif entry.asked is False or (
                self._known.still(entry) and entry.version not in self._known.wanted(entry.name)
            ):
                self._tell_state(entry, ModelState.UNLOADED)
            else:
                why = "" if self._known.still(entry) else entry.found.incomplete or "Its files may still be copied."
                self._tell_state(entry, ModelState.WAITING, why)
        for name, model in self._known.models.items():
            if model.found.problem and not model.found.versions:
                self._registry.tell(ModelStatus(name, "", ModelState.FAILED, model.found.problem))
            else:
                self._registry.forget(name, "")

    def _tell_state(self, entry: KnownVersion, state: ModelState, reason: str = "") -> None:
        self._registry.tell(ModelStatus(entry.name, entry.version, state, reason))


def _source(entry: KnownVersion) -> ModelSource:
    """Where the weights of a version are.

    Raises:
        ValueError: that cannot be told.
    """
    file = entry.model.file
    if entry.found.path is not None:
        return file.source(str(weights_in(entry.found.path)))
    if isinstance(file, ListedModel) and file.weights is not None:
        return file.source(file.weights, file.labels, file.recipe)
    raise ValueError(f"{entry.name} has neither a folder nor weights.")
