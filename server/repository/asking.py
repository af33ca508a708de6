"""A version that somebody asks for: found by its number or alias, and waited for until it is ready."""

from __future__ import annotations

import asyncio

from glimpse.server.errors import FailedPreconditionError, ModelNotFoundError, Reason, draining, shown
from glimpse.server.fields import Field
from glimpse.server.registry import LATEST, ModelRegistry, ModelState, ModelStatus
from glimpse.server.repository.known import Known, KnownVersion
from glimpse.server.repository.lifecycle import Lifecycle
from glimpse.server.repository.looking import Looking

_AGAIN_SECONDS = 0.2  # until the next look for a version that is waited for, and that the last one has not loaded


class Asking:
    """Finds and waits. Lives on the event loop."""

    def __init__(self, known: Known, registry: ModelRegistry, lives: Lifecycle, looking: Looking) -> None:
        """Have the repository looked at where what is asked for is not known, or not loaded."""
        self._known, self._registry, self._lives, self._looking = known, registry, lives, looking

    async def find(self, name: str, version: str) -> KnownVersion:
        """A version by its number or alias, as it lies in the repository now.

        Raises:
            ModelNotFoundError: expected; there is none.
        """
        name = self._registry.name(name)
        aliased = self._known.models[name].aliases.get(version, version) if name in self._known.models else version
        if (name, aliased) not in self._known.versions:
            await self._looking.now()
        ours = self._known.of(name)
        if aliased in {"", LATEST}:
            usable = [each for each in ours if not each.problem] or ours
            if usable:
                return usable[-1]
        for each in ours:
            if each.version == aliased:
                return each
        known = sorted(self._known.models) if name not in self._known.models else [each.version for each in ours]
        raise not_found(name, version if name in self._known.models else "", known)

    async def until_ready(self, entry: KnownVersion) -> ModelStatus:
        """Wait until a version is ready.

        Raises:
            FailedPreconditionError: expected; it cannot be.
        """
        if entry.failed:  # once more, though nothing has changed
            entry.stamp, entry.failed = None, ""
            await self._looking.now()
        elif entry.loaded is None:
            entry.stamp = None
        while True:
            if entry.loaded is not None and not (entry.problem or entry.failed):
                return ModelStatus(entry.name, entry.version, ModelState.READY, model=entry.loaded)
            self._check_awaited(entry)
            if not self._known.still(entry):
                await asyncio.sleep(self._known.still_seconds)
            await self._looking.now()
            if entry.loaded is None and not entry.failed:
                await asyncio.sleep(_AGAIN_SECONDS)

    def _check_awaited(self, entry: KnownVersion) -> None:
        """Raise where it makes no sense to wait for a version any longer."""
        if why := entry.problem or entry.failed:
            raise FailedPreconditionError(
                Reason.MODEL_NOT_LOADED, f"{entry.name} {entry.version} cannot be loaded: {why}"
            )
        if self._lives.stop.is_set():
            raise draining()
        if self._known.versions.get(entry.key) is not entry:
            raise not_found(entry.name, entry.version, [])
        if entry.asked is False:
            raise FailedPreconditionError(
                Reason.MODEL_NOT_LOADED, f"{entry.name} {entry.version} has been unloaded meanwhile."
            )


def not_found(name: str, version: str, known: list[str]) -> ModelNotFoundError:
    """What is told to who asks for what is not in the repository; `known` is what there is of that kind."""
    what = f"There is no model {shown(name)}" if not version else f"Model {name} has no version {shown(version)}"
    there = f" There are: {', '.join(known)}." if known else ""
    field = Field.VERSION if version else Field.MODEL
    return ModelNotFoundError(Reason.MODEL_NOT_FOUND, f"{what} in the repository.{there}", field=field)
