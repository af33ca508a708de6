"""A server of several processes, seen from outside: one port, one health, one /metrics, one end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from glimpse.client import AsyncClient, Client
from glimpse.server.supervisor.plan import WORKER_BYTES
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.access.inside import channel
from tests.server.conftest import TIMEOUT, metrics_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only")
SERVICE = "glimpse.v1.ImageClassifier"
PIXELS = np.zeros((32, 32, 3), np.uint8)


class Process(NamedTuple):
    """A process of the server."""

    kind: str
    pid: int


def processes(server: RunningServer) -> list[Process]:
    """The workers and engines that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == server.process.pid:
            kinds = [word.rpartition(".")[2].removesuffix("_process") for word in words if word.endswith("_process")]
            found += [Process(kind, int(folder.name)) for kind in kinds]
    return found


def of(server: RunningServer, kind: str) -> set[int]:
    return {each.pid for each in processes(server) if each.kind == kind}


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.02)


def in_memory(pids: list[int]) -> list[str]:
    """The files in memory that these processes hold."""
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [name for each in Path(f"/proc/{pid}/fd").iterdir() if "/memfd:" in (name := str(each.readlink()))]
    return found


def connections_of(pid: int, port: int) -> int:
    """Connections to a port that a process has accepted."""
    sockets = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = str(file.readlink())
        except FileNotFoundError:
            continue
        if name.startswith("socket:["):
            sockets.add(name[8:-1])
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return sum(row[3] == "01" and row[9] in sockets and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def status(target: str, service: str) -> str:
    with channel(target) as through:
        answer = HealthStub(through).Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def ready(server: RunningServer) -> bool:
    return metrics_of(server)["glimpse_ready"] == 1


@pytest.fixture(scope="module")
def workers() -> Iterator[RunningServer]:
    """A server with two workers that serves again whenever a test begins."""
    running = RunningServer("--workers=2", "--health-port=0")
    try:
        running.wait_for("serving", seconds=280)
        yield running
    finally:
        running.close()


@pytest.fixture
def server_of_two(workers: RunningServer) -> RunningServer:
    until(lambda: ready(workers))
    return workers


def request() -> pb.ClassifyRequest:
    return pb.ClassifyRequest(images=[pb.Image(raw=pb.RawPixels(height=32, width=32, data=bytes(32 * 32 * 3)))])


def test_two_workers_answer_on_one_port_and_both_are_called(server_of_two: RunningServer) -> None:
    port = int(server_of_two.target.rpartition(":")[2])
    with grpc.insecure_channel(server_of_two.target) as through:
        expected = ImageClassifierStub(through).Classify(request(), timeout=TIMEOUT).results[0].predictions
    opened = [channel(server_of_two.target) for _ in range(32)]
    try:
        for each in opened:
            found = ImageClassifierStub(each.__enter__()).Classify(request(), timeout=TIMEOUT).results[0]
            assert found.predictions == expected
        shares = [connections_of(pid, port) for pid in of(server_of_two, "worker")]
        assert len(shares) == 2
        assert min(shares) > 0, shares
    finally:
        for each in opened:
            each.__exit__(None, None, None)


def test_a_worker_s_memory_is_what_starts_are_checked_for(server_of_two: RunningServer) -> None:
    """So much is resident where nothing was decoded; what messages take comes on top."""
    for pid in of(server_of_two, "worker"):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        assert WORKER_BYTES / 2 < pages * os.sysconf("SC_PAGE_SIZE") < 2 * WORKER_BYTES


def test_health_on_the_second_port_is_that_of_the_server(server_of_two: RunningServer) -> None:
    port = server_of_two.wait_for("listening")["health_port"]
    for target in (server_of_two.target, f"127.0.0.1:{port}"):
        assert [status(target, service) for service in ("", SERVICE)] == ["SERVING", "SERVING"]


def test_metrics_are_those_of_all_processes(server_of_two: RunningServer) -> None:
    before = metrics_of(server_of_two)
    for _ in range(8):
        with channel(server_of_two.target) as through:
            ImageClassifierStub(through).Classify(request(), timeout=TIMEOUT)
    after = metrics_of(server_of_two)
    assert after['glimpse_processes{kind="worker"}'] == 2
    assert after["glimpse_requests_answered_total"] - before["glimpse_requests_answered_total"] == 8
    assert after["glimpse_images_in_flight_limit"] == 256


class Callers:
    """Callers that go on through the shipped clients, until told to stop; what they could not have answered is kept.

    In threads: calls, and one run over a stream after the other. On an event loop: calls.
    """

    def __init__(self, target: str, number: int = 4) -> None:
        self.answered, self.lost = 0, list[str]()
        self._stop = threading.Event()
        self._target = target
        ways = [*[self._call] * number, self._in_bulk, self._on_a_loop]
        self._threads = [threading.Thread(target=each) for each in ways]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join(TIMEOUT)

    def more(self, calls: int = 100) -> None:
        """Wait until so many more calls have been answered."""
        wanted = self.answered + calls
        until(lambda: self.answered >= wanted or bool(self.lost))

    def _call(self) -> None:
        with Client(self._target) as client:
            while not self._stop.is_set():
                try:
                    client.classify(PIXELS, timeout=TIMEOUT)
                    self.answered += 1
                except Exception as error:  # noqa: BLE001 - whatever it is, it is to be seen
                    self.lost.append(repr(error))

    def _in_bulk(self) -> None:
        with Client(self._target) as client:
            while not self._stop.is_set():
                try:
                    results = client.classify_many(zip(range(20), itertools.repeat(PIXELS)), timeout=TIMEOUT)
                    self.lost += [repr(each.error) for _, each in results if each.error is not None]
                    self.answered += 20
                except Exception as error:  # noqa: BLE001 - as above
                    self.lost.append(repr(error))

    def _on_a_loop(self) -> None:
        async def call(client: AsyncClient) -> None:
            while not self._stop.is_set():
                try:
                    await client.classify(PIXELS, timeout=TIMEOUT)
                    self.answered += 1
                except Exception as error:  # noqa: BLE001 - as above
                    self.lost.append(repr(error))

        async def all_calls() -> None:
            async with AsyncClient(self._target) as client:
                await asyncio.gather(*(call(client) for _ in range(2)))

        asyncio.run(all_calls())


def test_a_worker_that_is_killed_is_replaced_and_no_caller_notices(server_of_two: RunningServer) -> None:
    before = of(server_of_two, "worker")
    with Callers(server_of_two.target) as callers:
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(of(server_of_two, "worker") - before) == 1 and ready(server_of_two))
        callers.more()
    assert callers.lost == []
    assert metrics_of(server_of_two)['glimpse_process_restarts_total{cause="ended",kind="worker"}'] >= 1


