"""How the processes of a server end: those that hang, starts that fail, drains, and a supervisor that is killed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.access.inside import channel
from tests.server.conftest import TIMEOUT, metrics_of
from tests.server.worker_processes import Callers, gone, in_memory, of, processes, ready, request, status, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only")


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
    with socket.socket() as free:  # whoever shares a port has to say so; this one takes it alone
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", int(running.target.rpartition(":")[2])))
        free.listen()


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
