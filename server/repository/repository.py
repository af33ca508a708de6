"""The models of a repository, and what can be asked of them: to load and unload versions, and to name them.

What lies there is looked at in `looking.py`, versions are loaded and retired in `lifecycle.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from glimpse.server.batching.observer import Observer
from glimpse.server.domain import ModelIdentity
from glimpse.server.errors import FailedPreconditionError, InvalidRequestError, Reason, ServiceError
from glimpse.server.fields import Field
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.registry import STABLE, ModelRegistry, ModelStatus
from glimpse.server.repository import aliases
from glimpse.server.repository.asking import Asking, not_found
from glimpse.server.repository.audience import Audience
from glimpse.server.repository.hanging import Hanging
from glimpse.server.repository.known import Known, KnownModel, KnownVersion
from glimpse.server.repository.lifecycle import Lifecycle
from glimpse.server.repository.looking import Looking
from glimpse.server.repository.rolling import Rolling
from glimpse.server.repository.rollout import Rollouts
from glimpse.server.repository.sleep_memory import SleepMemory
from glimpse.server.repository.sleeping import Sleepers
from glimpse.server.settings import Settings

_log = structlog.get_logger(__name__)

_LOOK = 1.0  # seconds between two looks at what may hang; shorter where that is short
_STILL_SECONDS = 2.0  # files are complete where two looks so far apart find the same


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
        self._registry, self._changed = registry, changed
        self._audience = audience or Audience()
        poll = settings.models_poll
        self._known = known = Known(min(_STILL_SECONDS, poll or _STILL_SECONDS), rollouts.versions)
        self.hanging = Hanging(min(_LOOK, settings.stuck_seconds / 4))
        self.sleepers = Sleepers(
            registry,
            SleepMemory(settings.models_memory_bytes),
            lambda: self._lives.stop,
            step_seconds=settings.load_step_seconds,
            changed=changed,
            freed=freed,
            woken=woken,
            audience=self._audience,
            hanging=self.hanging,
        )
        self._lives = lives = Lifecycle(
            known,
            registry,
            settings,
            observe,
            sleepers=self.sleepers,
            audience=self._audience,
            changed=changed,
            loaded=loaded,
            closed=closed,
        )
        self.rolling = Rolling(rollouts, registry)
        self._looking = Looking(root, known, registry, lives, self.rolling, poll=poll, changed=changed)
        self.rolling.ended = self._looking.wake.set
        self._asking = Asking(known, registry, lives, self._looking)

    @property
    def began(self) -> bool:
        """Whether all that was found first has been loaded, or has failed."""
        return self._lives.began

    @property
    def ready(self) -> bool:
        """Whether every required model answers, of those that were found first or have answered since."""
        return self._lives.ready

    def needs(self, name: str) -> bool:
        """Whether the server is not ready without this model."""
        return name in self._lives.needed

    def names(self) -> dict[str, bool]:
        """Every model by name, and whether it answers."""
        return self._lives.names()

    def aliases(self, name: str) -> Mapping[str, str]:
        """The aliases of a model, as they are to be: alias -> version."""
        return self._known.models[name].aliases if name in self._known.models else {}

    async def check(self, name: str) -> None:
        """Refuse a model that is not in the repository.

        Raises:
            ModelNotFoundError: expected; it is not.
        """
        if name not in self._known.models:
            await self._looking.now()
        if name not in self._known.models:
            raise not_found(name, "", sorted(self._known.models))

    async def start(self, stop: asyncio.Event) -> bool:
        """Load what is there; False when told to stop meanwhile. A version that fails does not end it.

        Raises:
            ModelLoadError: expected; the repository cannot be read.
        """
        return await self._looking.start(stop)

    async def run(self) -> None:
        """Look again and again, for as long as the server lives."""
        await self._looking.run()

    def look(self, *, again: bool = True) -> None:
        """Have the repository looked at now. `again`: also try what has failed before."""
        self._looking.soon(again=again)

    async def load(self, name: str, version: str = "") -> ModelStatus:
        """Load a version, and wait until it is ready. An older one than the newest stays until it is unloaded.

        `version`: its number or alias; empty: the newest that is there.

        Raises:
            ModelNotFoundError: expected; it is not in the repository.
            FailedPreconditionError: expected; it cannot be loaded, or is unloaded meanwhile.
        """
        entry = self._known.versions.get((self._registry.name(name), version))
        if entry is None:
            await self._looking.now()
            entry = await self._asking.find(name, version)
            before, entry.asked = entry.asked, True
        else:  # asked for before the look, so that whoever unloads it meanwhile is the last to ask
            before, entry.asked = entry.asked, True
            await self._looking.now()
        try:
            status = await self._asking.until_ready(entry)
        except ServiceError:
            entry.asked = entry.asked and before
            raise
        await _wake(status)
        if self._known.newest(entry.name)[-1:] == [entry.version]:
            entry.asked = None  # it stays as the newest does: until there is a newer one
        return status

    @asynccontextmanager
    async def held(self, name: str, version: str) -> AsyncIterator[ModelStatus]:
        """Have a version loaded and ready meanwhile. After that it answers only if there is another reason for it.

        `version`: its number or alias; empty: the newest that is there.

        Raises:
            ModelNotFoundError: expected; there is no such model or version.
            FailedPreconditionError: expected; the version cannot be loaded.
        """
        async with self._held(name, version) as entry:
            status = await self._asking.until_ready(entry)
            await _wake(status)
            yield status

    @asynccontextmanager
    async def _held(self, name: str, version: str) -> AsyncIterator[KnownVersion]:
        entry = await self._asking.find(name, version)
        before, entry.asked = entry.asked, True
        try:
            await self._asking.until_ready(entry)
            yield entry
        except BaseException:
            entry.asked = entry.asked and before
            raise
        entry.asked = before or None
        self._looking.wake.set()  # other versions may be wanted by now

    async def unload(self, name: str, version: str = "") -> None:
        """Have a version, or all of a model, answer no more; what has begun with it is answered.

        Where an older version is there to take its place, that is loaded before. It stays unloaded until it is asked
        for by `load`, or its files change.

        Raises:
            ModelNotFoundError: expected; there is no such model or version.
            FailedPreconditionError: expected; the version is the stable one.
        """
        name = self._registry.name(name)
        entries = [await self._asking.find(name, version)] if version else self._known.of(name)
        if not entries:
            raise not_found(name, "", sorted(self._known.models))
        model = self._known.models[entries[0].name]
        if version and entries[0].version in {model.aliases.get(STABLE), model.in_force.get(STABLE)}:
            raise FailedPreconditionError(
                Reason.MODEL_NOT_LOADED,
                f"{entries[0].name} {entries[0].version} is {STABLE}, and answers requests that name no version. Make "
                f"another version {STABLE}, or unload the model as a whole.",
                field=Field.VERSION,
            )
        for each in entries:
            each.asked, each.failed = False, ""
            each.stamp = each.stamp or each.found.stamp
        # What can be done beside a load that is under way does not wait for it.
        self._lives.retire_what_is_not_wanted()
        self._lives.tell()
        if any(each.loaded is not None or each is self._lives.loading for each in entries):
            await self._looking.now()
        else:
            self._looking.wake.set()  # other versions may be wanted by now
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
            FailedPreconditionError: expected; the version cannot be loaded.
            InvalidRequestError: expected; INVALID_PARAMETER: this cannot be an alias.
        """
        try:
            aliases.check(alias)
        except ValueError as error:
            raise InvalidRequestError(Reason.INVALID_PARAMETER, str(error), field="alias") from None
        name = self._registry.name(name)
        if version:
            async with self._held(name, version) as entry:
                return await self._set_alias(name, alias, entry.version)
        kept = await self._set_alias(name, alias, "")
        self._looking.wake.set()  # other versions may be wanted by now
        return kept

    async def _set_alias(self, name: str, alias: str, version: str) -> bool:
        # Not while a look may have read the aliases that are changed here; but beside a load, which may take minutes.
        async with self._looking.reading:
            if name not in self._known.models:
                raise not_found(name, "", sorted(self._known.models))
            model = self._known.models[name]
            if version:
                model.aliases[alias] = version
            else:
                model.aliases.pop(alias, None)
            self._lives.put_in_force(name)
            kept = await asyncio.to_thread(self._keep, model)
            self._lives.retire_what_is_not_wanted()
            self._lives.tell()
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


async def _wake(status: ModelStatus) -> None:
    if status.model is not None and status.model.sleep is not None:
        await status.model.sleep.wake(None)
