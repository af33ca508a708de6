"""The workers that answer with an engine's models: what each is given, told, and says (see `told`).

Each model has a queue of its own in the engine, with a host in front of it that serves all workers. A model counts as
in use (`LoadedModel.uses`) by every worker that has been given it, until that says that none of its requests uses it
any more or has gone. So a model that retires is closed after the last request of the last worker.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from glimpse.server.engine.host import Host
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.processes.control_channel import ControlChannel, Message, memory_file
from glimpse.server.repository.resting import Resting
from glimpse.server.repository.rollout import RolloutReport
from glimpse.server.repository.told import Told, error_to_say

_log = structlog.get_logger(__name__)

_MOST_GIVEN = 64  # models, until a worker has taken them: a channel holds fewer than 300 messages that nobody has read
_TAKEN = -1  # instead of the number of a state: the worker has taken what it was given
_REST_SECONDS = 1.0  # for all workers to say whether they can do without a model; one that hangs is killed later


@dataclass(slots=True, eq=False)
class ServedModel:
    """A model with the host that serves it to workers."""

    serial: int
    model: LoadedModel
    host: Host
    facts: int  # descriptor of its facts, pickled


@dataclass(slots=True, eq=False)
class ServedWorker:
    """One worker, and what it has been told."""

    number: int
    channel: ControlChannel
    given: dict[int, ServedModel] = field(default_factory=dict)  # by serial number
    said: int = 0  # number of the state that it has been told last
    told: int = 0  # of that by which it says that it answers
    asked: dict[int, asyncio.Task[None]] = field(default_factory=dict)  # by its numbers
    listening: asyncio.Task[None] | None = None


class ServedWorkers:
    """All workers of an engine. Lives on its event loop."""

    def __init__(
        self,
        told: Callable[[int], tuple[Told, Sequence[ServedModel]]],
        answer: Callable[[ServedWorker, dict[str, Any]], Coroutine[None, None, dict[str, Any]]],
        counted: Callable[[RolloutReport], object],
    ) -> None:
        """There is none yet.

        Args:
            told: how things are at the moment with this number, and the models that are named there.
            answer: does what a worker asks for, and gives the answer to that; raises why it cannot.
            counted: called with what a worker has counted of a canary or shadow.
        """
        self._how_things_are, self._answer, self._counted = told, answer, counted
        self._workers: list[ServedWorker] = []
        self._number = 0  # of the state, as it is now
        self._scheduled = False
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []  # for everybody to answer by a state
        self._questions = itertools.count(1)
        self._resting: Resting | None = None  # of the model that is about to be put to sleep

    def join(self, number: int, connected: socket.socket) -> None:
        """Have a worker answer, too; the socket of its channel belongs to this from now on."""
        for before in [each for each in self._workers if each.number == number]:
            self._lose(before)
        worker = ServedWorker(number, ControlChannel(connected))
        self._workers.append(worker)
        worker.listening = asyncio.create_task(self._listen(worker), name=f"what worker {number} says of models")
        self.changed()

    def changed(self) -> None:
        """Something is otherwise than the workers have been told."""
        self._number += 1
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._tell_all)

    async def told(self) -> None:
        """Wait until every worker answers as things are now; one that hangs is killed by the supervisor."""
        self.changed()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._number, done))
        await done

    async def rest(self, served: ServedModel) -> bool:
        """Have all workers do without a model; whether they do. One question at a time."""
        asked = self._given(served)
        self._resting = resting = Resting(next(self._questions), asked)
        try:
            for worker in asked:
                self._send(worker, {"do": "rest", "number": resting.number, "serial": served.serial})
            return await resting.answered(_REST_SECONDS)
        finally:
            self._resting = None

    def awake(self, served: ServedModel) -> None:
        """Tell all workers that a model answers."""
        for worker in self._given(served):
            self.tell_awake(worker, served)

    def tell_awake(self, worker: ServedWorker, served: ServedModel) -> None:
        """Tell one worker that a model answers."""
        self._send(worker, {"do": "awake", "serial": served.serial})

    def _given(self, served: ServedModel) -> list[ServedWorker]:
        return [each for each in self._workers if served.serial in each.given]

    def _send(self, worker: ServedWorker, body: dict[str, Any]) -> None:
        if not worker.channel.send(body):
            self._lose(worker)

    def _tell_all(self) -> None:
        self._scheduled = False
        for worker in list(self._workers):
            self._tell(worker)
        self._end_waits()

    def _tell(self, worker: ServedWorker) -> None:
        """Tell a worker how things are, unless it is at what it was told before."""
        if worker.said != worker.told or worker.said == self._number:
            return
        told, named = self._how_things_are(self._number)
        given = [served for served in named if served.serial not in worker.given]
        for served in given[:_MOST_GIVEN]:
            if not _give(worker, served):
                self._lose(worker)
                return
        if len(given) > _MOST_GIVEN:  # the others once it has taken these
            worker.said = _TAKEN
            self._send(worker, {"do": "wait", "number": _TAKEN})
            return
        worker.said = told.number
        if not _say(worker.channel, {"do": "state", "number": told.number}, pickle.dumps(told)):
            self._lose(worker)

    async def _listen(self, worker: ServedWorker) -> None:
        try:
            while (message := await worker.channel.received()) is not None:
                self._hear(worker, message)
        except Exception:  # noqa: BLE001 - whatever it is, the worker has to join again
            _log.exception("a defect of the service")
        finally:
            self._lose(worker)
            worker.channel.close()

    def _hear(self, worker: ServedWorker, message: Message) -> None:
        body = message.body
        message.close()
        match body["did"]:
            case "told":
                worker.told = body["number"]
                self._tell(worker)
                self._end_waits()
            case "counted":
                self._counted(RolloutReport.of(body["rollout"]))
            case "released":
                if (served := worker.given.pop(body["serial"], None)) is not None:
                    served.model.uses.__exit__()
            case "rests":
                if self._resting is not None and self._resting.number == body["number"]:
                    self._resting.said(worker, rests=body["rests"])
            case "ask":
                number = body["number"]
                task = asyncio.create_task(self._reply(worker, body), name="what a worker asks of the models")
                worker.asked[number] = task
                task.add_done_callback(lambda _: worker.asked.pop(number, None))
            case "left":
                if (asked := worker.asked.get(body["number"])) is not None:
                    asked.cancel()
            case other:
                _log.error("a worker says what it cannot", said=str(other))

    async def _reply(self, worker: ServedWorker, body: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"do": "answer", "number": body["number"]}
        try:
            reply |= await self._answer(worker, body)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            said = error_to_say(error)
            if said["kind"] == "InternalError":
                _log.exception("a defect of the service")
            reply["error"] = said
        # However many there are, they do not fit into a message.
        found = reply.pop("rollouts", None)
        if not (worker.channel.send(reply) if found is None else _say(worker.channel, reply, pickle.dumps(found))):
            self._lose(worker)

    def _lose(self, worker: ServedWorker) -> None:
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


def _give(worker: ServedWorker, served: ServedModel) -> bool:
    """Give a worker a connection to the queue of a model; whether it could be."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        served.host.add(ours)
        served.model.uses.__enter__()
        worker.given[served.serial] = served
        given = {"do": "model", "serial": served.serial, "asleep": served.model.asleep}
        return worker.channel.send(given, [theirs.fileno(), served.facts])


def _say(channel: ControlChannel, body: dict[str, Any], content: bytes) -> bool:
    file = memory_file("glimpse-models", content)
    try:
        return channel.send(body, [file])
    finally:
        with suppress(OSError):
            os.close(file)
