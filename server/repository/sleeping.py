"""Models that sleep while others need their memory: which of them, when, and how they wake.

A model that sleeps has given back its runtime, its weights and its threads; what is known of it stays, and it is loaded
again for the first request. Asleep fall those that nobody uses, the least recently asked for first: where memory is
needed to load or wake another one, and after a time without a request where `model.toml` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import structlog

from glimpse.server.batching.sleep_queue import SleepQueue
from glimpse.server.domain import ModelIdentity
from glimpse.server.errors import FailedPreconditionError, OverloadedError, Reason, draining
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.processes.startup import MemoryShortError, StartupError
from glimpse.server.registry import WHERE_WHY, ModelRegistry, ModelState
from glimpse.server.repository.audience import Audience
from glimpse.server.repository.hanging import Hanging
from glimpse.server.repository.model_file import ModelFile
from glimpse.server.repository.model_sleep import ModelSleep
from glimpse.server.repository.sleep_memory import SleepMemory
from glimpse.server.repository.watched_load import load_watched
from glimpse.server.runtime.memory_budget import mib

_log = structlog.get_logger(__name__)

_EVERY = 1.0  # seconds between two looks for models that nobody asks for
_CLOSING_SECONDS, _TRIES = 1.0, 10  # of each wait for the threads of a model that falls asleep
_AGAIN_SECONDS = 5.0  # after a model could not be woken, until that is tried again; and to a caller's next try
_PATIENCE, _MOMENT = 2.0, 0.01  # seconds to wait for a model in use to be idle, looking every moment


class _NoRoomError(Exception):
    """Expected: there is no memory, and nothing that could be put to sleep. The message says what there is."""


class Loading:
    """The memory of a model that is being loaded: expected at first, and measured in the end."""

    def __init__(self, sleepers: Sleepers) -> None:
        """Nothing is known yet."""
        self.takes = 0
        self._sleepers = sleepers
        self._before: tuple[int | None, int] = None, 0
        self._loop = asyncio.get_running_loop()

    def room(self, takes: int) -> None:
        """Wait for so many bytes to be free; called in the thread that loads.

        Raises:
            MemoryShortError: expected; they are not to be had.
        """
        asyncio.run_coroutine_threadsafe(self._make_room(takes), self._loop).result()
        self._before = self._sleepers.memory.measured()

    async def _make_room(self, takes: int) -> None:
        async with self._sleepers.changing:
            try:
                await self._sleepers.make_room(takes)
            except _NoRoomError as error:
                raise MemoryShortError(
                    f"Loading the model takes about {mib(takes)} of memory, but {error} Allow more memory with "
                    "GLIMPSE_MODELS_MEMORY_BYTES, or let other models sleep with required = false in model.toml."
                ) from error
            self.takes = takes

    async def done(self, model: LoadedModel, file: Callable[[], ModelFile]) -> LoadedModel:
        """The same model, which may be put to sleep from now on; `file` says whether and when."""
        queue = model.batcher
        if not isinstance(queue, SleepQueue):
            return model
        takes = await asyncio.to_thread(self._sleepers.memory.grown, self._before, self.takes)
        first, alone = self._sleepers.first.get(model.runtime), model.runtime not in self._sleepers.first
        if alone:  # what was measured holds the runtime's libraries, too
            takes = min(takes, self.takes)
        sleep = ModelSleep(queue, takes, file, clock=self._sleepers.clock, wake=self._sleepers.wake)
        sleep.expected = self.takes
        if alone:
            self._sleepers.first[model.runtime] = sleep
        elif first is not None and first.takes == first.expected and sleep.expected:
            # Until it is measured itself: as much more than expected as this one.
            first.takes = int(first.expected * takes / sleep.expected)
        found = replace(model, sleep=sleep)
        self._sleepers.models[sleep] = found
        self.takes = 0
        await self._sleepers.fit(sleep)
        return found


class Sleepers:
    """All models of a repository that may sleep. Lives on the event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        memory: SleepMemory,
        stop: Callable[[], asyncio.Event],
        *,
        step_seconds: float,
        changed: Callable[[], Awaitable[None]],
        freed: Callable[[], Awaitable[None]],
        woken: Callable[[ModelIdentity, str], object] = lambda _model, _outcome: None,
        clock: Callable[[], float] = time.monotonic,
        audience: Audience,
        hanging: Hanging,
    ) -> None:
        """None yet.

        Args:
            registry: is told when models fall asleep and wake.
            memory: that the models which are awake may take together.
            stop: says by which event the server is told to stop.
            step_seconds: that one step of waking a model may take, until it is given up.
            changed: awaited when a model has been woken, or could not be.
            freed: awaited when a model has let go of its memory, to give it back to the system.
            woken: told of each attempt to wake a model: `woken`, `refused` for want of memory, or `failed`.
            clock: seconds, monotonic.
            audience: other processes that answer with these models, and have to do without those that sleep.
            hanging: is given what hangs when it is to be put to sleep.
        """
        self.clock, self.memory = clock, memory
        self.models: dict[ModelSleep, LoadedModel] = {}
        self.changing = asyncio.Lock()  # held by whoever puts models to sleep or wakes one: they follow one another
        # By runtime: the model that was loaded with its libraries; None: it is gone.
        self.first: dict[str, ModelSleep | None] = {}
        self._registry, self._stop, self._step_seconds = registry, stop, step_seconds
        self._changed, self._freed, self._woken = changed, freed, woken
        self._audience, self._hanging = audience, hanging
        self._loading: set[Loading] = set()

    @contextlib.contextmanager
    def loading(self) -> Iterator[Loading]:
        """Of a model that is being loaded."""
        loading = Loading(self)
        self._loading.add(loading)
        try:
            yield loading
        finally:
            self._loading.discard(loading)
            self.memory.changed()

    def forget(self, model: LoadedModel) -> None:
        """A model has been closed."""
        self.memory.changed()
        for sleep in [sleep for sleep, each in self.models.items() if each is model]:
            del self.models[sleep]
            if self.first.get(model.runtime) is sleep:
                self.first[model.runtime] = None  # else what it holds would not be free

    def taken(self) -> Iterator[tuple[LoadedModel, int]]:
        """The bytes that each model takes that is awake."""
        return ((model, sleep.takes) for sleep, model in list(self.models.items()) if not sleep.asleep)

    def broken(self, name: str) -> bool:
        """Whether the usual version of a model sleeps and could not be woken."""
        model = self._registry.usual(name)
        return model is not None and model.sleep is not None and bool(model.sleep.trouble)

    async def run(self) -> None:
        """Put to sleep what nobody asks for, for as long as the server lives."""
        while True:
            await asyncio.sleep(_EVERY)
            await self.look()

    async def look(self) -> None:
        """Put to sleep what nobody has asked for in the time that its `model.toml` says."""
        for sleep in list(self.models):
            sleep.used = self._last_use(sleep)
        while (due := next(iter(self._due()), None)) is not None:
            async with self.changing:
                if due in self._due() and not await self._put_to_sleep(due):  # still, and in use after all
                    break

    def _due(self) -> list[ModelSleep]:
        return [
            sleep
            for sleep in self._idle()
            if (after := sleep.file().sleep_after) is not None and self.clock() - self._last_use(sleep) >= after
        ]

    def _last_use(self, sleep: ModelSleep) -> float:
        """When somebody used a model last, here or in another process."""
        return max(sleep.used, self.clock() - self._audience.idle_seconds(self.models[sleep]))

    async def make_room(self, takes: int) -> None:
        """Put models to sleep until so many bytes are free; with `changing` held.

        Raises:
            _NoRoomError: expected; what there is does not suffice.
        """
        in_use = set[ModelSleep]()
        while (lacks := self.memory.lacks(self._taken(), takes)) is not None:
            idle = [each for each in self._idle() if each not in in_use]
            # Where all of them are not enough, none is to sleep in vain.
            limit, kept = self.memory.limit, self._taken() - sum(each.takes for each in idle)
            if not idle or (limit and kept + takes > limit):
                raise _NoRoomError(
                    f"{lacks}, and the models that nobody uses now do not suffice: the others are needed, or in use."
                )
            least = min(idle, key=self._last_use)
            if not await self._put_to_sleep(least):
                in_use.add(least)

    async def fit(self, newest: ModelSleep) -> None:
        """Put others to sleep where a model takes more than was expected."""
        kept = {newest}
        async with self.changing:
            while self.memory.limit and sum(size for _, size in self.taken()) > self.memory.limit:
                others = [each for each in self._idle() if each not in kept]
                if not others:
                    _log.warning("models take more memory than they may", bytes=self.memory.limit)
                    return
                least = min(others, key=self._last_use)
                if not await self._put_to_sleep(least):
                    kept.add(least)

    def _taken(self) -> int:
        """Bytes that the models take which are awake or are being loaded."""
        return sum(size for _, size in self.taken()) + sum(each.takes for each in self._loading)

    def _idle(self) -> list[ModelSleep]:
        """The models that may be put to sleep now."""
        return [
            sleep
            for sleep, model in self.models.items()
            if not sleep.asleep
            and sleep.file().may_sleep
            and self._audience.idle_seconds(model) > 0
            and not model.batcher.depth()
            and model.batcher.trouble() is None
        ]

    async def _put_to_sleep(self, sleep: ModelSleep) -> bool:
        """Put a model to sleep; whether that was done: a request of another process may use it after all."""
        model = self.models[sleep]
        sleep.asleep = True  # from here on whoever asks for it waits until it is awake again
        if not await self._audience.rest(model):
            sleep.asleep, sleep.used = False, self.clock()
            self._audience.awake(model)
            if any(each.model is model and each.state is ModelState.SLEEPING for each in self._registry.models()):
                self._registry.look()
            return False
        self._registry.look()
        before = await asyncio.to_thread(self.memory.measured)
        for _ in range(_TRIES):  # a batch of callers who have left is computed to its end
            if await asyncio.to_thread(sleep.queue.sleep, _CLOSING_SECONDS):
                break
        else:  # it hangs, which is to keep nobody else from waking
            if (queue := sleep.queue.abandon()) is not None:
                self._hanging.abandon(queue)
        await self._freed()
        takes = await asyncio.to_thread(self.memory.grown, before, sleep.expected, -1)
        self.memory.changed()
        if takes != sleep.expected:  # else nothing was measured
            sleep.takes = takes
        identity = model.identity
        _log.info("model sleeps", model=identity.name, version=identity.version, freed_bytes=sleep.takes)
        return True

    async def wake(self, sleep: ModelSleep) -> None:
        """Load a model again that sleeps.

        Raises:
            ServiceError: expected; that cannot be done.
        """
        model = self.models.get(sleep)
        if model is None:
            raise draining()
        begun, outcome = self.clock(), "failed"
        try:
            async with self.changing:
                if not sleep.asleep:  # it was about to be put to sleep, and was in use after all
                    outcome = ""
                    return
                await self._wake(sleep, model)
            outcome, sleep.trouble = "woken", ""
            sleep.used = self.clock()
            _log.info(
                "model woken",
                model=model.identity.name,
                version=model.identity.version,
                seconds=round(self.clock() - begun, 2),
            )
        except OverloadedError:
            outcome = "refused"
            raise
        except FailedPreconditionError as error:
            # What hangs for long is tried no sooner than after as long again: the others are to be woken, too.
            now = self.clock()
            sleep.trouble, sleep.refusal = f"It could not be loaded again: {error.__cause__}", error.message
            sleep.again = now + max(_AGAIN_SECONDS, now - begun)
            identity, why = model.identity, str(error.__cause__)
            _log.error("model not woken", model=identity.name, version=identity.version, detail=why)
            raise
        finally:
            if outcome:
                self._woken(model.identity, outcome)
                self._registry.look()
                await self._changed()

    async def _wake(self, sleep: ModelSleep, model: LoadedModel) -> None:
        name = f"{model.identity.name} {model.identity.version}"
        try:
            await self._make_room_soon(sleep.takes)
        except _NoRoomError as error:
            raise OverloadedError(
                Reason.MEMORY_FULL,
                f"The model {name} sleeps, and takes about {mib(sleep.takes)} of memory, but {error} Try again later.",
                retry_after=_AGAIN_SECONDS,
            ) from error

        if sleep.queue.closed:
            raise draining()  # it was unloaded meanwhile
        try:
            queue = await load_watched(
                self._stop(),
                sleep.queue.load,
                named=(model.identity.name, model.identity.version),
                seconds=self._step_seconds,
            )
        except StartupError as error:  # which may name paths: it is for those who manage models
            raise FailedPreconditionError(
                Reason.MODEL_NOT_LOADED, f"The model {name} sleeps, and could not be loaded again. {WHERE_WHY}"
            ) from error
        if queue is None:
            raise draining()
        await asyncio.to_thread(sleep.queue.wake, queue)
        sleep.asleep = False
        self.memory.changed()
        self._audience.awake(model)

    async def _make_room_soon(self, takes: int) -> None:
        """Make room, as soon as one of the models that may sleep is idle for a moment.

        Raises:
            _NoRoomError: expected; none is, for a while.
        """
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return await self.make_room(takes)
            except _NoRoomError:
                busy = any(not each.asleep and each.file().may_sleep for each in self.models)
                if not busy or time.monotonic() >= end or self._stop().is_set():
                    raise
            await asyncio.sleep(_MOMENT)
