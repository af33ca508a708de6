"""What begins, changes and ends the canaries and shadows of a repository: its files, and commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from glimpse.server.errors import FailedPreconditionError, InvalidRequestError, Reason, ServiceError
from glimpse.server.fields import Field
from glimpse.server.registry import STABLE, ModelRegistry, ModelStatus
from glimpse.server.repository import rollout_file
from glimpse.server.repository.rollout import SHADOW_AGREEMENT, Kind, Rollout, RolloutReport, Rollouts, Terms
from glimpse.server.repository.rollout_file import Kept

_log = structlog.get_logger(__name__)


class Versions(Protocol):
    """What is needed of a repository: see `Repository`."""

    def held(self, name: str, version: str) -> AbstractAsyncContextManager[ModelStatus]:
        """Have a version loaded and ready meanwhile."""

    async def set_alias(self, name: str, alias: str, version: str) -> bool:
        """Give a version another name."""

    def aliases(self, name: str) -> Mapping[str, str]:
        """The aliases of a model, as they are to be."""

    async def check(self, name: str) -> None:
        """Refuse a model that is not there."""


class Rolling:
    """Keeps the rollouts of a process and the files of its repository alike. Lives on the event loop."""

    def __init__(self, rollouts: Rollouts, registry: ModelRegistry) -> None:
        """Nothing is read yet."""
        self._rollouts, self._registry = rollouts, registry
        self._folders: dict[str, Path] = {}
        self._read: dict[str, Kept] = {}
        self._previous: dict[str, str] = {}
        self._trouble: dict[str, str] = {}
        self._busy = asyncio.Lock()
        self._writing: set[asyncio.Task[bool]] = set()
        self.ended: Callable[[], object] = lambda: None  # called when a version may be wanted no more
        rollouts.rolled_back = self._rolled_back

    async def look(self, folders: Mapping[str, Path | None]) -> None:
        """Read the files of all models, by name, and do what they say where it has changed."""
        async with self._busy:
            self._folders = {name: folder for name, folder in folders.items() if folder is not None}
            for name, folder in self._folders.items():
                try:
                    found = await asyncio.to_thread(rollout_file.read, folder)
                except ValueError as error:
                    if self._trouble.get(name) != str(error):
                        _log.error("rollout cannot be read", model=name, detail=f"{error} All goes on as it was.")
                    self._trouble[name] = str(error)
                    continue
                self._trouble.pop(name, None)
                if found != self._read.get(name, Kept()):
                    self._take(name, found)
                self._read[name] = found
            for each in list(self._rollouts):
                if each.name not in folders:
                    self._rollouts.remove(each.name, each.kind)

    def _take(self, name: str, found: Kept) -> None:
        self._previous[name] = found.previous
        for kind in Kind:
            terms = found.rollouts.get(kind)
            if terms is None:
                self._rollouts.remove(name, kind)
            else:
                self._rollouts.put(name, kind, _complete(kind, terms), self._usual(name))

    async def settle(self) -> None:
        """End what has come to its end, because its version answers all requests by now."""
        for each in list(self._rollouts):
            usual = self._usual(each.name)
            if not usual:
                continue
            if usual == each.terms.version:
                self._rollouts.remove(each.name, each.kind)
                await self._keep(each.name)
            elif usual != each.reference:
                self._rollouts.put(each.name, each.kind, each.terms, usual)

    def keep(self, versions: Collection[tuple[str, str]]) -> None:
        """Forget what was counted of versions that are gone: all but these, each (model, version)."""
        self._rollouts.keep(versions)

    def reports(self) -> tuple[RolloutReport, ...]:
        """All canaries and shadows as they are now."""
        return tuple(each.report() for each in self._rollouts)

    def running(self, name: str, kind: Kind) -> Rollout | None:
        """The canary or shadow of a model that gets anything."""
        found = self._rollouts.of(name, kind)
        return found if found is not None and found.running else None

    def previous(self, name: str) -> str:
        """The version that was stable before; empty: it is not known."""
        return self._previous.get(name, "")

    async def put(self, name: str, kind: Kind, terms: Terms | None) -> bool:
        """Begin one, change its terms, or end it (None); whether it is kept in the repository."""
        if terms is None:
            self._rollouts.remove(name, kind)
            self.ended()
        else:
            self._rollouts.put(name, kind, _complete(kind, terms), self._usual(name))
        return await self._keep(name)

    async def end(self, rollout: Rollout, why: str) -> bool:
        """Roll a canary back because somebody says so; whether that is kept in the repository."""
        self._rollouts.roll_back(rollout, "command", why)
        return await self._keep(rollout.name)

    async def promoted(self, name: str, before: str) -> None:
        """Another version than before is stable."""
        self._previous[name] = before
        await self.settle()
        await self._keep(name)

    def _rolled_back(self, name: str) -> None:
        self.ended()
        task = asyncio.get_running_loop().create_task(self._keep(name), name="keeping a roll-back")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _keep(self, name: str) -> bool:
        """Write what there is of a model where it outlives the server, if that can be."""
        async with self._busy:
            folder = self._folders.get(name)
            if folder is None:
                return False
            ours = {each.kind: each.terms for each in self._rollouts if each.name == name}
            kept = Kept(ours, self._previous.get(name, ""))
            if kept == self._read.get(name, Kept()):
                return True
            try:
                await asyncio.to_thread(rollout_file.write, folder, kept)
            except OSError as error:
                _log.warning("rollout not kept", model=name, detail=f"{folder}: {error.strerror or error}")
                return False
            self._read[name] = kept
            return True

    def _usual(self, name: str) -> str:
        usual = self._registry.usual(name)
        return "" if usual is None else usual.identity.version


class RolloutCommands:
    """What those who may manage models can do with canaries and shadows. Lives on the event loop."""

    def __init__(self, repository: Versions, rolling: Rolling, registry: ModelRegistry) -> None:
        """Load and name the versions of `repository`."""
        self._repository, self._rolling, self._registry = repository, rolling, registry

    async def rollouts(self) -> tuple[RolloutReport, ...]:
        """All canaries and shadows, by name of the model."""
        return self._rolling.reports()

    async def set_rollout(self, name: str, kind: Kind, terms: Terms) -> bool:
        """Let a version have a share of the requests that name none, once it is ready; or none any more.

        The version that has answered them becomes `stable`, unless one is.

        Returns:
            Whether it was written to the repository, and so outlives the server.

        Raises:
            ModelNotFoundError: expected; there is no such model or version.
            FailedPreconditionError: expected; it cannot be loaded, or answers all of these requests already.
            InvalidRequestError: expected; INVALID_PARAMETER: a term is none of this kind.
        """
        name = self._registry.name(name)
        if kind is Kind.SHADOW and terms.max_error_rate is not None:
            raise InvalidRequestError(
                Reason.INVALID_PARAMETER,
                "A shadow has no max_error_rate: nobody gets its errors, so it is not rolled back. Leave it out.",
                field="terms.max_error_rate",
            )
        await self._repository.check(name)
        if not terms.share:
            return await self._rolling.put(name, kind, None)
        usual, pinned = self._registry.usual(name), ""
        if usual is not None and STABLE not in self._repository.aliases(name):
            version = usual.identity.version
            if version != self._repository.aliases(name).get(terms.version, terms.version):
                await self._repository.set_alias(name, STABLE, version)
                pinned = version
        try:
            async with self._repository.held(name, terms.version) as status:
                self._check_new(name, status.version)
                return await self._rolling.put(name, kind, replace(terms, version=status.version))
        except ServiceError:
            # Nothing begins, and so newer versions take the place of the usual one as before.
            if pinned and self._repository.aliases(name).get(STABLE) == pinned:
                await self._repository.set_alias(name, STABLE, "")
            raise

    def _check_new(self, name: str, version: str) -> None:
        """Refuse a version that answers all requests already.

        Raises:
            FailedPreconditionError: expected; it does.
        """
        usual = self._registry.usual(name)
        if usual is not None and usual.identity.version == version:
            raise FailedPreconditionError(
                Reason.MODEL_NOT_LOADED,
                f"{name} {version} answers all requests that name no version already. Make the version that is "
                f"to answer them {STABLE} first: glimpse models promote {name} VERSION.",
                field=Field.VERSION,
            )

    async def set_alias(self, name: str, alias: str, version: str) -> bool:
        """Give a version another name, see `Repository.set_alias`. `stable` ends its canary and its shadow."""
        name = self._registry.name(name)
        before = self._registry.usual(name)
        kept = await self._repository.set_alias(name, alias, version)
        if alias != STABLE or not version:
            return kept
        after = self._registry.usual(name)
        if before is not None and after is not None and before.identity.version != after.identity.version:
            await self._rolling.promoted(name, before.identity.version)
        return kept

    async def roll_back(self, name: str) -> tuple[str, bool]:
        """End the canary of a model; where there is none, make the version stable again that was it before.

        Returns:
            The version that answers requests which name none, and whether that outlives the server.

        Raises:
            ModelNotFoundError: expected; there is no such model.
            FailedPreconditionError: expected; there is nothing to roll back.
        """
        name = self._registry.name(name)
        await self._repository.check(name)
        canary = self._rolling.running(name, Kind.CANARY)
        if canary is not None:
            kept = await self._rolling.end(canary, "By command.")
            return canary.reference, kept
        previous = self._rolling.previous(name)
        if not previous:
            raise FailedPreconditionError(
                Reason.MODEL_NOT_LOADED,
                f"{name} has no canary, and no version of it was {STABLE} before. Name the version that is to answer: "
                f"glimpse models promote {name} VERSION.",
                field=Field.MODEL,
            )
        kept = await self._repository.set_alias(name, STABLE, previous)
        await self._rolling.promoted(name, "")
        return previous, kept


def _complete(kind: Kind, terms: Terms) -> Terms:
    """A shadow is always compared."""
    if kind is Kind.SHADOW and terms.min_agreement is None:
        return replace(terms, min_agreement=SHADOW_AGREEMENT)
    return terms
