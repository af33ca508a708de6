"""`glimpse load --processes`: one load from several processes, whose books are one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import pytest

from glimpse.client.bearer import Token
from glimpse.client.load import figures, idle
from glimpse.client.load.driver import PhaseRun, Usage
from glimpse.client.load.plan import Plan
from glimpse.client.load.processes import merged, shares, split
from glimpse.client.load.tally import Answer, Request, Tally
from glimpse.v1 import classifier_pb2 as pb
from tests.client.conftest import CLI, Glimpse
from tests.client.scripted import Context, ScriptedServer, response


class Server(Protocol):
    """A real one that serves the shipped model."""

    target: str


ONE = Request(b"", (False,))


def load(glimpse: Glimpse, target: str, tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    file = tmp_path / "figures.json"
    ended = glimpse("load", "--target", target, "--json", file, "--quiet", *arguments)
    assert ended.returncode == 0, ended.stderr
    phases: list[dict[str, Any]] = json.loads(file.read_text())["phases"]
    return phases


def test_requests_are_divided_and_their_figures_are_one(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    [phase] = load(
        glimpse,
        scripted.target,
        tmp_path,
        *["--processes", "2", "--requests", "41", "--warm-up", "0", "--callers", "4", "--connections", "1"],
    )
    assert phase["requests"] == phase["classified"] == phase["answered"] == len(scripted.requests) == 41
    assert sum(count for _, count in phase["distribution"]) == 41
    generator = phase["generator"]
    assert generator["processes"] == len(generator["each"]) == 2
    assert generator["cpu_seconds"] == pytest.approx(sum(each["cpu_seconds"] for each in generator["each"])) != 0
    assert generator["busy"] == max(each["busy"] for each in generator["each"])
    assert 0 < generator["busy"] <= 1


def test_a_rate_is_divided_and_phases_follow_one_another(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    phases = load(
        glimpse,
        scripted.target,
        tmp_path,
        *["--processes", "2", "--ramp", "20:40", "--steps", "2", "--steady", "--duration", "2"],
    )
    assert [phase["requests"] for phase in phases] == [20, 40]
    assert [phase["load"]["rate"] for phase in phases] == [20, 40]


@pytest.mark.parametrize("stream", [False, True], ids=["calls", "streams"])
def test_a_real_server_answers_all_processes(server: Server, glimpse: Glimpse, tmp_path: Path, stream: bool) -> None:  # noqa: FBT001  (of parametrize)
    flags = ["--stream", "--window", "2"] if stream else []
    [phase] = load(glimpse, server.target, tmp_path, "--processes", "2", "--callers", "4", "--requests", "60", *flags)
    assert phase["errors"] == {}
    assert phase["answered"] == 60
    assert phase["stages"]["compute"] > 0


def test_the_knee_is_searched_by_several_processes(scripted: ScriptedServer, glimpse: Glimpse) -> None:
    def slow_under_load(request: pb.ClassifyRequest, _: Context) -> pb.ClassifyResponse:
        time.sleep(0.3)
        return response(request)

    scripted.classify = slow_under_load
    ended = glimpse(
        *("load", "--target", scripted.target, "--quiet", "--warm-up", "0"),
        *("--processes", "2", "--find-knee", "--slo", "1", "--rate", "0.01", "--duration", "0.1"),
    )
    assert ended.returncode == 11
    assert "No rate held" in ended.stdout


@pytest.mark.parametrize(
    ("flags", "what"),
    [("--callers 1", "callers"), ("--callers 4 --requests 1", "requests"), ("--rate 5 --requests 1", "requests")],
)
def test_a_process_without_anything_to_send_is_refused(
    flags: str, what: str, scripted: ScriptedServer, glimpse: Glimpse
) -> None:
    ended = glimpse("load", "--target", scripted.target, "--processes", "2", *flags.split())
    assert ended.returncode == 2
    assert f"2 processes need 2 {what} or more" in " ".join(ended.stderr.split())
    assert not scripted.requests


def running(scripted: ScriptedServer, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(CLI), "load", "--target", scripted.target, "--quiet", "--warm-up", "0"]
    return subprocess.Popen(
        [*command, "--duration", "600", "--processes", "2", "--callers", "2", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GLIMPSE_CLIENT_CONFIG": ""},
        start_new_session=True,
    )


def callers(pid: int) -> list[int]:
    """The processes of callers below a command."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"spawn_main" in command:
            found.append(int(child))
    return found