@pytest.mark.ci
def test_a_worker_that_is_told_to_end_drains_and_is_replaced(server_of_two: RunningServer) -> None:
    before = of(server_of_two, "worker")
    with Callers(server_of_two.target) as callers:
        os.kill(max(before), signal.SIGTERM)
        until(lambda: len(of(server_of_two, "worker") - before) == 1 and ready(server_of_two))
        callers.more()
    assert callers.lost == []


@pytest.mark.ci
def test_what_a_worker_counted_before_it_drained_is_not_lost(server_of_two: RunningServer) -> None:
    """Nobody asks for its metrics between the calls and its end."""
    before, workers = metrics_of(server_of_two), of(server_of_two, "worker")
    for _ in range(8):
        with channel(server_of_two.target) as through:
            ImageClassifierStub(through).Classify(request(), timeout=TIMEOUT)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    until(lambda: all(gone(pid) for pid in workers))
    until(lambda: ready(server_of_two))
    name = "glimpse_requests_answered_total"
    assert metrics_of(server_of_two)[name] - before[name] == 8


@pytest.mark.ci
def test_an_engine_that_is_killed_is_replaced_and_no_caller_notices(server_of_two: RunningServer) -> None:
    """Meanwhile the only server lives, but is not ready, and the client waits for that."""
    workers, engines = of(server_of_two, "worker"), of(server_of_two, "engine")
    told = set[str]()
    with Callers(server_of_two.target) as callers:
        os.kill(min(engines), signal.SIGKILL)

        def replaced() -> bool:
            told.add(status(server_of_two.target, SERVICE))
            assert status(server_of_two.target, "") == "SERVING"
            return len(of(server_of_two, "engine") - engines) == 1 and ready(server_of_two)

        until(replaced)
        callers.more()
    assert callers.lost == []
    assert told == {"SERVING", "NOT_SERVING"}
    assert of(server_of_two, "worker") == workers


