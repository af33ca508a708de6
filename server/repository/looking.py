"""Looks at a repository again and again, and has done what follows from what lies there.

Models are loaded one after the other, beside those that serve: at no time is there more than one that is not ready yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from glimpse.server.processes.startup import ModelLoadError
from glimpse.server.registry import ModelRegistry, by_number
from glimpse.server.repository.known import Known, KnownVersion
from glimpse.server.repository.lifecycle import Lifecycle
from glimpse.server.repository.rolling import Rolling
from glimpse.server.repository.scan import FoundModel, scan

_log = structlog.get_logger(__name__)


class Looking:
    """Keeps what answers and what lies in a repository alike. Lives on the event loop."""

    def __init__(
        self,
        root: Path,
        known: Known,
        registry: ModelRegistry,
        lives: Lifecycle,
        rolling: Rolling,
        *,
        poll: float,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        """Nothing has been looked at yet.

        Args:
            root: the folder, or the TOML file.
            known: is told what lies there.
            registry: of the models that answer.
            lives: loads and retires what is known.
            rolling: reads the files of canaries and shadows.
            poll: seconds between two looks; 0: only when told to.
            changed: awaited when a model has begun or ceased to be ready.
        """
        self.reading = asyncio.Lock()  # held while the repository is read, or aliases are written
        self.wake = asyncio.Event()  # has it looked at soon
        self._root, self._known, self._registry, self._lives, self._rolling = root, known, registry, lives, rolling
        self._poll, self._changed = poll, changed
        self._busy = asyncio.Lock()  # held by a look, and all that it loads
        self._told: dict[str, bool] = {}  # models by name, and whether they answer, as of the last look
        self._looks: set[asyncio.Task[bool]] = set()
        self._trouble = ""  # why the repository cannot be read

    async def start(self, stop: asyncio.Event) -> bool:
        """Load what is there; False when told to stop meanwhile. A version that fails does not end it.

        Raises:
            ModelLoadError: expected; the repository cannot be read.
        """
        self._lives.stop = stop
        if await self._look(first=True):  # something was copied a moment ago
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._known.still_seconds)
            await self._look(first=True)
        if stop.is_set():
            return False
        self._lives.began = True
        if not self._known.models:
            _log.warning("no models", detail=f"There is none in {self._root} yet. It is looked at again and again.")
        for name in sorted(self._lives.needed):
            if not self._registry.ready(name):
                _log.error("not ready", detail=f"The required model {name} is not ready, so that the server is not.")
        await self._changed()
        return True

    async def run(self) -> None:
        """Look again and again, for as long as the server lives."""
        unsettled = False
        while not self._lives.stop.is_set():
            seconds = self._known.still_seconds if unsettled else self._poll or None
            waits = [asyncio.create_task(each.wait()) for each in (self.wake, self._lives.stop)]
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for each in waits:
                each.cancel()
            self.wake.clear()
            if not self._lives.stop.is_set():
                unsettled = await self._look()

    def soon(self, *, again: bool = True) -> None:
        """Have the repository looked at now. `again`: also try what has failed before."""
        if again:
            for each in self._known.versions.values():
                if each.failed:
                    each.stamp, each.failed = None, ""
        self.wake.set()

    async def now(self) -> None:
        """Have the repository looked at, and wait until all has been done that this leads to."""
        # What it has begun goes on where the caller leaves.
        looking = asyncio.create_task(self._look())
        self._looks.add(looking)
        looking.add_done_callback(self._looks.discard)
        await asyncio.shield(looking)

    async def _look(self, *, first: bool = False) -> bool:
        """Look at the repository, and do what follows; whether some files may not be complete yet."""
        async with self._busy:
            async with self.reading:
                await self._scan()
            if first:
                found = [model.found for model in self._known.models.values()]
                self._lives.needed = {each.name for each in found if each.file.required and not each.stray}
            self._lives.tell()
            while not self._lives.stop.is_set() and (entry := self._next()) is not None:
                await self._lives.load(entry)
            for name in self._known.models:
                self._lives.put_in_force(name)
            self._registry.set_default(self._known.default())
            await self._rolling.settle()
            self._lives.retire_what_is_not_wanted()
            self._rolling.keep(self._known.versions.keys())
            self._lives.tell()
            if self._lives.names() != self._told:
                self._told = self._lives.names()
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
            if not self._lives.began and not self._known.models:
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
        await self._rolling.look({name: each.found.folder for name, each in self._known.models.items()})
        for name in self._known.models:
            self._lives.put_in_force(name)
        self._registry.set_default(self._known.default())

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
