"""The engine's end: the models of a repository, as the workers of the server are told of them.

Each model has a queue of its own here, with a host in front of it that serves all workers. A model counts as in use
(`LoadedModel.uses`) by every worker that has been given it, until that says that none of its requests uses it any more
or has gone. So a model that retires is closed after the last request of the last worker.

The engine alone decides which models sleep. It first asks all workers whether they can do without a model; each that
can has the next request for it wait until the engine has told that the model is awake. So no image comes to one that
sleeps, but for those that nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import os
import pickle
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from glimpse.server.background import keep_running
from glimpse.server.batching.batcher import Batcher
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.batching.sleep_queue import SleepQueue
from glimpse.server.control_channel import ControlChannel, Message, memory_file
from glimpse.server.domain import ModelIdentity
from glimpse.server.engine.host import Host
from glimpse.server.engine.late_observer import LateObserver
from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.engine.resting_queue import RestingQueue
from glimpse.server.errors import draining
from glimpse.server.memory import Memory, settle
from glimpse.server.metrics import Metrics
from glimpse.server.progress import Progress
from glimpse.server.registry import LoadedModel, ModelRegistry
from glimpse.server.repository.audience import Audience
from glimpse.server.repository.repository import Repository
from glimpse.server.repository.resting import Resting
from glimpse.server.repository.rolling import RolloutCommands
from glimpse.server.repository.rollout import RolloutReport, Rollouts
from glimpse.server.repository.told import Told, error_to_say
from glimpse.server.settings import Settings

_log = structlog.get_logger(__name__)

_MOST_GIVEN = 64  # models, until a worker has taken them: a channel holds fewer than 300 messages that nobody has read
_TAKEN = -1  # instead of the number of a state: the worker has taken what it was given
_REST_SECONDS = 1.0  # for all workers to say whether they can do without a model; one that hangs is killed later


@dataclass(slots=True, eq=False)
class _Served:
    """A model with the host that serves it to workers."""

    serial: int
    model: LoadedModel
    host: Host
    facts: int  # descriptor of its facts, pickled


@dataclass(slots=True, eq=False)
class _Worker:
    """One worker, and what it has been told."""

    number: int
    channel: ControlChannel
    given: dict[int, _Served] = field(default_factory=dict)  # by serial number
    said: int = 0  # number of the state that it has been told last
    told: int = 0  # of that by which it says that it answers
    asked: dict[int, asyncio.Task[None]] = field(default_factory=dict)  # by its numbers
    listening: asyncio.Task[None] | None = None


class ServedModels(Audience):
    """The repository of an engine, and the workers that answer with its models. Lives on the engine's event loop."""

    def __init__(
        self, root: Path, settings: Settings, metrics: Metrics, trouble: Callable[[str | None], object]
    ) -> None:
        """Nothing is loaded yet. Needs a running event loop.

        Args:
            root: of the repository.
            settings: of the server.
            metrics: of this process.
            trouble: called with what keeps the device from answering for a model that the server needs, for people;
                None: nothing does any more.
        """
        self._metrics, self._trouble = metrics, trouble
        self._stop = asyncio.Event()
        self._seconds = min(1.0, settings.stuck_seconds / 4)
        self._registry = ModelRegistry()
        self._registry.watch(self._changed)
        self._memory = Memory()
        self._workers: list[_Worker] = []
        self._served: dict[int, _Served] = {}  # by `id` of the model
        self._serials, self._questions = itertools.count(1), itertools.count(1)
        self._hung: set[int] = set()  # serial numbers of those that hang
        self._coming: set[int] = set()  # serial numbers of those that are about to answer
        self._number = 0  # of the state, as it is now
        self._scheduled = False
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []  # for everybody to answer by a state
        self._lock = threading.Lock()
        self._examined: dict[int, ModelFacts] = {}  # by `id` of the model's queue; with the lock
        self._observers: dict[tuple[str, str], list[LateObserver]] = {}  # that count nothing yet; with the lock
        self._resting: Resting | None = None  # of the model that is about to be put to sleep
        self._rollouts = Rollouts(metrics.rollouts, changed=self._changed)
        self.repository = Repository(
            root,
            settings,
            self._registry,
            self._observe,
            changed=self._readiness_changed,
            loaded=self._loaded,
            closed=self._closed,
            rollouts=self._rollouts,
            freed=self._freed,
            woken=metrics.memory.woken,
            audience=self,
        )
        self._commands = RolloutCommands(self.repository, self.repository.rolling, self._registry)
        metrics.models.follow(lambda: [(each.name, each.version, each.state.value) for each in self._registry.models()])
        metrics.memory.follow(
            lambda: [(each.identity, size) for each, size in self.repository.sleepers.taken()],
            settings.models_memory_bytes,
        )

    async def run(self) -> None:
        """Load what is there, and look again and again, until `stop`.

        Raises:
            ModelLoadError: expected; the repository cannot be read.
        """
        watching = asyncio.create_task(self._watch(), name="watch over devices")
        sleeping: asyncio.Task[None] | None = None
        try:
            if await self.repository.start(self._stop):
                settle()
                sleeping = keep_running("sleeping models", self.repository.sleepers.run)
                await self.repository.run()
        finally:
            watching.cancel()
            if sleeping is not None:
                sleeping.cancel()

    def stop(self) -> None:
        """Load nothing more, and have what is being loaded leave nothing behind."""
        self._stop.set()

    def join(self, number: int, connected: socket.socket) -> None:
        """Have a worker answer with these models, too; the socket of its channel belongs to this from now on."""
        for before in [each for each in self._workers if each.number == number]:
            self._lose(before)
        worker = _Worker(number, ControlChannel(connected))
        self._workers.append(worker)
        worker.listening = asyncio.create_task(self._listen(worker), name=f"what worker {number} says of models")
        self._changed()

    def examine(self, model: LoadedModel, progress: Progress) -> None:
        """In the thread that has loaded it: see what its outputs are, with an image of its own."""
        progress("compute an image to see its outputs")
        try:
            facts = ModelFacts.of(model)
        except BaseException:
            model.close(1.0)
            raise
        with self._lock:
            self._examined[id(model.batcher)] = facts

    async def offer(self, model: LoadedModel) -> None:
        """Give a model to all workers, and wait until each of them could answer with it."""
        with self._lock:
            facts = self._examined.pop(id(model.batcher))
        host = Host(RestingQueue(), facts.layout)
        host.start()
        assert isinstance(model.batcher, SleepQueue)  # noqa: S101 - every model of a repository may sleep
        # From here on: neither the image that shows the outputs nor anything before counts.
        model.batcher.follow(partial(self._lead, host, model.identity))
        served = _Served(next(self._serials), model, host, memory_file("glimpse-facts", pickle.dumps(facts)))
        self._served[id(model)] = served
        self._coming.add(served.serial)
        await self.told()

    async def told(self) -> None:
        """Wait until every worker answers as the registry does now; one that hangs is killed by the supervisor."""
        self._changed()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._number, done))
        await done

    def idle_seconds(self, model: LoadedModel) -> float:
        """For how long no image of any worker has come for a model; 0 while one waits or is computed."""
        served = self._served.get(id(model))
        return math.inf if served is None else served.host.idle_seconds

    async def rest(self, model: LoadedModel) -> bool:
        """Have all workers do without a model; whether they do. One question at a time."""
        served = self._served.get(id(model))
        if served is None:  # nobody has been given it
            return True
        asked = [each for each in self._workers if served.serial in each.given]
        self._resting = resting = Resting(next(self._questions), asked)
        try:
            for worker in asked:
                if not worker.channel.send({"do": "rest", "number": resting.number, "serial": served.serial}):
                    self._lose(worker)
            return await resting.answered(_REST_SECONDS)
        finally:
            self._resting = None

    def awake(self, model: LoadedModel) -> None:
        """Tell all workers that a model answers."""
        if (served := self._served.get(id(model))) is not None:
            for worker in [each for each in self._workers if served.serial in each.given]:
                self._tell_awake(worker, served)

    def _tell_awake(self, worker: _Worker, served: _Served) -> None:
        if not worker.channel.send({"do": "awake", "serial": served.serial}):
            self._lose(worker)

    def _lead(self, host: Host, identity: ModelIdentity, queue: ModelQueue | None) -> None:
        """Have what is behind a model's queue compute for the workers; in the thread that has loaded it again, too."""
        assert queue is None or isinstance(queue, Batcher)  # noqa: S101 - its device is in this process
        if queue is not None:
            key = identity.name, identity.version
            with self._lock:
                observers = self._observers.pop(key, ())
            for each in observers:
                each.observe(self._metrics.of(*key))
        host.lead(queue)

    def _observe(self, name: str, version: str) -> LateObserver:
        """In a thread that loads: a version's new files may be loaded while the one before is loaded again to wake."""
        made = LateObserver()
        with self._lock:
            self._observers.setdefault((name, version), []).append(made)
        return made

    def _loaded(self, model: LoadedModel) -> None:
        self._metrics.models.loaded(model.identity, model.runtime, model.precision)
        if (found := model.agreement) is not None:
            self._metrics.models.compared(model.identity, found.precision, found.share)

    async def _closed(self, model: LoadedModel) -> None:
        self._metrics.models.closed(model.identity, model.runtime, model.precision)
        served = self._served.pop(id(model))
        os.close(served.facts)
        await asyncio.to_thread(served.host.close)
        del served, model
        await self._freed()

    async def _freed(self) -> None:
        """Give back what a model has held that was closed or fell asleep."""
        gc.unfreeze()
        settle()
        if (trimming := self._memory.trim()) is not None:
            await trimming

    async def _readiness_changed(self) -> None:
        self._changed()

    def _changed(self) -> None:
        """Something is otherwise than the workers have been told."""
        self._number += 1
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._tell_all)

    def _tell_all(self) -> None:
        self._scheduled = False
        for worker in list(self._workers):
            self._tell(worker)
        self._end_waits()

    def _tell(self, worker: _Worker) -> None:
        """Tell a worker how things are, unless it is at what it was told before."""
        if worker.said != worker.told or worker.said == self._number:
            return
        told, named = self._told()
        given = [served for served in named if served.serial not in worker.given]
        for served in given[:_MOST_GIVEN]:
            if not self._give(worker, served):
                self._lose(worker)
                return
        if len(given) > _MOST_GIVEN:  # the others once it has taken these
            worker.said = _TAKEN
            if not worker.channel.send({"do": "wait", "number": _TAKEN}):
                self._lose(worker)
            return
        worker.said = told.number
        if not _say(worker.channel, {"do": "state", "number": told.number}, pickle.dumps(told)):
            self._lose(worker)

    def _told(self) -> tuple[Told, list[_Served]]:
        """How things are, and the models that are named there."""
        routes = self._registry.routes()
        named = {
            self._served[id(model)].serial: self._served[id(model)]
            for versions in routes.versions.values()
            for model in versions.values()
        }
        self._coming -= named.keys()
        there = {each.serial: each for each in self._served.values()}
        self._coming &= there.keys()
        named |= {serial: there[serial] for serial in self._coming}
        told = Told(
            number=self._number,
            began=self.repository.began,
            ready=self.repository.ready,
            names={name: answers and not self._hangs(name) for name, answers in self.repository.names().items()},
            versions={
                name: {version: self._served[id(model)].serial for version, model in versions.items()}
                for name, versions in routes.versions.items()
            },
            aliases=routes.aliases,
            default=routes.default,
            statuses=tuple(
                (replace(each, model=None), None if each.model is None else self._served[id(each.model)].serial)
                for each in self._registry.models()
            ),
            coming=frozenset(self._coming),
            # Without what is counted, which changes all the time.
            rollouts=tuple(RolloutReport(each.name, each.kind, each.terms, each.reference) for each in self._rollouts),
        )
        return told, list(named.values())

    def _give(self, worker: _Worker, served: _Served) -> bool:
        """Give a worker a connection to the queue of a model; whether it could be."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            served.host.add(ours)
            served.model.uses.__enter__()
            worker.given[served.serial] = served
            given = {"do": "model", "serial": served.serial, "asleep": served.model.asleep}
            return worker.channel.send(given, [theirs.fileno(), served.facts])

    async def _listen(self, worker: _Worker) -> None:
        try:
            while (message := await worker.channel.received()) is not None:
                self._hear(worker, message)
        except Exception:  # noqa: BLE001 - whatever it is, the worker has to join again
            _log.exception("a defect of the service")
        finally:
            self._lose(worker)
            worker.channel.close()

    def _hear(self, worker: _Worker, message: Message) -> None:
        body = message.body
        message.close()
        match body["did"]:
            case "told":
                worker.told = body["number"]
                self._tell(worker)
                self._end_waits()
            case "counted":
                self._rollouts.add(RolloutReport.of(body["rollout"]))
            case "released":
                if (served := worker.given.pop(body["serial"], None)) is not None:
                    served.model.uses.__exit__()
            case "rests":
                if self._resting is not None and self._resting.number == body["number"]:
                    self._resting.said(worker, rests=body["rests"])
            case "ask":
                number = body["number"]
                task = asyncio.create_task(self._answer(worker, body), name="what a worker asks of the models")
                worker.asked[number] = task
                task.add_done_callback(lambda _: worker.asked.pop(number, None))
            case "left":
                if (asked := worker.asked.get(body["number"])) is not None:
                    asked.cancel()
            case other:
                _log.error("a worker says what it cannot", said=str(other))

    async def _answer(self, worker: _Worker, body: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"do": "answer", "number": body["number"]}
        try:
            if body["what"] == "wake":
                await self._wake(worker, body["serial"])
            else:
                reply |= await self._asked(body)
                await self.told()
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            said = error_to_say(error)
            if said["kind"] == "InternalError":
                _log.exception("a defect of the service")
            reply["error"] = said
        # However many there are, they do not fit into a message.
        found = reply.pop("rollouts", None)
        if not (worker.channel.send(reply) if found is None else _say(worker.channel, reply, pickle.dumps(found))):
            self._lose(worker)

    async def _wake(self, worker: _Worker, serial: int) -> None:
        """Have a model awake, and the worker know it, for a request of its own.

        Raises:
            ServiceError: expected; see `Sleep.wake`. How long its callers wait is for the worker to say.
        """
        served = worker.given.get(serial)
        if served is None or (sleep := served.model.sleep) is None:
            raise draining()
        await sleep.wake(None)
        while sleep.asleep:  # it is about to be put to sleep again, which the worker will not agree to
            await sleep.wake(None)
        self._tell_awake(worker, served)

    async def _asked(self, body: dict[str, Any]) -> dict[str, Any]:
        name, version = body["name"], body["version"]
        match body["what"]:
            case "load":
                status = await self.repository.load(name, version)
                return {"name": status.name, "version": status.version}
            case "unload":
                await self.repository.unload(name, version)
            case "alias":
                return {"kept": await self._commands.set_alias(name, body["alias"], version)}
            case "rollout":
                asked = RolloutReport.of(body["rollout"])
                return {"kept": await self._commands.set_rollout(name, asked.kind, asked.terms)}
            case "roll back":
                version, kept = await self._commands.roll_back(name)
                return {"version": version, "kept": kept}
            case "rollouts":
                return {"rollouts": await self._commands.rollouts()}
            case "look":
                self.repository.look()
            case other:
                raise ValueError(f"nobody can ask for {other}")
        return {}

    def _lose(self, worker: _Worker) -> None:
        """A worker has gone, or its channel is of no use."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        for served in worker.given.values():
            served.model.uses.__exit__()
        worker.given.clear()
        if self._resting is not None:
            self._resting.said(worker, rests=True)
        for task in worker.asked.values():
            task.cancel()
        if worker.listening is not None and worker.listening is not asyncio.current_task():
            worker.listening.cancel()
        self._end_waits()

    def _end_waits(self) -> None:
        least = min((each.told for each in self._workers), default=self._number)
        for number, done in self._waiting:
            if number <= least and not done.done():
                done.set_result(None)
        self._waiting = [each for each in self._waiting if not each[1].done()]

    async def _watch(self) -> None:
        """Look now and then whether the device hangs at a batch of any model."""
        before: str | None = None
        while True:
            await asyncio.sleep(self._seconds)
            found: str | None = None
            hung = set[int]()
            for served in list(self._served.values()):
                trouble = served.model.batcher.trouble()
                served.host.stuck(stuck=trouble is not None)
                if trouble is not None:
                    hung.add(served.serial)
                    if self.repository.needs(served.model.identity.name):
                        found = found or trouble
                self._tell_hung(served, trouble)
            if hung != self._hung:
                self._hung = hung
                self._changed()
            if (found is None) != (before is None):
                self._trouble(found)
            before = found

    def _tell_hung(self, served: _Served, trouble: str | None) -> None:
        """Log that a model has begun or ceased to hang that the server can do without."""
        model = served.model.identity
        if (trouble is not None) == (served.serial in self._hung) or self.repository.needs(model.name):
            return
        if trouble is None:
            _log.warning("model no longer stuck", model=model.name, version=model.version)
        else:
            detail = f"{trouble} Until it recovers, calls of this model are refused; others are answered."
            _log.error("model stuck", model=model.name, version=model.version, detail=detail)

    def _hangs(self, name: str) -> bool:
        """Whether the version hangs that answers requests which name this model alone."""
        usual = self._registry.usual(name)
        return usual is not None and self._served[id(usual)].serial in self._hung


def _say(channel: ControlChannel, body: dict[str, Any], content: bytes) -> bool:
    file = memory_file("glimpse-models", content)
    try:
        return channel.send(body, [file])
    finally:
        with suppress(OSError):
            os.close(file)
