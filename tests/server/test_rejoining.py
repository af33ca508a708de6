"""A worker whose connection to an engine is lost, though the engine goes on, gets another one."""

from __future__ import annotations

import asyncio
import socket
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from glimpse.server.engine import records
from glimpse.server.processes.control_channel import memory_file
from glimpse.server.supervisor.child import Child
from glimpse.server.supervisor.plan import Plan
from glimpse.server.supervisor.processes import Processes
from glimpse.server.worker_process import _Engines
from tests.server.engine.engines import Bench, plain_settings, run, until, value

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only")


def test_a_worker_that_an_engine_gives_up_is_joined_again_and_answers() -> None:
    """The engine cannot make sense of what one worker says; it goes on, so nobody replaces it."""

    async def scene(bench: Bench) -> None:
        engines: _Engines
        told = 0

        def join(number: int, joins: int) -> None:
            assert (number, joins) == (1, told)
            connect()

        def connect() -> None:
            nonlocal told
            ours, theirs = socket.socketpair()
            bench.host.add(theirs)
            told += 1
            engines.told(1)
            engines.take(1, ours, bench.facts)

        engines = _Engines(1, 4, lambda: None, join, seconds=0.001)
        connect()
        bench.let(2)
        (queue,) = engines._queues
        assert await value(queue.submit(bench.image(3))) == 3
        with queue._lock:
            queue._link.say(records.hello(4, 8))  # no worker says that twice
        await until(lambda: told == 2)
        assert engines.available()
        assert await value(queue.submit(bench.image(5))) == 5
        queue.close(0.0)

    run(scene)


def test_a_worker_asks_again_for_as_long_as_it_has_no_connection() -> None:
    async def scene(bench: Bench) -> None:
        asked: list[tuple[int, int]] = []
        engines = _Engines(1, 4, lambda: None, lambda number, joins: asked.append((number, joins)), seconds=0.001)
        ours, theirs = socket.socketpair()
        engines.told(1)
        engines.take(1, theirs, bench.facts)
        await asyncio.sleep(0.05)
        assert asked == []
        assert engines.available()
        ours.close()  # as an engine does that cannot serve this worker
        await until(lambda: len(asked) > 2)
        assert set(asked) == {(1, 1)}
        assert not engines.available()
        ours, theirs = socket.socketpair()
        engines.told(1)
        engines.take(1, theirs, bench.facts)
        assert engines.available()
        await asyncio.sleep(0.01)
        asked.clear()
        await asyncio.sleep(0.05)
        assert asked == []
        ours.close()
        await until(lambda: bool(asked))
        assert set(asked) == {(1, 2)}

    run(scene)


def test_a_worker_asks_again_for_an_engine_that_it_was_only_told_of() -> None:
    """The files that come with it are lost where it may open no more."""

    async def scene() -> None:
        asked: list[tuple[int, int]] = []
        engines = _Engines(2, 4, lambda: None, lambda number, joins: asked.append((number, joins)), seconds=0.001)
        engines.told(2)
        await until(lambda: len(asked) > 1)
        assert set(asked) == {(2, 1)}

    asyncio.run(scene())


class Told(SimpleNamespace):
    """A process of which only what it is told matters."""

    def __init__(self, kind: str, *, reads: bool = True) -> None:
        super().__init__(kind=kind, number=1, listens=True, joins={1: 0}, heard=[], killed=False, reads=reads)
        self.ended = asyncio.get_running_loop().create_future()

    def send(self, body: dict[str, Any], files: Any = ()) -> bool:
        self.heard.append(body["do"])
        return bool(self.reads)

    def give_up(self) -> None:
        self.killed = True


def joined(worker: Told, engine: Told) -> Processes:
    processes = Processes(plain_settings(), Plan(1, 1), stderr=None, heard=lambda *_: None)
    processes.workers[1], processes.engines[1] = cast("Child", worker), cast("Child", engine)
    processes._facts[1] = memory_file("facts")
    return processes


def test_a_supervisor_joins_a_worker_again_that_asks_for_it() -> None:
    async def scene() -> None:
        worker, engine = Told("worker"), Told("engine")
        processes = joined(worker, engine)
        processes.rejoin(cast("Child", worker), 1, 0)
        assert (worker.heard, engine.heard, worker.joins) == (["engine"], ["connect"], {1: 1})
        processes.rejoin(cast("Child", worker), 1, 0)  # it asked before it heard of that
        processes.rejoin(cast("Child", worker), 2, 0)
        assert (worker.heard, engine.heard) == (["engine"], ["connect"])
        engine.listens = False  # it is being replaced
        processes.rejoin(cast("Child", worker), 1, 1)
        assert (worker.heard, engine.heard) == (["engine"], ["connect"])
        processes.close()

    asyncio.run(scene())


@pytest.mark.parametrize("late", ["worker", "engine"])
def test_a_process_that_reads_no_more_is_ended_where_it_is_to_be_joined(late: str) -> None:
    """Else the other one would wait for it for ever."""

    async def scene() -> None:
        worker, engine = Told("worker", reads=late != "worker"), Told("engine", reads=late != "engine")
        processes = joined(worker, engine)
        processes.rejoin(cast("Child", worker), 1, 0)
        assert (worker.killed, engine.killed) == (late == "worker", late == "engine")
        processes.close()

    asyncio.run(scene())