@pytest.mark.ci
def test_a_process_that_hangs_is_killed_and_replaced(start_server: Callable[..., RunningServer]) -> None:
    """A worker, then an engine; of the engine no caller notices it."""
    running = start_server("--workers=2", "--stuck-seconds=2")
    running.wait_for("serving")
    before = of(running, "worker")
    os.kill(min(before), signal.SIGSTOP)
    until(lambda: len(of(running, "worker") - before) == 1 and ready(running))
    assert running.wait_for("a process is replaced")["hung"]
    before = of(running, "engine")
    with Callers(running.target) as callers:
        os.kill(min(before), signal.SIGSTOP)
        until(lambda: len(of(running, "engine") - before) == 1 and ready(running))
        callers.more()
    assert callers.lost == []
    assert metrics_of(running)['glimpse_process_restarts_total{cause="hung",kind="engine"}'] == 1
    # Who stood still itself cannot tell who hangs.
    before = {each.pid for each in processes(running)}
    for number in (signal.SIGSTOP, signal.SIGCONT):
        running.terminate(number)
        time.sleep(3)
    assert {each.pid for each in processes(running)} == before
    running.terminate()
    assert running.exit_code() == 0


@pytest.mark.ci
def test_an_engine_that_hangs_while_it_loads_is_killed_and_replaced(
    start_server: Callable[..., RunningServer],
) -> None:
    """It hangs as one does whose driver does: nothing is loaded, and it says nothing. Meanwhile the server lives."""
    running = start_server("--workers=2", "--load-step-seconds=12")
    running.wait_for("serving")
    first = of(running, "engine")
    os.kill(min(first), signal.SIGKILL)
    until(lambda: len(of(running, "engine") - first) == 1)
    second = of(running, "engine") - first
    os.kill(min(second), signal.SIGSTOP)
    until(lambda: len(of(running, "engine") - first - second) == 1 and ready(running))
    assert status(running.target, "") == "SERVING"
    with channel(running.target) as through:
        assert ImageClassifierStub(through).Classify(request(), timeout=TIMEOUT).results
    stuck = running.wait_for("stuck")
    assert (stuck["process_kind"], stuck["pid"]) == ("engine", min(second))
    assert "at one step for 12 s: " in stuck["detail"]
    assert "GLIMPSE_LOAD_STEP_SECONDS" in stuck["detail"]


@pytest.mark.ci
def test_a_device_that_hangs_at_the_first_batch_ends_the_start(start_server: Callable[..., RunningServer]) -> None:
    """Replacing the engine would only hang again, and nothing has been served yet."""
    running = start_server(
        "--workers=2", "--runtime=simulated", '--simulated-seconds={"1": 3600}', "--load-step-seconds=12"
    )
    assert running.exit_code() == 1
    assert "at one step for 12 s: compute the first image." in running.wait_for("cannot start")["detail"]


def files_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("rounds", [pytest.param(2, marks=pytest.mark.ci), pytest.param(17, marks=pytest.mark.slow)])
def test_a_supervisor_keeps_nothing_of_processes_that_it_has_replaced(
    start_server: Callable[..., RunningServer], rounds: int
) -> None:
    """Three a round. Its open files and threads are what they were; its memory is a matter of the soak."""
    running = start_server("--workers=2", "--metrics-port=0")
    running.wait_for("serving")
    pid = running.process.pid

    def all_replaced(before: set[int]) -> bool:
        now = {each.pid for each in processes(running)}
        return len(now) == 3 and not now & before and ready(running)

    counts = list[tuple[int, int]]()
    for _ in range(rounds + 1):
        counts.append((files_of(pid), len(list(Path(f"/proc/{pid}/task").iterdir()))))
        before = {each.pid for each in processes(running)}
        for each in before:
            os.kill(each, signal.SIGKILL)
        until(lambda before=before: all_replaced(before))  # type: ignore[misc]
    # A scrape that is under way has a socket and a thread.
    until(lambda: files_of(pid) <= counts[0][0])
    until(lambda: len(list(Path(f"/proc/{pid}/task").iterdir())) <= counts[0][1])


