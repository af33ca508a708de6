"""The engine's end: the models of a repository, as the workers of the server are told of them.

What each worker is given and told is in `served_workers.py`.

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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from glimpse.server.batching.batcher import Batcher
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.batching.sleep_queue import SleepQueue
from glimpse.server.domain import ModelIdentity
from glimpse.server.engine.host import Host
from glimpse.server.engine.late_observer import LateObserver
from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.engine.resting_queue import RestingQueue
from glimpse.server.errors import draining
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.machine.memory import Memory, settle
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.processes.background import keep_running
from glimpse.server.processes.control_channel import memory_file
from glimpse.server.progress import Progress
from glimpse.server.registry import ModelRegistry
from glimpse.server.repository.audience import Audience
from glimpse.server.repository.repository import Repository
from glimpse.server.repository.rolling import RolloutCommands
from glimpse.server.repository.rollout import RolloutReport, Rollouts
from glimpse.server.repository.served_watch import ServedWatch
from glimpse.server.repository.served_workers import ServedModel, ServedWorker, ServedWorkers
from glimpse.server.repository.told import Told
from glimpse.server.settings import Settings


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
        self._metrics = metrics
        self._stop = asyncio.Event()
        self._served: dict[int, ServedModel] = {}  # by `id` of the model
        self._serials = itertools.count(1)
        self._coming: set[int] = set()  # serial numbers of those that are about to answer
        self._workers = ServedWorkers(self._told, self._answered, self._counted)
        changed = self._workers.changed
        self._registry = ModelRegistry()
        self._registry.watch(changed)
        self._memory = Memory()
        self._lock = threading.Lock()
        self._examined: dict[int, ModelFacts] = {}  # by `id` of the model's queue; with the lock
        self._observers: dict[tuple[str, str], list[LateObserver]] = {}  # that count nothing yet; with the lock
        self._rollouts = Rollouts(metrics.rollouts, changed=changed)
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
        self._watch = ServedWatch(
            self._served.values,
            self.repository.needs,
            seconds=min(1.0, settings.stuck_seconds / 4),
            changed=changed,
            trouble=trouble,
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
        watching = asyncio.create_task(self._watch.run(), name="watch over devices")
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
        self._workers.join(number, connected)

    def examine(self, model: LoadedModel, progress: Progress) -> None:
        """In the thread that has loaded it: see what its outputs are, with an image of its own."""
        progress("compute an image to see its outputs")
        try:
            with self.repository.hanging.watched(model.batcher):
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
        served = ServedModel(next(self._serials), model, host, memory_file("glimpse-facts", pickle.dumps(facts)))
        self._served[id(model)] = served
        self._coming.add(served.serial)
        await self.told()

    async def told(self) -> None:
        """Wait until every worker answers as the registry does now; one that hangs is killed by the supervisor."""
        await self._workers.told()

    async def rest(self, model: LoadedModel) -> bool:
        """Have all workers do without a model; whether they do. One question at a time."""
        served = self._served.get(id(model))
        return served is None or await self._workers.rest(served)  # else nobody has been given it

    def awake(self, model: LoadedModel) -> None:
        """Tell all workers that a model answers."""
        if (served := self._served.get(id(model))) is not None:
            self._workers.awake(served)

    def idle_seconds(self, model: LoadedModel) -> float:
        """For how long no image of any worker has come for a model; 0 while one waits or is computed."""
        served = self._served.get(id(model))
        return math.inf if served is None else served.host.idle_seconds

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
            self._metrics.models.compared(model.identity, found.precision, found.share, found.speed)

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
        self._workers.changed()

    def _told(self, number: int) -> tuple[Told, list[ServedModel]]:
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
            number=number,
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

    def _hangs(self, name: str) -> bool:
        """Whether the version hangs that answers requests which name this model alone."""
        usual = self._registry.usual(name)
        return usual is not None and self._watch.hangs(self._served[id(usual)])

    def _counted(self, counted: RolloutReport) -> None:
        self._rollouts.add(counted)

    async def _answered(self, worker: ServedWorker, body: dict[str, Any]) -> dict[str, Any]:
        """Do what a worker asks for, and have all workers answer accordingly."""
        if body["what"] == "wake":
            await self._wake(worker, body["serial"])
            return {}
        answer = await self._asked(body)
        await self.told()
        return answer

    async def _wake(self, worker: ServedWorker, serial: int) -> None:
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
        self._workers.tell_awake(worker, served)

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