def answered(scripted: ScriptedServer) -> threading.Event:
    """Set when twenty requests have come."""
    event = threading.Event()

    def classify(request: pb.ClassifyRequest, _: Context) -> pb.ClassifyResponse:
        if len(scripted.requests) >= 20:
            event.set()
        return response(request)

    scripted.classify = classify
    return event


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in Linux's /proc")
def test_ctrl_c_reports_what_there_is_and_ends_all_processes(scripted: ScriptedServer, tmp_path: Path) -> None:
    """In a terminal it reaches the command and all of its processes."""
    event, file = answered(scripted), tmp_path / "figures.json"
    command = running(scripted, "--json", str(file))
    assert event.wait(60)
    children = callers(command.pid)
    os.killpg(command.pid, signal.SIGINT)
    stdout, stderr = command.communicate(timeout=60)
    assert command.returncode == 130, stderr
    assert "(stopped)" in stdout
    assert json.loads(file.read_text())["phases"][0]["answered"] >= 19
    assert len(children) == 2
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in Linux's /proc")
def test_a_process_of_callers_that_dies_ends_the_run_with_the_reason(scripted: ScriptedServer) -> None:
    event = answered(scripted)
    command = running(scripted)
    assert event.wait(60)
    children = callers(command.pid)
    os.kill(children[0], signal.SIGKILL)
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "of the callers has ended before its time, with exit code -9." in stderr
    assert not Path(f"/proc/{children[1]}").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in Linux's /proc")
def test_callers_whose_command_is_killed_end_by_themselves(scripted: ScriptedServer) -> None:
    event = answered(scripted)
    command = running(scripted)
    assert event.wait(60)
    children = callers(command.pid)
    command.kill()
    command.communicate(timeout=60)
    end = time.monotonic() + 60
    while [pid for pid in children if alive(pid)]:
        assert time.monotonic() < end, "they live on"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_plan_is_the_sum_of_its_shares() -> None:
    assert split(7, 3) == [3, 2, 2]
    closed = shares(Plan(callers=7, requests=10), 3)
    assert [plan.callers for plan in closed] == [3, 2, 2]
    assert [plan.requests for plan in closed] == [4, 3, 3]
    assert [plan.rate for plan in shares(Plan(rate=90.0, duration=1.0), 3)] == [30.0, 30.0, 30.0]


def test_merged_books_are_those_of_one_that_saw_everything() -> None:
    """Also where one of them has halved its timeline and the other has not."""
    moments = [(number * 0.37 % 200, number % 5 / 100) for number in range(1000)]
    whole, one, other = (Tally(0.0, float("inf")) for _ in range(3))
    for number, (due, latency) in enumerate(sorted(moments)):
        answer = Answer(images=("",), batch=3) if number % 7 else Answer(error="QUEUE_FULL")
        # The other one ends early, with its moments as they were.
        for tally in (whole, other if number % 2 and due < 50 else one):
            tally.sent(ONE, due, due + 0.001)
            tally.done(ONE, answer, due, due + latency)
    assert one.width > other.width
    other.merge(one)
    other.close(200)
    whole.close(200)
    plan, usages = Plan(duration=200.0), (Usage(1.0, 200.0, 0.5),)
    found, expected = (figures.of(PhaseRun(plan, tally, usages)) for tally in (other, whole))
    for each in (found, expected):
        del each["generator"]["most_in_flight"]  # a bound
        for histogram in (each["latency"], each["generator"]["late"], *each["timeline"]):
            histogram.pop("mean", None)  # sums of floats
    assert found == expected


def test_the_run_of_several_processes_is_stopped_if_one_was() -> None:
    plan = Plan(duration=1.0)
    runs = [PhaseRun(plan, Tally(0.0, 1.0), (Usage(cpu, 1.0, cpu),), stopped=cpu > 0.5) for cpu in (0.25, 0.75)]
    run = merged(plan, runs)
    assert run.stopped
    assert [usage.cpu_seconds for usage in run.usages] == [0.25, 0.75]


@pytest.mark.parametrize(("busy", "limited"), [(0.95, True), (0.85, False), (None, False)])
def test_a_generator_that_had_no_time_left_says_that_it_was_the_limit(busy: float | None, limited: bool) -> None:  # noqa: FBT001  (of parametrize)
    usages = (Usage(0.1, 1.0, 0.1), Usage(0.5, 1.0, busy))
    found = figures.of(PhaseRun(Plan(duration=1.0), Tally(0.0, 1.0), usages))
    said = [warning for warning in found["warnings"] if "was the limit, not the server" in warning]
    assert bool(said) == limited
    if limited:
        assert "busy for 95% of the time" in said[0]
        assert "more than --processes 2" in said[0]


def test_a_loop_counts_the_time_in_which_it_waits() -> None:
    async def wait_and_work() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        begin = idle.seconds(loop)
        await asyncio.sleep(0.05)
        waited = idle.seconds(loop)
        time.sleep(0.05)  # noqa: ASYNC251  (works, and does not wait)
        end = idle.seconds(loop)
        assert begin is not None
        assert waited is not None
        assert end is not None
        return waited - begin, end - waited

    waited, worked = idle.run(wait_and_work())
    assert waited >= 0.04
    assert worked == 0


def test_a_token_travels_to_another_process(tmp_path: Path) -> None:
    """By what a copy is made of: one of a file is read there, and not what the file held here."""
    assert deepcopy(Token(value="abc", name="GLIMPSE_TOKEN")).header() == Token(value="abc").header()
    file = tmp_path / "token"
    file.write_text("first")
    token = Token(file=file)
    make, arguments = token.__reduce__()
    file.write_text("second")
    assert make(*arguments).header() == (("authorization", "Bearer second"),)
