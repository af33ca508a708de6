"""A worker's end: the models of a repository that an engine loads. The worker answers as the engine says.

What the engine tells is taken as a whole, so that no request ever finds half of it. A model that is not named any more
answers what has begun with it, and then the engine is told.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.engine.remote_queue import RemoteQueue
from glimpse.server.errors import Reason, ServiceError, UnavailableError
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.processes.control_channel import ControlChannel, Message, read_memory_file
from glimpse.server.registry import ModelRegistry, ModelState, ModelStatus, Routes, by_number
from glimpse.server.repository.remote_sleep import RemoteSleep
from glimpse.server.repository.rollout import Kind, RolloutReport, Rollouts, Terms
from glimpse.server.repository.told import Told, error_said

_log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 0.5  # between two attempts to come back to an engine
_REPLACED_SECONDS = 2.0  # until coming back may help a caller
_COUNTED_SECONDS = 0.2  # between two times that the engine is told what is counted of rollouts
_LONGEST = 1000  # characters of a name that is passed on; the longest name of a model has fewer
_COMING = {ModelState.WAITING, ModelState.LOADING, ModelState.WARMING}


class RemoteRepository:
    """What `Repository` is where the models are in the same process. Lives on the event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        *,
        slots: int,
        changed: Callable[[], Awaitable[None]],
        loaded: Callable[[LoadedModel], object],
        closed: Callable[[LoadedModel], Awaitable[None]],
        rejoin: Callable[[], object],
        rollouts: Rollouts,
    ) -> None:
        """Not connected.

        Args:
            registry: of the models that answer, which follows that of the engine.
            slots: images of each model that may be in flight.
            changed: awaited when anything has changed.
            loaded: called when a model is about to answer.
            closed: awaited when a model is closed, and what it held is free.
            rejoin: asks for another channel to the engine.
            rollouts: of new versions, which follow those of the engine; it is told what is counted of them.
        """
        self._registry, self._slots, self._notify, self._ask_again = registry, slots, changed, rejoin
        self._loaded, self._closed, self._rollouts = loaded, closed, rollouts
        self._stop = asyncio.Event()
        self._channel: ControlChannel | None = None
        self._held: dict[int, LoadedModel] = {}  # of this channel, by serial number
        self._sleeps: dict[int, RemoteSleep] = {}  # of this channel, by serial number, until they are released
        self._before: dict[tuple[str, str], LoadedModel] = {}  # of an engine that has ended, until they are replaced
        self._told: Told | None = None  # by this channel
        self._began = asyncio.Event()  # an engine has loaded what it found first
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether every required model answers."""
        return self._told is not None and self._told.ready

    def needs(self, name: str) -> bool:  # noqa: ARG002 - what hangs in the engine is not for a worker to say
        """Whether the server is not ready without this model."""
        return True

    def names(self) -> dict[str, bool]:
        """Every model by name, and whether it answers."""
        if self._told is None:
            return {name: False for name, _ in self._before}
        return self._told.names

    async def start(self, stop: asyncio.Event) -> bool:
        """Wait until an engine has loaded what is there; False when told to stop meanwhile."""
        self._stop = stop
        waits = [asyncio.create_task(each.wait()) for each in (stop, self._began)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        return not stop.is_set()

    async def run(self) -> None:
        """Say what is counted of rollouts, for as long as the server lives; it is the engine that looks and decides."""
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _COUNTED_SECONDS)
            if self._channel is not None:
                for each in self._rollouts.take():
                    self._channel.send({"did": "counted", "rollout": each.said()})

    def look(self) -> None:
        """Have the repository looked at now."""
        self._begin(self._look(), "look at models")

    def connect(self, connected: socket.socket) -> None:
        """Use this channel to an engine from now on, which belongs to the repository."""
        self._disconnect()
        self._channel = channel = ControlChannel(connected)
        self._listening = asyncio.create_task(self._listen(channel), name="what the engine says of models")

    async def load(self, name: str, version: str = "") -> ModelStatus:
        """Have a version loaded, see `Repository.load`; every worker answers with it then.

        Raises:
            ModelNotFoundError, FailedPreconditionError: expected.
            UnavailableError: expected; the engine is being replaced.
        """
        answer = await self._ask("load", name, version)
        found = answer["name"], answer["version"]
        return next(
            (each for each in self._registry.models() if (each.name, each.version) == found),
            ModelStatus(*found, ModelState.READY),
        )

    async def unload(self, name: str, version: str = "") -> None:
        """Have a version or a model answer no more, see `Repository.unload`.

        Raises:
            ModelNotFoundError, FailedPreconditionError: expected.
            UnavailableError: expected; the engine is being replaced.
        """
        await self._ask("unload", name, version)

    async def set_alias(self, name: str, alias: str, version: str) -> bool:
        """Give a version another name, see `Repository.set_alias`; every worker answers by it then.

        Raises:
            ModelNotFoundError, FailedPreconditionError: expected.
            UnavailableError: expected; the engine is being replaced.
        """
        return bool((await self._ask("alias", name, version, alias))["kept"])

    async def set_rollout(self, name: str, kind: Kind, terms: Terms) -> bool:
        """Give a version a share of a model's requests, see `RolloutCommands.set_rollout`; every worker does it then.

        Raises:
            ModelNotFoundError, FailedPreconditionError: expected.
            UnavailableError: expected; the engine is being replaced.
        """
        terms = replace(terms, version=terms.version[:_LONGEST])
        asked = RolloutReport(self._registry.name(name)[:_LONGEST], kind, terms, "").said()
        return bool((await self._ask("rollout", name, "", rollout=asked))["kept"])

    async def roll_back(self, name: str) -> tuple[str, bool]:
        """Let the version before answer again, see `RolloutCommands.roll_back`.

        Raises:
            ModelNotFoundError, FailedPreconditionError: expected.
            UnavailableError: expected; the engine is being replaced.
        """
        answer = await self._ask("roll back", name, "")
        return answer["version"], bool(answer["kept"])

    async def rollouts(self) -> tuple[RolloutReport, ...]:
        """All canaries and shadows, with what all workers have counted.

        Raises:
            UnavailableError: expected; the engine is being replaced.
        """
        found: tuple[RolloutReport, ...] = (await self._ask("rollouts", "", ""))["rollouts"]
        return found

    async def _look(self) -> None:
        try:
            await self._ask("look", "", "")
        except ServiceError as error:
            _log.warning("models not looked at", detail=error.message)

    async def _wake(self, channel: ControlChannel, serial: int) -> None:
        """Have the engine wake a model.

        Raises:
            ServiceError: expected; the engine says why it cannot, or is being replaced.
        """
        if channel is not self._channel:
            raise _replaced()
        await self._ask("wake", "", "", serial=serial)

    async def _ask(self, what: str, name: str, version: str, alias: str = "", **more: Any) -> dict[str, Any]:
        channel, number = self._channel, next(self._numbers)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        asked = {"name": self._registry.name(name)[:_LONGEST], "version": version[:_LONGEST], "alias": alias[:_LONGEST]}
        try:
            if channel is None or not channel.send({"did": "ask", "number": number, "what": what, **asked, **more}):
                raise _replaced()
            answer: dict[str, Any] = await future
        except asyncio.CancelledError:
            if channel is not None and channel is self._channel:
                channel.send({"did": "left", "number": number})
            raise
        finally:
            del self._answers[number]
        if "error" in answer:
            raise error_said(answer["error"])
        return answer

    async def _listen(self, channel: ControlChannel) -> None:
        try:
            while channel is self._channel and (message := await channel.received()) is not None:
                await self._hear(channel, message)
        except Exception:  # noqa: BLE001 - whatever it is, the worker joins again
            _log.exception("what the engine says of models cannot be taken; another channel is asked for")
        finally:
            channel.close()
            if channel is self._channel:
                self._lost()

    async def _hear(self, channel: ControlChannel, message: Message) -> None:
        body = message.body
        match body["do"]:
            case "model":
                self._take(channel, body["serial"], message, asleep=body["asleep"])
            case "state":
                told: Told = pickle.loads(read_memory_file(message.files[0]))  # noqa: S301 - from our engine
                self._answer_by(channel, told)
                await self._notify()
                channel.send({"did": "told", "number": told.number})
            case "wait":
                channel.send({"did": "told", "number": body["number"]})
            case "rest":
                sleep = self._sleeps.get(body["serial"])
                rests = sleep is None or await sleep.rest()  # None: its last request here has ended
                channel.send({"did": "rests", "number": body["number"], "rests": rests})
            case "awake":
                if (sleep := self._sleeps.get(body["serial"])) is not None:
                    sleep.awake()
            case "answer":
                if message.files:
                    body["rollouts"] = pickle.loads(read_memory_file(message.files[0]))  # noqa: S301 - from our engine
                future = self._answers.get(body["number"])
                if future is not None and not future.done():
                    future.set_result(body)
            case other:
                message.close()
                _log.error("the engine says what it cannot", said=str(other))

    def _take(self, channel: ControlChannel, serial: int, message: Message, *, asleep: bool) -> None:
        """Be prepared to answer with a model. Memory for its images is taken when the first one comes."""
        if len(message.files) != 2:
            message.close()
            raise OSError("A model came without its connection: this process may have too many files open.")
        connected, content = message.files
        given = socket.socket(fileno=connected)
        try:
            facts: ModelFacts = pickle.loads(read_memory_file(content))  # noqa: S301 - from our engine
            queue = RemoteQueue(facts, slots=self._slots, lost=lambda: self._lost_with(channel), late=True)
            queue.connect(given, facts)
        except BaseException:
            given.close()
            raise
        loaded = facts.loaded(queue)
        sleep = self._sleeps[serial] = RemoteSleep(loaded.uses, partial(self._wake, channel, serial), asleep=asleep)
        self._held[serial] = replace(loaded, sleep=sleep)

    def _answer_by(self, channel: ControlChannel, told: Told) -> None:
        """Answer as the engine says, all at once."""
        self._told = told
        held, before = self._held, list(self._registry.routes().versions.values())
        versions = {
            name: {version: held[serial] for version, serial in each.items()} for name, each in told.versions.items()
        }
        if told.began:
            self._before.clear()
            self._began.set()
        for status, _ in told.statuses:  # what answered before goes on to refuse calls for now, until it comes again
            key = status.name, status.version
            if status.state in _COMING and key in self._before and status.version not in versions.get(status.name, {}):
                added = {**versions.get(status.name, {}), status.version: self._before[key]}
                versions[status.name] = dict(sorted(added.items(), key=lambda each: by_number(each[0])))
        statuses = tuple(
            replace(status, model=None if number is None else held[number]) for status, number in told.statuses
        )
        known = {id(model) for each in before for model in each.values()}
        for each in versions.values():
            for model in each.values():
                if id(model) not in known:
                    self._loaded(model)
        self._registry.follow(Routes(versions, told.aliases, told.default), statuses)
        self._rollouts.follow(told.rollouts)
        self._rollouts.keep({(each.name, each.version) for each in statuses})
        answering = {id(model) for each in versions.values() for model in each.values()}
        serials = {id(model): serial for serial, model in held.items()}
        gone = {id(model): model for each in before for model in each.values()} | {
            id(model): model for serial, model in held.items() if serial not in told.coming
        }
        for number, model in gone.items():
            if number not in answering:
                serial = serials.get(number)
                held.pop(serial or 0, None)
                self._begin(self._retire(channel, model, serial), "retiring")

    async def _retire(self, channel: ControlChannel, model: LoadedModel, serial: int | None) -> None:
        await self._registry.retire(model)
        if serial is not None and channel is self._channel:
            self._sleeps.pop(serial, None)
            channel.send({"did": "released", "serial": serial})
        closing = self._closed(model)
        del model  # else what it holds would not be free when memory is settled
        await closing

    def _lost_with(self, channel: ControlChannel) -> None:
        """The connection of one model has ended by itself."""
        if channel is self._channel:
            self._lost()

    def _lost(self) -> None:
        """The engine has ended, or is of no use to this worker."""
        self._disconnect()
        self._begin(self._notify_lost(), "models lost")

    async def _notify_lost(self) -> None:
        await self._notify()
        while self._channel is None:
            await asyncio.sleep(_AGAIN_SECONDS)
            if self._channel is None:
                self._ask_again()

    def _disconnect(self) -> None:
        if self._channel is None:
            return
        self._channel, self._told = None, None
        if self._listening is not None and self._listening is not asyncio.current_task():
            self._listening.cancel()
        for name, versions in self._registry.routes().versions.items():
            self._before |= {(name, version): model for version, model in versions.items()}
        self._held, self._sleeps = {}, {}
        for future in self._answers.values():
            if not future.done():
                future.set_exception(_replaced())

    def _begin(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _replaced() -> UnavailableError:
    return UnavailableError(
        Reason.NOT_READY,
        "The process that computes has ended and is being replaced. Try again later.",
        retry_after=_REPLACED_SECONDS,
    )
