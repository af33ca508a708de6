"""The life of the models of a repository: loading, warming, ready, retiring; or failed, and why.

Models are loaded one after the other, beside those that serve: at no time is there more than one that is not ready yet.
A version is ready once it has computed every batch size and its answers are the recorded ones. Only then does it get
requests, and only then is the one retired whose place it takes: that one answers what has begun with it, and is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from glimpse.models.sources import ModelSource
from glimpse.server import cores
from glimpse.server.batching.batcher import Observer
from glimpse.server.batching.device import SharedDevice
from glimpse.server.domain import ModelIdentity
from glimpse.server.errors import FailedPreconditionError, ModelNotFoundError, Reason, ServiceError, draining, shown
from glimpse.server.loading import load_model
from glimpse.server.progress import Progress
from glimpse.server.registry import LATEST, STABLE, LoadedModel, ModelRegistry, ModelState, ModelStatus, by_number
from glimpse.server.repository import aliases
from glimpse.server.repository.audience import Audience
from glimpse.server.repository.known import Known, KnownModel, KnownVersion
from glimpse.server.repository.model_file import ListedModel
from glimpse.server.repository.rolling import Rolling
from glimpse.server.repository.rollout import Rollouts
from glimpse.server.repository.scan import FoundModel, scan, weights_in
from glimpse.server.repository.sleeping import Loading, Sleepers
from glimpse.server.repository.watched_load import load_watched
from glimpse.server.settings import Settings
from glimpse.server.startup import ModelLoadError, StartupError

_log = structlog.get_logger(__name__)

_STILL_SECONDS = 2.0  # files are complete where two looks so far apart find the same
_IDLE_SECONDS = 60.0  # without a request, after which a model gives its threads back; to start them takes 0.1 ms
_AGAIN_SECONDS = 0.2  # until the next look for a version that is waited for, and that the last one has not loaded


async def nothing(*_: object) -> None:
    """Where nobody is to be told."""


class Repository:
    """The models of a repository, of which those that are ready are in a registry. Lives on the event loop."""

    def __init__(  # noqa: PLR0913 - each is told of something else, and by name
        self,
        root: Path,
        settings: Settings,
        registry: ModelRegistry,
        observe: Callable[[str, str], Observer],
        *,
        changed: Callable[[], Awaitable[None]],
        loaded: Callable[[LoadedModel], object],
        closed: Callable[[LoadedModel], Awaitable[None]],
        rollouts: Rollouts,
        freed: Callable[[], Awaitable[None]] = nothing,
        woken: Callable[[ModelIdentity, str], object] = lambda _model, _outcome: None,
        audience: Audience | None = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            root: the folder, or the TOML file.
            settings: of the server, for what a model's own do not say.
            registry: of the models that answer.
            observe: gives what is told of a model's batches, for its name and version.
            changed: awaited when a model has begun or ceased to be ready.
            loaded: called when a model is about to answer.
            closed: awaited when a model is closed, and what it held is free.
            rollouts: of new versions, whose terms lie in the repository, too.
            freed: awaited when a model has fallen asleep, likewise.
            woken: told how an attempt to wake a model has ended, see `Sleepers`.
            audience: other processes that answer with these models; None: there are none.
        """
        self._root, self._settings, self._registry = root, settings, registry
        self._observe, self._changed, self._loaded, self._closed = observe, changed, loaded, closed
        self._audience = audience or Audience()
        self._device = SharedDevice(cores.available())
        self.sleepers = Sleepers(
            registry,
            settings.models_memory_bytes,
            lambda: self._stop,
            step_seconds=settings.load_step_seconds,
            changed=changed,
            freed=freed,
            woken=woken,
            audience=self._audience,
        )
        self._poll = settings.models_poll
        self._known = Known(min(_STILL_SECONDS, self._poll or _STILL_SECONDS), rollouts.versions)
        self.rolling = Rolling(rollouts, registry)
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._needed: set[str] = set()  # required models, without which the server is not ready
        self._began = False  # all that was found first has been loaded, or has failed
        self._retiring: set[asyncio.Task[None]] = set()
        self._busy = asyncio.Lock()  # held by a look, and all that it loads
        self._reading = asyncio.Lock()  # held while the repository is read, or aliases are written
        self._told_names: dict[str, bool] = {}
        self._looks: set[asyncio.Task[bool]] = set()
        self._trouble = ""  # why the repository cannot be read
        self._loading: KnownVersion | None = None  # what is being loaded

    @property
    def began(self) -> bool:
        """Whether all that was found first has been loaded, or has failed."""
        return self._began

    @property
    def ready(self) -> bool:
        """Whether every required model answers, of those that were found first or have answered since."""
        return self._began and any(self._registry) and all(map(self._registry.ready, self._needed))

    def needs(self, name: str) -> bool:
        """Whether the server is not ready without this model."""
        return name in self._needed

    def names(self) -> dict[str, bool]:
        """Every model by name, and whether it answers."""
        return {name: self._registry.ready(name) and not self.sleepers.broken(name) for name in self._known.models}

    def aliases(self, name: str) -> Mapping[str, str]:
        """The aliases of a model, as they are to be: alias -> version."""
        return self._known.models[name].aliases if name in self._known.models else {}

    async def check(self, name: str) -> None:
        """Refuse a model that is not in the repository.

        Raises:
            ModelNotFoundError: expected; it is not.
        """
        if name not in self._known.models:
            await self._look_now()
        if name not in self._known.models:
            raise _not_found(name, "", sorted(self._known.models))

    async def start(self, stop: asyncio.Event) -> bool:
        """Load what is there; False when told to stop meanwhile. A version that fails does not end it.

        Raises:
            ModelLoadError: expected; the repository cannot be read.
        """
        self._stop = stop
        if await self._look(first=True):  # something was copied a moment ago
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._known.still_seconds)
            await self._look(first=True)
        if stop.is_set():
            return False
        self._began = True
        if not self._known.models:
            _log.warning("no models", detail=f"There is none in {self._root} yet. It is looked at again and again.")
        for name in sorted(self._needed):
            if not self._registry.ready(name):
                _log.error("not ready", detail=f"The required model {name} is not ready, so that the server is not.")
        await self._changed()
        return True

    async def run(self) -> None:
        """Look again and again, for as long as the server lives."""
        unsettled = False
        while not self._stop.is_set():
            seconds = self._known.still_seconds if unsettled else self._poll or None
            waits = [asyncio.create_task(each.wait()) for each in (self._wake, self._stop)]
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for each in waits:
                each.cancel()
            self._wake.clear()
            if not self._stop.is_set():
                unsettled = await self._look()

    def look(self, *, again: bool = True) -> None:
        """Have the repository looked at now. `again`: also try what has failed before."""
        if again:
            for each in self._known.versions.values():
                if each.failed:
                    each.stamp, each.failed = None, ""
        self._wake.set()

    async def load(self, name: str, version: str = "") -> ModelStatus:
        """Load a version, and wait until it is ready. An older one than the newest stays until it is unloaded.

        `version`: its number or alias; empty: the newest that is there.

        Raises:
            ModelNotFoundError: expected; it is not in the repository.
            FailedPreconditionError: expected; it cannot be loaded, or is unloaded meanwhile.
        """
        entry = self._known.versions.get((self._registry.name(name), version))
        if entry is None:
            await self._look_now()
            entry = await self._find(name, version)
            before, entry.asked = entry.asked, True
        else:  # asked for before the look, so that whoever unloads it meanwhile is the last to ask
            before, entry.asked = entry.asked, True
            await self._look_now()
        try:
            status = await self._until_ready(entry)
        except ServiceError:
            entry.asked = entry.asked and before
            raise
        if status.model is not None and status.model.sleep is not None:
            await status.model.sleep.wake(None)
        if self._known.newest(entry.name)[-1:] == [entry.version]:
            entry.asked = None  # it stays as the newest does: until there is a newer one
        return status

    async def unload(self, name: str, version: str = "") -> None:
        """Have a version, or all of a model, answer no more; what has begun with it is answered.

        Where an older version is there to take its place, that is loaded before. It stays unloaded until it is asked
        for by `load`, or its files change.

        Raises:
            ModelNotFoundError: expected; there is no such model or version.
            FailedPreconditionError: expected; the version is the stable one.
        """
        name = self._registry.name(name)
        entries = [await self._find(name, version)] if version else self._known.of(name)
        if not entries:
            raise _not_found(name, "", sorted(self._known.models))
        model = self._known.models[entries[0].name]
        if version and entries[0].version in {model.aliases.get(STABLE), model.in_force.get(STABLE)}:
            raise FailedPreconditionError(
                Reason.MODEL_NOT_LOADED,
                f"{entries[0].name} {entries[0].version} is {STABLE}, and answers requests that name no version. Make "
                f"another version {STABLE}, or unload the model as a whole.",
                field="version",
            )
        for each in entries:
            each.asked, each.failed = False, ""
            each.stamp = each.stamp or each.found.stamp
        # What can be done beside a load that is under way does not wait for it.
        self._retire_what_is_not_wanted()
        self._tell()
        if any(each.loaded is not None or each is self._loading for each in entries):
            await self._look_now()
        else:
            self._wake.set()  # other versions may be wanted by now
            await asyncio.sleep(0)  # what retires says so
        await self._audience.told()
        await self._changed()

    async def set_alias(self, name: str, alias: str, version: str) -> bool:
        """Give a version of a model another name, once it is ready; one that is not loaded is loaded for it.

        `version`: its number or another alias; empty: the alias is removed.

        Returns:
            Whether it was written to the repository, and so outlives the server.

        Raises:
            ModelNotFoundError: expected; there is no such model or version.
            FailedPreconditionError: expected; the version cannot be loaded, or this cannot be an alias.
        """
        try:
            aliases.check(alias)
        except ValueError as error:
            raise FailedPreconditionError(Reason.MODEL_NOT_LOADED, str(error), field="alias") from None
        name = self._registry.name(name)
        if version:
            entry = await self._find(name, version)
            before, entry.asked = entry.asked, True
            try:
                await self._until_ready(entry)
                kept = await self._set_alias(name, alias, entry.version)
            except BaseException:
                entry.asked = entry.asked and before
                raise
            entry.asked = before or None  # by its alias it is asked for
        else:
            kept = await self._set_alias(name, alias, "")
        self._wake.set()  # other versions may be wanted by now
        return kept

    async def _set_alias(self, name: str, alias: str, version: str) -> bool:
        # Not while a look may have read the aliases that are changed here; but beside a load, which may take minutes.
        async with self._reading:
            if name not in self._known.models:
                raise _not_found(name, "", sorted(self._known.models))
            model = self._known.models[name]
            if version:
                model.aliases[alias] = version
            else:
                model.aliases.pop(alias, None)
            self._put_in_force(name)
            kept = await asyncio.to_thread(self._keep, model)
            self._retire_what_is_not_wanted()
            self._tell()
        await self._audience.told()
        _log.info("alias", model=name, alias=alias, version=version or None, kept=kept)
        await self._changed()
        return kept

    def _keep(self, model: KnownModel) -> bool:
        """Write the aliases of a model where they outlive the server, if that can be."""
        if model.found.folder is None:
            return False
        try:
            aliases.write(model.found.folder, model.aliases)
        except OSError as error:
            _log.warning(
                "alias not kept", model=model.found.name, detail=f"{model.found.folder}: {error.strerror or error}"
            )
            return False
        model.read = dict(model.aliases)
        return True

    async def _find(self, name: str, version: str) -> KnownVersion:
        """A version by its number or alias, as it lies in the repository now.

        Raises:
            ModelNotFoundError: expected; there is none.
        """
        name = self._registry.name(name)
        aliased = self._known.models[name].aliases.get(version, version) if name in self._known.models else version
        if (name, aliased) not in self._known.versions:
            await self._look_now()
        ours = self._known.of(name)
        if aliased in {"", LATEST}:
            usable = [each for each in ours if not each.problem] or ours
            if usable:
                return usable[-1]
        for each in ours:
            if each.version == aliased:
                return each
        known = sorted(self._known.models) if name not in self._known.models else [each.version for each in ours]
        raise _not_found(name, version if name in self._known.models else "", known)

    async def _until_ready(self, entry: KnownVersion) -> ModelStatus:
        """Wait until a version is ready.

        Raises:
            FailedPreconditionError: expected; it cannot be.
        """
        if entry.failed:  # once more, though nothing has changed
            entry.stamp, entry.failed = None, ""
            await self._look_now()
        elif entry.loaded is None:
            entry.stamp = None
        while True:
            if entry.loaded is not None and not (entry.problem or entry.failed):
                return ModelStatus(entry.name, entry.version, ModelState.READY, model=entry.loaded)
            self._check_awaited(entry)
            if not self._known.still(entry):
                await asyncio.sleep(self._known.still_seconds)
            await self._look_now()
            if entry.loaded is None and not entry.failed:
                await asyncio.sleep(_AGAIN_SECONDS)

    def _check_awaited(self, entry: KnownVersion) -> None:
        """Raise where it makes no sense to wait for a version any longer."""
        if why := entry.problem or entry.failed:
            raise FailedPreconditionError(
                Reason.MODEL_NOT_LOADED, f"{entry.name} {entry.version} cannot be loaded: {why}"
            )
        if self._stop.is_set():
            raise draining()
        if self._known.versions.get(entry.key) is not entry:
            raise _not_found(entry.name, entry.version, [])
        if entry.asked is False:
            raise FailedPreconditionError(
                Reason.MODEL_NOT_LOADED, f"{entry.name} {entry.version} has been unloaded meanwhile."
            )

    async def _look_now(self) -> None:
        """Have the repository looked at, and wait until all has been done that this leads to."""
        # What it has begun goes on where the caller leaves.
        looking = asyncio.create_task(self._look())
        self._looks.add(looking)
        looking.add_done_callback(self._looks.discard)
        await asyncio.shield(looking)

    async def _look(self, *, first: bool = False) -> bool:
        """Look at the repository, and do what follows; whether some files may not be complete yet."""
        async with self._busy:
            async with self._reading:
                await self._scan()
            if first:
                found = [model.found for model in self._known.models.values()]
                self._needed = {each.name for each in found if each.file.required and not each.stray}
            self._tell()
            while not self._stop.is_set() and (entry := self._next()) is not None:
                await self._load(entry)
            for name in self._known.models:
                self._put_in_force(name)
            self._registry.set_default(self._known.default())
            await self.rolling.settle()
            self._retire_what_is_not_wanted()
            self._tell()
            if self.names() != self._told_names:
                self._told_names = self.names()
                await self._changed()
        return any(self._known.waits(each) for each in self._known.versions.values())

    async def _read(self) -> dict[str, FoundModel] | None:
        """What is there, by name of the model; None: nothing can be read.

        Raises:
            ModelLoadError: expected; nothing can be read at the start.
        """
        try:
            found = await asyncio.to_thread(scan, self._root)
        except (OSError, ValueError) as error:
            if not self._began and not self._known.models:
                raise ModelLoadError(
                    f"The models of GLIMPSE_MODELS cannot be read: {error}. Give a folder of models or a TOML file."
                ) from error
            self._say_trouble(f"{self._root} cannot be read: {error}. What is loaded goes on serving.")
            return None
        if not found and self._known.models:
            self._say_trouble(f"{self._root} is empty. What is loaded goes on serving.")
            return None
        if self._trouble:
            _log.info("repository can be read again")
        self._trouble = ""
        return found

    async def _scan(self) -> None:
        """Find what is there. Where nothing can be read, all stays as it was."""
        found = await self._read()
        if found is None:
            return
        self._known.take(found)
        await self.rolling.look({name: each.found.folder for name, each in self._known.models.items()})
        for name in self._known.models:
            self._put_in_force(name)
        self._registry.set_default(self._known.default())

    def _put_in_force(self, name: str) -> None:
        """Have callers answered by the aliases of a model, but for those whose version is not ready yet."""
        usual = self._registry.usual(name)
        self._registry.alias(name, self._known.put_in_force(name, "" if usual is None else usual.identity.version))

    def _say_trouble(self, text: str) -> None:
        if text != self._trouble:
            _log.error("repository cannot be read", detail=text)
        self._trouble = text

    def _next(self) -> KnownVersion | None:
        """The version that is to be loaded next: models without an answer first, then the newest version."""
        waiting = [
            each
            for name in self._known.models
            for version in self._known.wanted(name)
            if (each := self._known.versions.get((name, version))) is not None and self._known.loadable(each)
        ]
        return min(
            waiting,
            key=lambda each: (self._registry.ready(each.name), each.name, -by_number(each.version)[0]),
            default=None,
        )

    async def _load(self, entry: KnownVersion) -> None:
        """Load a version and let it answer; where it fails, all stays as it was."""
        name, version = entry.key
        stamp, before = entry.found.stamp, entry.loaded
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
            self._tell()
            return
        if model is None:
            return
        entry.stamp, entry.failed, entry.loaded = stamp, "", model
        self._loaded(model)
        self._registry.put(model, newer=tuple(self._known.newer(name, version)))
        self._put_in_force(name)
        if self._began:  # else it is a matter of time which of them is there
            self._registry.set_default(self._known.default())
        _log.info("model ready", model=name, version=version, weights_digest=model.identity.weights_digest)
        if entry.model.file.required and self._began:
            self._needed.add(name)
        await self._audience.told()
        if before is not None:
            self._retire(before)
        self._retire_what_is_not_wanted()
        self._tell()
        await self._changed()

    async def _loaded_and_offered(self, entry: KnownVersion, warms: Callable[[], object]) -> LoadedModel | None:
        """The model of a version, once everybody could answer with it; None: the server stops.

        Raises:
            StartupError: expected; it cannot be loaded.
        """
        seconds = self._settings.load_step_seconds
        self._loading = entry
        try:
            with self.sleepers.loading() as loading:
                load = partial(self._load_now, entry, loading)
                model = await load_watched(self._stop, load, named=entry.key, seconds=seconds, warms=warms)
                if model is not None:
                    model = await loading.done(model, lambda: entry.model.file)
                    await self._audience.offer(model)
                return model
        finally:
            self._loading = None

    def _load_now(self, entry: KnownVersion, loading: Loading, progress: Progress) -> LoadedModel:
        """In a thread of its own."""
        options = entry.model.file.load_options(self._settings, self._device)
        options = replace(options, sleeps=True, room=loading.room, idle_seconds=_IDLE_SECONDS)
        model = load_model(_source(entry), options, self._observe, named=entry.key, progress=progress)
        self._audience.examine(model, progress)
        return model

    def _retire_what_is_not_wanted(self) -> None:
        """Let go of versions whose place others have taken, that are unloaded, or that have been removed."""
        for entry in self._known.superseded():
            self._let_go(entry)
        versions, names = self._known.drop_gone()
        for key in versions:
            self._registry.forget(*key)
        for name in names:
            self._needed.discard(name)
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
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close(self, model: LoadedModel) -> None:
        identity = model.identity
        _log.info("retiring", model=identity.name, version=identity.version)
        await self._registry.retire(model)
        self.sleepers.forget(model)
        closing = self._closed(model)
        del model  # else what it holds would not be free when memory is settled
        await closing
        _log.info("model gone", model=identity.name, version=identity.version)
        await self._changed()

    def _tell(self) -> None:
        """Tell the registry of all versions that do not answer."""
        for entry in self._known.versions.values():
            if entry is self._loading:  # which says how far it is
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


def _not_found(name: str, version: str, known: list[str]) -> ModelNotFoundError:
    what = f"There is no model {shown(name)}" if not version else f"Model {name} has no version {shown(version)}"
    there = f" There are: {', '.join(known)}." if known else ""
    field = "version" if version else "name"
    return ModelNotFoundError(Reason.MODEL_NOT_FOUND, f"{what} in the repository.{there}", field=field)
