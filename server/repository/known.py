"""What is known of a repository's models, and which of their versions are to answer. Nothing is loaded here."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from glimpse.server.loaded_model import LoadedModel
from glimpse.server.registry import STABLE, by_number
from glimpse.server.repository.scan import FoundModel, FoundVersion, Stamp

# Files are complete where nothing of them has changed for so long, or where two looks a while apart find the same.
_OLD_SECONDS = 10.0
_GONE = 2  # looks in a row that do not find a version, until it counts as removed


@dataclass(slots=True)
class KnownVersion:
    """One version, as far as it is known."""

    name: str
    version: str
    found: FoundVersion
    model: FoundModel
    loaded: LoadedModel | None = None
    stamp: Stamp | None = None  # of what is loaded, or could not be
    failed: str = ""  # why that could not be loaded
    asked: bool | None = None  # True: to be loaded, False: not to be, whatever its number; None: nobody has said
    seen: tuple[Stamp, float] = ((), 0.0)  # the files as they were found first, and when
    missed: int = 0  # looks in a row that have not found it

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.name, self.version

    @property
    def problem(self) -> str:
        """Why it cannot be loaded as it lies there."""
        return self.model.problem or self.found.problem


@dataclass(slots=True)
class KnownModel:
    """What is known of a name."""

    found: FoundModel
    aliases: dict[str, str] = field(default_factory=dict)  # as they are to be
    in_force: dict[str, str] = field(default_factory=dict)  # as callers are answered; see `Known.put_in_force`
    read: dict[str, str] | None = None  # as they were read last; None: not yet


class Known:
    """All models and versions that looks at a repository have found. Lives on the event loop."""

    def __init__(
        self, still_seconds: float, rolled_out: Callable[[str], Collection[str]] = lambda _: frozenset[str]()
    ) -> None:
        """None yet.

        Args:
            still_seconds: files are complete where two looks so far apart find the same.
            rolled_out: the versions of a model that get a share of its requests, by its name.
        """
        self.still_seconds, self._rolled_out = still_seconds, rolled_out
        self.versions: dict[tuple[str, str], KnownVersion] = {}
        self.models: dict[str, KnownModel] = {}
        self._there: set[str] = set()  # models that the last look has found

    def take(self, found: Mapping[str, FoundModel]) -> None:
        """Take what a look has found."""
        self._there = set(found)
        seen = set()
        for name, model in found.items():
            known = self.models.setdefault(name, KnownModel(model))
            if model.problem:  # what cannot be read stays as it was
                model = replace(model, file=known.found.file, aliases=known.read or {})  # noqa: PLW2901
            known.found = model
            if known.read != model.aliases:  # somebody has written them
                known.read, known.aliases = dict(model.aliases), dict(model.aliases)
            for version in model.versions:
                seen.add((name, version.version))
                self._see(model, version)
        for key in self.versions.keys() - seen:
            if key[0] not in found or not found[key[0]].problem:
                self.versions[key].missed += 1

    def of(self, name: str) -> list[KnownVersion]:
        """All versions of a model, the oldest first."""
        return sorted((each for each in self.versions.values() if each.name == name), key=_number)

    def _see(self, model: FoundModel, version: FoundVersion) -> None:
        key = model.name, version.version
        entry = self.versions.get(key)
        if entry is None:
            entry = self.versions[key] = KnownVersion(*key, version, model)
        entry.found, entry.model, entry.missed = version, model, 0
        if entry.seen[0] != version.stamp:
            entry.seen = version.stamp, time.monotonic()
            if entry.asked is False and entry.stamp not in {None, version.stamp}:
                entry.asked = None  # other files than those that were unloaded

    def default(self) -> str | None:
        """The model that says that it is the default one; else the first by name of those that answer, or of all."""
        names = sorted(self.models)
        answering = {each.name for each in self.versions.values() if each.loaded is not None}
        chosen = [name for name in names if self.models[name].found.file.default]
        return next(iter([*chosen, *(name for name in names if name in answering), *names]), None)

    def put_in_force(self, name: str, usual: str) -> dict[str, str]:
        """The aliases of a model by which callers are answered, from now on: alias -> version.

        An alias keeps the version that it had for as long as the one that it is to name is not ready. One that becomes
        `stable` where nothing was has its place taken by `usual` for so long.

        `usual`: the version that answers requests which name none; empty: there is none.
        """
        model = self.models[name]
        before = {STABLE: usual, **model.in_force}
        model.in_force = {
            alias: former if not self._answers(name, version) and self._answers(name, former) else version
            for alias, version in model.aliases.items()
            for former in (before.get(alias, ""),)
        }
        return model.in_force

    def _answers(self, name: str, version: str) -> bool:
        entry = self.versions.get((name, version))
        return entry is not None and entry.loaded is not None and entry.asked is not False

    def still(self, entry: KnownVersion) -> bool:
        """Whether the files of a version are complete, as far as can be told."""
        if entry.found.incomplete:
            return False
        if entry.found.path is None:
            return True
        return (
            time.monotonic() - entry.seen[1] >= self.still_seconds or time.time() - entry.found.changed >= _OLD_SECONDS
        )

    def waits(self, entry: KnownVersion) -> bool:
        """Whether a version is to be looked at again soon."""
        return not (entry.problem or entry.missed or entry.asked is False or entry.stamp == entry.found.stamp) and (
            not self.still(entry)
        )

    def wanted(self, name: str) -> set[str]:
        """The versions of a model that are to answer, of those that can be loaded or are."""
        asked = {each.version for each in self.of(name) if each.asked and self._usable(each)}
        return {*self.newest(name), *asked, *self.aliased(name)}

    def newest(self, name: str) -> list[str]:
        """Those that are to answer because they are the newest."""
        usable = [each.version for each in self.of(name) if each.asked is not False and self._usable(each)]
        return usable[-self.models[name].found.file.keep :]

    def aliased(self, name: str) -> set[str]:
        """The versions that aliases of a model name, or that get a share, but for those that are unloaded."""
        return {
            version
            for version in (*self.models[name].aliases.values(), *self._rolled_out(name))
            if (each := self.versions.get((name, version))) is None or each.asked is not False
        }

    def _usable(self, entry: KnownVersion) -> bool:
        if entry.loaded is not None:
            return entry.missed < _GONE
        tried = entry.failed and entry.stamp == entry.found.stamp
        return not (entry.problem or tried or entry.missed or entry.asked is False) and self.still(entry)

    def loadable(self, entry: KnownVersion) -> bool:
        """Whether a version is to be loaded that is wanted: it is not, or its files have changed since."""
        if entry.problem or entry.missed or entry.asked is False or not self.still(entry):
            return False
        return entry.stamp != entry.found.stamp or (entry.loaded is None and not entry.failed)

    def newer(self, name: str, version: str) -> list[str]:
        """The versions of a model that are newer than one."""
        return [each.version for each in self.of(name) if by_number(each.version) > by_number(version)]

    def superseded(self) -> list[KnownVersion]:
        """Those that answer no more: others have taken their place, they are unloaded, or they have been removed."""
        return [each for name, model in self.models.items() for each in self._superseded(name, model)]

    def _superseded(self, name: str, model: KnownModel) -> list[KnownVersion]:
        there = [each for each in self.of(name) if each.missed < _GONE]
        ready = [each for each in there if each.loaded is not None and each.asked is not False]
        newest = {each.version for each in ready[-model.found.file.keep :]}
        # What an alias names goes on, although its folder is gone, as long as there is anything of the model.
        aliased = self.aliased(name) if there else set()
        in_force = {version for version in model.in_force.values() if there and self._answers(name, version)}
        kept = newest | aliased | in_force | {each.version for each in ready if each.asked}
        # Until another one can take its place, the last that answers goes on, unless all of the model is to go.
        comes = any(self.loadable(each) for each in there if each.version in self.wanted(name))
        return [
            each
            for each in self.of(name)
            if each.version not in kept and (ready or not there or (each.asked is False and not comes))
        ]

    def drop_gone(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Forget what has been removed and answers no more: keys of versions, and names of models."""
        versions = [key for key, each in self.versions.items() if each.missed >= _GONE and each.loaded is None]
        for key in versions:
            del self.versions[key]
        names = [name for name in self.models if name not in self._there and not self.of(name)]
        for name in names:
            del self.models[name]
        return versions, names


def _number(entry: KnownVersion) -> tuple[int, str]:
    return by_number(entry.version)
