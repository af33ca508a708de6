"""The models of a server, which of them a request means, and what each of them is doing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from glimpse.server.domain import ModelSelector
from glimpse.server.errors import (
    FailedPreconditionError,
    ModelNotFoundError,
    Reason,
    ServiceError,
    UnavailableError,
    shown,
)
from glimpse.server.fields import Field
from glimpse.server.loaded_model import LoadedModel

# Most of a start is the framework's import, a few seconds.
_LOADING_SECONDS = 2.0
_CLOSING_SECONDS = 1.0  # of each wait for the batches of a model that retires
_DIGITS = 18  # of a version that is a number
WHERE_WHY = "The server's log and its list of models say why."
STABLE, LATEST = "stable", "latest"  # aliases of versions that have a meaning of their own


class ModelState(StrEnum):
    """What a version of a model is doing, from the first to the last."""

    WAITING = "waiting"  # until its files are complete, or until another model is loaded
    LOADING = "loading"
    WARMING = "warming"  # computes every batch size, and its answers are compared with the recorded ones
    READY = "ready"  # answers requests
    SLEEPING = "sleeping"  # has given its memory back; the next request for it has it loaded again
    RETIRING = "retiring"  # answers what it has begun, and gets no more
    UNLOADED = "unloaded"  # is in the repository, and not to answer
    FAILED = "failed"  # cannot be loaded; the reason is beside it


_COMING = {ModelState.WAITING, ModelState.LOADING, ModelState.WARMING}


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of a model, as those who manage models see it."""

    name: str
    version: str  # as a selector takes it
    state: ModelState
    # For people: why it has failed, or what it waits for; of one that is ready, why its new files cannot be loaded.
    reason: str = ""
    aliases: tuple[str, ...] = ()  # of this version
    model: LoadedModel | None = None  # while it is ready or sleeps


class Routes(NamedTuple):
    """Which model answers a request: what `ModelRegistry.resolve` goes by."""

    versions: dict[str, dict[str, LoadedModel]]  # by name of the model: version -> model, the newest version last
    aliases: dict[str, dict[str, str]]  # by name of the model: alias -> version
    default: str | None