@pytest.mark.ci
def test_a_drain_loses_no_call_and_leaves_no_process(start_server: Callable[..., RunningServer]) -> None:
    """Callers who watch health go to another server meanwhile; here each has one call in flight."""
    running = start_server("--workers=2", "--drain-announce-seconds=0.5")
    running.wait_for("serving")
    pids = [each.pid for each in processes(running)]
    assert len(pids) == 3
    assert in_memory(pids), "pixels are in one"
    opened = [channel(running.target) for _ in range(8)]
    calls = [
        ImageClassifierStub(each.__enter__()).Classify.future(request(), timeout=TIMEOUT, wait_for_ready=True)
        for each in opened
    ]
    until(lambda: all(call.running() or call.done() for call in calls))
    running.terminate()
    lost = [error for call in calls if (error := call.exception()) is not None]
    for each in opened:
        each.__exit__(None, None, None)
    assert running.exit_code() == 0
    assert lost == []
    assert [line["event"] for line in running.log][-3:] == ["signal", "draining", "stopped"]
    assert running.stray == []
    assert not in_memory(pids), "files in memory go with the processes"
    until(lambda: all(gone(pid) for pid in pids))


@pytest.mark.ci
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_supervisor_that_ends_at_once(
    start_server: Callable[..., RunningServer], number: signal.Signals
) -> None:
    """Killed, or told a second time while it drains: no process, no memory; and the port is free."""
    running = start_server("--workers=2", "--drain-announce-seconds=60")
    running.wait_for("serving")
    pids = [each.pid for each in processes(running)]
    assert in_memory(pids)
    running.terminate(number)
    if number == signal.SIGTERM:
        running.wait_for("draining")
        running.terminate(number)
    assert running.exit_code() == -number
    until(lambda: all(gone(pid) for pid in pids))
    assert not in_memory(pids)
    port = running.target.rpartition(":")[2]
    again = start_server("--workers=2", f"--port={port}")
    again.wait_for("serving")
    assert again.target.rpartition(":")[2] == port


@pytest.mark.ci
def test_a_port_that_is_taken_ends_the_start_of_several_workers(start_server: Callable[..., RunningServer]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = start_server("--workers=2", f"--port={port}")
        assert running.exit_code() == 3
    assert f"Cannot listen on 127.0.0.1:{port}: The address is in use." in running.wait_for("cannot start")["detail"]


@pytest.mark.ci
def test_a_model_that_cannot_be_loaded_ends_the_start_of_several_workers(
    start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    running = start_server("--workers=2", f"--weights={tmp_path}")
    assert running.exit_code() == 4
    assert running.wait_for("cannot start")["detail"].startswith("Cannot load the model: ")
    assert processes(running) == []


@pytest.mark.ci
def test_another_server_does_not_get_the_port_of_several_workers(
    server_of_two: RunningServer, start_server: Callable[..., RunningServer]
) -> None:
    port = server_of_two.target.rpartition(":")[2]
    assert start_server(f"--port={port}").exit_code() == 3


@pytest.mark.ci
def test_only_one_of_several_workers_listens_on_a_unix_socket(
    start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    """Its replacement does, too."""
    path = tmp_path / "socket"
    running = start_server("--workers=2", f"--unix-socket={path}")
    running.wait_for("serving")
    before = of(running, "worker")
    with channel(f"unix:{path}") as through:
        assert ImageClassifierStub(through).Classify(request(), timeout=TIMEOUT).results
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(of(running, "worker") - before) == 2 and ready(running))
    with channel(f"unix:{path}") as through:
        assert ImageClassifierStub(through).Classify(request(), timeout=TIMEOUT, wait_for_ready=True).results


@pytest.mark.ci
def test_of_two_engines_one_may_end_while_the_other_answers(start_server: Callable[..., RunningServer]) -> None:
    """The server stays ready, and no caller has to wait for the other one."""
    running = start_server("--workers=2", "--engines=2")
    running.wait_for("serving")
    until(lambda: [line["event"] for line in running.log].count("model loaded") == 2)
    before = of(running, "engine")
    with Callers(running.target) as callers:
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(of(running, "engine") - before) == 1)
        until(lambda: [line["event"] for line in running.log].count("model loaded") == 3)
        assert ready(running)
        callers.more()
    assert callers.lost == []


def test_images_that_memory_has_no_room_for_end_the_start(start_server: Callable[..., RunningServer]) -> None:
    """A worker finds out once it listens and knows the model; it would not do better a second time."""
    running = start_server("--workers=2", "--max-images-in-flight=1000000000")
    assert running.exit_code() == 6
    last = running.log[-1]
    assert last["event"] == "cannot start"
    assert "GLIMPSE_MAX_IMAGES_IN_FLIGHT" in last["detail"]
