"""`python -m glimpse.server.worker_process --control FD`: a process that takes calls, one of several of a server.

It is begun by the supervisor, which tells it everything over the control channel
(`server/processes/control_channel.py`); where that ends, so does this process, at once. Linux only. What it is told
(`do`), and what it says (`did`):

settings  + [pickled `Settings`], `worker`, its number from 1, `workers` and `engines`, how many there are; first of
          all -> started
listen    `port`, `health_port` and `secret`, see `ports.SharedPorts` -> listening, with `port` and `health_port`
engine    `number`, from 1, + [stream socket whose other end the engine has, pickled `ModelFacts`]; again whenever the
          engine has been replaced
models    instead of `engine`, where there is a repository of models: + [socket of a control channel to the engine, see
          `repository/told.py`]; again whenever the engine has been replaced
          -> rejoin: that channel is of no use, and another one is asked for
          -> rejoin, with `number` of an engine and `joins`, how often that has been told of: the same of a connection
             to an engine, which has been lost though the engine may not have ended
drain     take no more calls, finish those that are there, and end
ping      -> pong, with the same `number`, and `in_flight`, images
metrics   -> metrics, with the same `number` + [pickled list of Prometheus' metrics]; at the end unasked, with number 0
          -> state, whenever it has changed: `alive`, `ready`, `trouble`
          -> failed, with `exit`, the code of `startup`, and `detail`, for people

SIGTERM drains it, too. SIGINT does not: Ctrl+C reaches every process of a terminal, and the supervisor drains all.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # before the imports below, which take most of a second
    signal.signal(signal.SIGINT, signal.SIG_IGN)

import argparse
import asyncio
import contextlib
import logging
import os
import pickle
import socket
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from glimpse.server import app
from glimpse.server.access.shared_rates import SharedRates
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.engine.queue_set import QueueSet
from glimpse.server.engine.remote_queue import RemoteQueue
from glimpse.server.labelling.exchange import Exchange
from glimpse.server.life import WorkerPart
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.machine import cores
from glimpse.server.metrics.merge import dumped
from glimpse.server.ports import Bound, SharedPorts
from glimpse.server.processes import event_loops, standard_error, stopping
from glimpse.server.processes.background import keep_running
from glimpse.server.processes.control_channel import ControlChannel, Message, memory_file, read_memory_file
from glimpse.server.processes.startup import StartupError
from glimpse.server.settings import Settings

_log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 1.0  # an engine that has ended is replaced within a few of them, without being asked for
_ENGINE_FILES = 2  # of the order `engine`


class _Engines:
    """The worker's ends of the engines' queues, as the supervisor hands them over; a `Provider`."""

    def __init__(
        self,
        engines: int,
        slots: int,
        changed: Callable[[], object],
        again: Callable[[int, int], object],
        *,
        seconds: float = _AGAIN_SECONDS,
    ) -> None:
        """None yet. Needs a running event loop.

        Args:
            engines: how many there are to be.
            slots: images that may be in flight to each of them.
            changed: called when an engine comes or goes.
            again: asks for another connection to the engine of a number, from 1, of which has been told so often. An
                engine that has ended is replaced, and told of again, by itself; but one that goes on may have given up
                a connection, or could not be reached by it.
            seconds: from the loss of a connection until `again` is called, and between two calls.
        """
        self._engines, self._slots, self._changed = engines, slots, changed
        self._again, self._seconds, self._loop = again, seconds, asyncio.get_running_loop()
        self._joins = Counter[int]()  # how often each has been told of
        self._asking = set[int]()  # those for which `again` is going to be called
        self._queues: list[RemoteQueue] = []  # one for each engine, from the first engine on
        self._queue: ModelQueue | None = None  # all of them
        self._facts: ModelFacts | None = None
        self._there = asyncio.Event()

    async def model(self, stop: asyncio.Event) -> LoadedModel | None:
        """The model, once an engine has loaded it; None: told to stop before."""
        waits = [asyncio.create_task(each.wait()) for each in (stop, self._there)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        if stop.is_set() or self._facts is None or self._queue is None:
            return None
        return self._facts.loaded(self._queue)

    def available(self) -> bool:
        """Whether an engine answers."""
        return self._queue is not None and self._queue.trouble() is None

    def told(self, number: int) -> None:
        """The supervisor tells of the engine of this number; `take` follows where what came with it can be used."""
        self._joins[number] += 1
        self._ask_later(number)

    def take(self, number: int, connected: socket.socket, facts: ModelFacts) -> LoadedModel | None:
        """Use the engine of this number, from 1, from now on; returns the model to serve instead, if it is another one.

        Raises:
            MemoryShortError: expected; there is no room for the images in flight.
        """
        if self._queue is None:
            for each in range(1, self._engines + 1):
                self._queues.append(RemoteQueue(facts, slots=self._slots, lost=partial(self._lost, each)))
            self._queue = self._queues[0] if self._engines == 1 else QueueSet(self._queues)
        self._queues[number - 1].connect(connected, facts)
        before, self._facts = self._facts, facts
        self._there.set()
        self._changed()
        return facts.loaded(self._queue) if before is not None and before != facts else None

    def _lost(self, number: int) -> None:
        self._changed()
        self._ask_later(number)

    def _ask_later(self, number: int) -> None:
        if number not in self._asking:
            self._asking.add(number)
            self._loop.call_later(self._seconds, self._ask, number)

    def _ask(self, number: int) -> None:
        self._asking.discard(number)
        if not self._queues or not self._queues[number - 1].connected:
            self._again(number, self._joins[number])
            self._ask_later(number)


class _Worker:
    """The life of the process. A thread reads what the supervisor says; all else is done on the event loop."""

    def __init__(self, channel: ControlChannel) -> None:
        self._channel = channel
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._listen: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._server: app.Server | None = None
        self._engines: _Engines | None = None
        self._rates: SharedRates | None = None
        self._exchange: Exchange | None = None
        self._telling: set[asyncio.Task[None]] = set()

    async def run(self, settings: Settings, workers: int, engines: int) -> None:
        """Serve until told to drain.

        Raises:
            StartupError: expected; the message says what to do.
        """
        self._loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        self._engines = _Engines(engines, settings.max_images_in_flight, self._changed, self._rejoin_engine)
        threading.Thread(target=self._read, name="supervisor", daemon=True).start()
        self._channel.send({"did": "started"})
        order = await self._first(self._listen)
        if order is None:
            return
        ports = SharedPorts(order["port"], order["health_port"], workers, order["secret"], order["http_port"])
        part = WorkerPart(ports, self._engines, self._listening, self._state, self._rejoin)
        self._server = server = app.Server(settings, part)
        self._rates = SharedRates(server.access.all_rates(), self._channel.send)
        if (feedback := server.feedback) is not None:
            self._exchange = Exchange(self._channel.send, workers, feedback.compare)
            feedback.ask = self._exchange.ask
        sharing = keep_running("shared rates", self._rates.run)
        try:
            await server.run(self._stop)
        finally:
            sharing.cancel()
            self._say_metrics(0)  # what was counted since the supervisor asked last

    async def _first(self, awaited: asyncio.Future[dict[str, Any]]) -> dict[str, Any] | None:
        """What the future holds once it is there; None: told to stop before."""
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait((awaited, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        return None if self._stop.is_set() else awaited.result()

    def _read(self) -> None:
        """In a thread of its own, so that the process ends with its supervisor whatever the event loop does."""
        while (message := self._channel.receive()) is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: the process ends
                self._loop.call_soon_threadsafe(self._obey, message)
        stopping.end_children()
        os._exit(1)

    def _obey(self, message: Message) -> None:
        try:
            self._do(message)
        except StartupError as error:
            self._failed(error.exit_code, str(error))
            self._stop.set()
        except Exception:  # noqa: BLE001 - whatever it is, it is to be seen
            _log.exception("a defect of the service")

    def _do(self, message: Message) -> None:
        body = message.body
        match body["do"]:
            case "ping":
                in_flight = 0 if self._server is None else self._server.in_flight
                self._channel.send({"did": "pong", "number": body["number"], "in_flight": in_flight})
            case "metrics":
                self._say_metrics(body["number"])
            case "listen" if not self._listen.done():
                self._listen.set_result(body)
            case "engine":
                self._take_engine(message)
            case "models":
                if self._server is not None:
                    self._server.models.join(socket.socket(fileno=message.files[0]))
            case "drain":
                self._stop.set()
            case "spent" | "feedback":
                self._hear(body)
            case _:
                message.close()

    def _hear(self, body: dict[str, Any]) -> None:
        """Something that another worker has said."""
        if body["do"] == "spent" and self._rates is not None:
            self._rates.apply(body)
        if body["do"] == "feedback" and self._exchange is not None:
            self._exchange.heard(body)

    def _take_engine(self, message: Message) -> None:
        if self._engines is not None:
            self._engines.told(message.body["number"])
        if len(message.files) != _ENGINE_FILES:  # this process may open no more files
            message.close()
            _log.error("an engine cannot be reached", number=message.body["number"], detail="Too many open files.")
            return
        connected, facts = message.files
        given = socket.socket(fileno=connected)
        known: ModelFacts = pickle.loads(read_memory_file(facts))  # noqa: S301 - from our supervisor
        if (
            self._engines is not None
            and (other := self._engines.take(message.body["number"], given, known))
            and self._server is not None
        ):
            self._server.models.replace(other)

    def _say_metrics(self, number: int) -> None:
        content = b"" if self._server is None else dumped(self._server.metrics)
        file = memory_file("glimpse-metrics", content)
        try:
            self._channel.send({"did": "metrics", "number": number}, [file])
        finally:
            os.close(file)

    def _listening(self, bound: Bound) -> None:
        self._channel.send({"did": "listening", "port": bound.grpc, "health_port": bound.health})

    def _state(self, alive: bool, ready: bool, trouble: str | None) -> None:  # noqa: FBT001 - as `WorkerPart` has it
        self._channel.send({"did": "state", "alive": alive, "ready": ready, "trouble": trouble})

    def _rejoin(self) -> None:
        self._channel.send({"did": "rejoin"})

    def _rejoin_engine(self, number: int, joins: int) -> None:
        self._channel.send({"did": "rejoin", "number": number, "joins": joins})

    def _changed(self) -> None:
        """An engine has come or gone."""
        if self._server is not None:
            task = self._loop.create_task(self._server.tell())
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    def _failed(self, code: int, detail: str) -> None:
        self._channel.send({"did": "failed", "exit": code, "detail": detail})


async def _life(channel: ControlChannel, settings: Settings, workers: int, engines: int) -> int:
    try:
        await _Worker(channel).run(settings, workers, engines)
    except StartupError as error:
        channel.send({"did": "failed", "exit": error.exit_code, "detail": str(error)})
        return error.exit_code
    return 0


def main() -> None:
    """Run a worker until its supervisor ends it, or ends."""
    parser = argparse.ArgumentParser(prog="python -m glimpse.server.worker_process")
    parser.add_argument("--control", type=int, required=True, help="descriptor of the control channel")
    control = parser.parse_args().control
    os.set_inheritable(control, False)  # noqa: FBT003 - its only argument
    cores.share_in_long_turns()
    channel = ControlChannel.inherited(control)
    first = channel.receive()
    if first is None:
        os._exit(1)
    settings: Settings = pickle.loads(read_memory_file(first.files[0]))  # noqa: S301 - from our supervisor
    captured = standard_error.configure_log(settings.log_level, settings.log_format, {"worker": first.body["worker"]})
    # gRPC would write a line that is no log line for every header that is none.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    code = 1
    try:
        with asyncio.Runner(loop_factory=event_loops.factory()) as runner:
            code = runner.run(_life(channel, settings, first.body["workers"], first.body["engines"]))
    except Exception:  # noqa: BLE001 - the supervisor begins another worker
        _log.exception("a worker ends, because of a defect")
    if captured is not None:
        captured.close()
    logging.shutdown()
    stopping.end_children()
    os._exit(code)


if __name__ == "__main__":
    main()