class ModelRegistry:
    """Models by name and version; the first one added is the default, unless another is named.

    Changed on the event loop alone.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        """Make one without models.

        `names`: other names of models, each with the model's own; "" stands for the default model.
        """
        self._names = dict(names or {})
        self._models: dict[str, dict[str, LoadedModel]] = {}  # those that answer, the newest version last
        self._others: dict[tuple[str, str], ModelStatus] = {}  # those that do not
        self._aliases: dict[str, dict[str, str]] = {}  # by name of the model: alias -> version
        self._retiring: tuple[LoadedModel, ...] = ()
        self._default: str | None = None
        # Replaced as a whole: a scrape looks at it from a thread of its own.
        self._all: tuple[LoadedModel, ...] = ()
        self._statuses: tuple[ModelStatus, ...] = ()
        self._told: tuple[ModelStatus, ...] | None = None  # by another registry, which this one follows
        self._watcher: Callable[[], object] = lambda: None

    def watch(self, changed: Callable[[], object]) -> None:
        """Have `changed` called after each change."""
        self._watcher = changed

    def routes(self) -> Routes:
        """A copy of what requests are answered by."""
        versions = {name: dict(versions) for name, versions in self._models.items()}
        return Routes(versions, {name: dict(each) for name, each in self._aliases.items()}, self._default)

    def follow(self, routes: Routes, statuses: tuple[ModelStatus, ...]) -> None:
        """Answer as the registry of another process does, from now on; `statuses` are what it says of all versions."""
        self._models, self._aliases, self._default = routes
        self._others = {(each.name, each.version): each for each in statuses if each.model is None}
        self._told = statuses
        self._changed()

    def put(self, model: LoadedModel, newer: tuple[str, ...] = ()) -> LoadedModel | None:
        """Make a model answer requests in the place of the one of its name and version, which is returned.

        `newer`: versions that are newer than this one, in any order.
        """
        name, version = model.identity.name, model.identity.version
        versions = self._models.get(name, {})
        before = versions.pop(version, None)
        older = {each: model for each, model in versions.items() if each not in newer}
        self._models[name] = {**older, version: model, **{e: m for e, m in versions.items() if e in newer}}
        self._others.pop((name, version), None)
        self._changed()
        return before

    def take(self, name: str, version: str) -> LoadedModel | None:
        """Have a version get no more requests; returned where it has answered until now."""
        versions = self._models.get(name, {})
        model = versions.pop(version, None)
        if not versions:
            self._models.pop(name, None)
        self._changed()
        return model

    def replace(self, model: LoadedModel) -> None:
        """Make a model answer in place of all that are there."""
        self._models = {model.identity.name: {model.identity.version: model}}
        self._changed()

    async def retire(self, model: LoadedModel) -> None:
        """Close a model that gets no more requests, after it has answered those that began with it."""
        self._retiring = (*self._retiring, model)
        self._changed()
        try:
            await model.uses.ended()
            # In parts: a model that hangs must not keep the process from ending.
            while not await asyncio.to_thread(model.close, _CLOSING_SECONDS):
                pass
        finally:
            self._retiring = tuple(each for each in self._retiring if each is not model)
            self._changed()

    def look(self) -> None:
        """Take note of what models say of themselves: one has fallen asleep, or woken."""
        self._changed()

    def tell(self, status: ModelStatus) -> None:
        """Say what a version is doing that does not answer."""
        self._others[status.name, status.version] = status
        self._changed()

    def forget(self, name: str, version: str) -> None:
        """There is no such version that does not answer."""
        self._others.pop((name, version), None)
        self._changed()

    def alias(self, name: str, aliases: Mapping[str, str]) -> None:
        """Give versions of a model other names: alias -> version. They replace those that it had."""
        self._aliases[name] = dict(aliases)
        self._changed()

    def set_default(self, name: str | None) -> None:
        """Name the default model; None: the first one."""
        if name != self._default:
            self._default = name
            self._watcher()

    def __iter__(self) -> Iterator[LoadedModel]:
        """All that are loaded, also those that retire; may be called from any thread."""
        return iter(self._all)

    def models(self) -> tuple[ModelStatus, ...]:
        """Every version of every model with its state, by name; of each name the oldest first. For any thread."""
        return self._statuses

    def ready(self, name: str) -> bool:
        """Whether a request that names this model and no version gets an answer."""
        return self.usual(name) is not None

    @property
    def default(self) -> str:
        """Name of the default model; empty: there is none yet."""
        return self._default or next(iter(self._models), "")

    def resolve(self, selector: ModelSelector) -> LoadedModel:
        """The model that a request means.

        Raises:
            ModelNotFoundError: expected; no such name or version.
            FailedPreconditionError: expected; what an alias names is not loaded, and nothing loads it.
            UnavailableError: expected; nothing is loaded yet.
        """
        if not self._models and not self._others:
            raise _loading()
        name = self.name(selector.name)
        versions = self._models.get(name)
        if versions is None:
            raise self._not_loaded(name, selector.name)
        version = self._aliases.get(name, {}).get(selector.version, selector.version)
        # A version may be called like an alias of another one.
        model = versions.get(selector.version) or versions.get(version)
        if model is None and selector.version in {"", LATEST}:
            model = self.usual(name) if not selector.version else versions[next(reversed(versions))]
        if model is not None:
            return model
        alias = selector.version or STABLE
        if (meant := self._aliases.get(name, {}).get(alias)) is not None:
            raise self._alias_not_loaded(name, alias, meant)
        raise ModelNotFoundError(
            Reason.MODEL_NOT_FOUND,
            f"Model {name} has no version {shown(selector.version)}. Loaded: {', '.join(versions)}.",
            field=Field.VERSION,
        )

    def name(self, name: str) -> str:
        """The model's own name, where it is asked for by another one or by none."""
        if name and name not in self._models:
            name = self._names.get(name, name)
        return name or self.default

    def usual(self, name: str) -> LoadedModel | None:
        """The version that is meant where none is named; None: it is not loaded."""
        versions = self._models.get(name)
        if not versions:
            return None
        stable = self._aliases.get(name, {}).get(STABLE)
        # Where that cannot answer, a newer one that nobody has called stable must not answer in its place.
        return versions[next(reversed(versions))] if stable is None else versions.get(stable)

    def _not_loaded(self, name: str, asked: str) -> ModelNotFoundError | UnavailableError:
        states = {each.state for each in self._others.values() if each.name == name}
        if states & _COMING:
            return _loading()
        known = f"Loaded: {', '.join(self._models)}." if self._models else "None is loaded."
        return ModelNotFoundError(
            Reason.MODEL_NOT_FOUND, f"No model {shown(asked or name)} is loaded. {known}", field=Field.MODEL
        )

    def _alias_not_loaded(self, name: str, alias: str, version: str) -> ServiceError:
        """What is told of a version that does not answer, to who asks for it by its alias, or for none of them."""
        status = self._others.get((name, version))
        if status is not None and status.state in _COMING:
            return _loading()
        failed = status is not None and status.state is ModelState.FAILED
        # Without the reason, which may name paths: it is for those who manage models.
        why = f"could not be loaded. {WHERE_WHY}" if failed else "is not loaded."
        return FailedPreconditionError(
            Reason.MODEL_NOT_LOADED, f"Model {name} {version}, which is {alias}, {why}", field=Field.VERSION
        )

    def _reason(self, name: str, version: str) -> str:
        """Why a version that answers could not be loaded again, with other files; empty: nobody has tried."""
        other = self._others.get((name, version))
        return "" if other is None or other.state is not ModelState.FAILED else other.reason

    def _answering(self, model: LoadedModel) -> ModelStatus:
        name, version = model.identity.name, model.identity.version
        state = ModelState.SLEEPING if model.asleep else ModelState.READY
        reason = self._reason(name, version) or ("" if model.sleep is None else model.sleep.trouble)
        return ModelStatus(name, version, state, reason, model=model)

    def _aliases_of(self, name: str, version: str) -> tuple[str, ...]:
        ours = [alias for alias, of in self._aliases.get(name, {}).items() if of == version]
        newest = next(reversed(self._models.get(name, {})), None)
        return tuple(sorted([*ours, LATEST] if newest == version else ours))

    def _changed(self) -> None:
        answering = [model for versions in self._models.values() for model in versions.values()]
        self._all = (*answering, *self._retiring)
        self._statuses = self._own_statuses() if self._told is None else self._told
        self._watcher()

    def _own_statuses(self) -> tuple[ModelStatus, ...]:
        found = {
            (name, version): self._answering(model)
            for name, versions in self._models.items()
            for version, model in versions.items()
        }
        for status in self._others.values():
            found.setdefault((status.name, status.version), status)
        for model in self._retiring:
            key = model.identity.name, model.identity.version
            if key not in found or found[key].state is ModelState.UNLOADED:
                found[key] = ModelStatus(*key, ModelState.RETIRING)
        named = (replace(each, aliases=self._aliases_of(each.name, each.version)) for each in found.values())
        return tuple(sorted(named, key=lambda each: (each.name, by_number(each.version))))


def by_number(version: str) -> tuple[int, str]:
    """What versions are sorted by, the oldest first: those that are numbers by their number."""
    return int(version) if version.isdecimal() and len(version) <= _DIGITS else -1, version


def _loading() -> UnavailableError:
    return UnavailableError(
        Reason.NOT_READY, "The model is still loading. Try again later.", retry_after=_LOADING_SECONDS
    )
