"""The workers and engines of one server: begun, brought up, joined with each other, and forgotten when they end."""

from __future__ import annotations

import asyncio
import os
import pickle
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from glimpse.server.metrics.merge import Kind
from glimpse.server.processes.control_channel import Message, memory_file
from glimpse.server.settings import Settings
from glimpse.server.supervisor.child import Child, ChildFailedError
from glimpse.server.supervisor.plan import Plan, device_of
from glimpse.server.supervisor.same_model import SameModel


@dataclass(slots=True)
class SharedPorts:
    """The ports on which all workers listen."""

    port: int
    health_port: int | None
    http_port: int | None
    # Mixed into the choice of a worker for a connection; odd, see `server.sockets.filters`.
    secret: int = field(default_factory=lambda: secrets.randbits(32) | 1)


class Processes:
    """Those that run, by number. Lives on the event loop."""

    def __init__(
        self, settings: Settings, plan: Plan, *, stderr: int | None, heard: Callable[[Child, Message], None]
    ) -> None:
        """None runs yet.

        Args:
            settings: of the server; its processes are handed their part of it.
            plan: how many there are to be.
            stderr: descriptor for their logs; None: this process's standard error.
            heard: called with what one says and nobody waits for.
        """
        self.ports = SharedPorts(0, None, None)  # to be set before a worker is brought up
        self.workers: dict[int, Child] = {}
        self.engines: dict[int, Child] = {}
        self.all_listen = asyncio.Event()
        self._settings, self._plan, self._stderr, self._heard = settings, plan, stderr, heard
        self._facts: dict[int, int] = {}  # by engine: a descriptor of what is known of its model
        self._same = SameModel()
        self._listening = asyncio.Lock()  # one worker at a time, so that its sockets are neighbours

    @property
    def all(self) -> list[Child]:
        """Workers, then engines."""
        return [*self.workers.values(), *self.engines.values()]

    @property
    def in_flight(self) -> int:
        """Images, as the workers have said last."""
        return sum(each.in_flight for each in self.workers.values())

    @property
    def ready(self) -> bool:
        """Whether all workers are there and answer."""
        return len(self.workers) == self._plan.workers and all(each.ready for each in self.workers.values())

    @property
    def alive(self) -> bool:
        """Whether all workers are there and have models, or know that there are none."""
        return len(self.workers) == self._plan.workers and all(each.alive for each in self.workers.values())

    def begin(self, kind: Kind, number: int) -> Child:
        """Begin a process and hand it its settings.

        Raises:
            OSError: the system has no room for it.
        """
        environment = {}
        if kind == "engine" and self._plan.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = device_of(number, self._plan.gpus)
        settings = self._settings_of(kind, number)
        # First: where there is no room for it, no process is begun that nobody knows of.
        file = memory_file("glimpse-settings", pickle.dumps(settings))
        try:
            child = Child(kind, number, stderr=self._stderr, heard=self._heard, environment=environment)
            (self.workers if kind == "worker" else self.engines)[number] = child
            numbers = {kind: number, "workers": self._plan.workers, "engines": self._plan.engines}
            child.send({"do": "settings", **numbers}, [file])
        finally:
            os.close(file)
        return child

    async def bring_up(self, child: Child) -> None:
        """Wait until a worker listens or an engine has loaded the model, and join it with the others.

        Raises:
            ChildEndedError: expected; it has ended.
            ChildFailedError: expected; it cannot start.
        """
        if child.kind == "engine":
            await self._bring_up_engine(child)
        else:
            await self._bring_up_worker(child)
        child.awake()

    def rejoin(self, worker: Child, number: int | None = None, joins: int = 0) -> None:
        """Give a worker another channel to the models of the engine, or another connection to an engine, where it is.

        Args:
            worker: that asks for it.
            number: of the engine; None: there is a repository of models, and one engine.
            joins: how often the worker has been told of that engine. Where that is less often than it was, what it
                asks for is on its way.
        """
        for engine in self.engines.values():
            asked = number is None or (engine.number == number and joins == worker.joins[number])
            if asked and not engine.ended.done() and (number is None) == (self._settings.models is not None):
                self._join(worker, engine, engine.number)

    def look_at_models(self) -> None:
        """Have the repository of models looked at now, and tried again what has failed."""
        for engine in self.engines.values():
            engine.send({"do": "look"})

    def forget(self, child: Child) -> None:
        """It has ended."""
        children = self.workers if child.kind == "worker" else self.engines
        if children.get(child.number) is child:
            del children[child.number]

    def close(self) -> None:
        """Close what is kept of their models."""
        for each in self._facts.values():
            os.close(each)
        self._facts.clear()

    def _settings_of(self, kind: Kind, number: int) -> Settings:
        """What a process is handed: a worker its part of all limits, an engine the whole."""
        if kind == "engine":
            return self._settings.for_engine(self._plan.workers)
        settings = self._settings.for_worker(self._plan.workers)
        # A Unix socket is one process's; the other workers get no calls from there.
        return settings.model_copy(update={"unix_socket": None}) if number > 1 else settings

    async def _bring_up_worker(self, child: Child) -> None:
        await child.told("started")
        ports: dict[str, Any] = {
            "port": self.ports.port,
            "health_port": self.ports.health_port,
            "http_port": self.ports.http_port,
            "secret": self.ports.secret,
        }
        async with self._listening:
            child.send({"do": "listen", **ports})
            await child.told("listening")
        child.listens = True
        for number, engine in self.engines.items():
            self._join(child, engine, number)
        if len(self.workers) == self._plan.workers and all(each.listens for each in self.workers.values()):
            self.all_listen.set()

    async def _bring_up_engine(self, child: Child) -> None:
        message = await child.told("loaded")
        if self._settings.models is None:
            try:
                self._same.take(child.number, message.body["model"], self._serving())
            except ChildFailedError:
                message.close()
                raise
            if (before := self._facts.get(child.number)) is not None:
                os.close(before)
            (self._facts[child.number],) = message.files
        child.listens = True
        for worker in self.workers.values():
            self._join(worker, child, child.number)

    def _serving(self) -> list[int]:
        """The numbers of the engines that have been joined and have not ended."""
        return [number for number, each in self.engines.items() if each.listens and not each.ended.done()]

    def _join(self, worker: Child, engine: Child, number: int) -> None:
        """Give a worker a connection to an engine, where both are there."""
        if not worker.listens or not engine.listens:
            return
        if self._settings.models is not None:
            self._join_models(worker, engine)
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        worker.joins[number] += 1
        with ours, theirs:
            _tell(engine, {"do": "connect", "worker": worker.number}, [ours.fileno()])
            _tell(worker, {"do": "engine", "number": number}, [theirs.fileno(), self._facts[number]])

    @staticmethod
    def _join_models(worker: Child, engine: Child) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            _tell(engine, {"do": "models", "worker": worker.number}, [ours.fileno()])
            _tell(worker, {"do": "models"}, [theirs.fileno()])


def _tell(child: Child, body: dict[str, Any], files: list[int]) -> None:
    """Tell a process what it needs to go on; one that reads so little that there is no room for it is ended."""
    if not child.send(body, files) and not child.ended.done():
        child.give_up()
