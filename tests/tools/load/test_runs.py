"""The long runs in short: what they count is judged, never how long anything took."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SMALL_MODEL
from tests.variations import ONE_PROCESS_AND_TWO_WORKERS
from tools.load import __main__ as command
from tools.load import chaos, overload, soak
from tools.load.replica import Replica
from tools.load.report import Report

ONE_PROCESS = pytest.param(1, id="one process")
linux = pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only")


@pytest.fixture(scope="module")
def replica(request: pytest.FixtureRequest) -> Iterator[Replica]:
    """Its parameter: its workers."""
    with Replica(environment={"GLIMPSE_WORKERS": str(request.param), **SMALL_MODEL}) as running:
        yield running


def broken(report: Report, *but: str) -> list[str]:
    """The promises that do not hold; `but`: how those begin that speak of times, or of a machine with others on it."""
    return [f"{promise.text}: {promise.found}" for promise in report.broken if not promise.text.startswith(but)]


@pytest.mark.ci
@pytest.mark.parametrize("workers", ONE_PROCESS_AND_TWO_WORKERS)
def test_a_short_soak_ends_as_it_began_and_all_is_counted(workers: int) -> None:
    """Each worker may hold what a server of one process may.

    The six callers send 192 images at once at most, three quarters of what one process takes and with that the share of
    one address. Chance may lead all of them to one worker; with half of the limit it would refuse them, and rightly so.
    """
    environment = {"GLIMPSE_WORKERS": str(workers), "GLIMPSE_MAX_IMAGES_IN_FLIGHT": str(256 * workers), **SMALL_MODEL}
    with Replica(environment=environment) as replica:
        effort = soak.Effort(requests=600, stations=1, pause=0, large=False)
        report = soak.run(soak.Subject(replica.target, replica.metrics, replica.pid), effort)
        assert replica.faults() == []
    assert broken(report) == []
    tally = report.data["tally"]
    assert tally["requests"] == 600
    assert len(tally["outcomes"]) > 15  # kinds
    assert tally["classified"] > 600  # many requests hold several images


@pytest.mark.ci
@pytest.mark.parametrize("replica", [ONE_PROCESS], indirect=True)
def test_the_command_writes_its_figures_and_fails_by_name(
    replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = replica.event("serving")["metrics_port"]
    arguments = f"soak --requests 60 --stations 3 --pause 0 --grown -1000 --json {tmp_path / 'found.json'}".split()
    address = ["--target", replica.target, "--metrics", f"http://127.0.0.1:{port}/metrics"]
    monkeypatch.setattr("sys.argv", ["load", *arguments, *address])
    assert command.main() == 1
    printed = capsys.readouterr()
    assert "| resident memory grows by at most -1000 MB | **broken** |" in printed.out
    assert "Broken: resident memory grows by at most -1000 MB." in printed.err
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert found["data"]["tally"]["requests"] == 60


@pytest.mark.ci
@pytest.mark.parametrize(
    "replica", [ONE_PROCESS, pytest.param(2, id="two workers", marks=[pytest.mark.slow, linux])], indirect=True
)
def test_a_short_overload_turns_away_by_name_and_leaves_nothing_behind(replica: Replica) -> None:
    report = overload.run(replica, overload.Effort(seconds=1.0))
    assert broken(report, "ten times the callers", "an open loop", "memory is flat", "two greedy", "at most") == []
    assert report.data["open"]["refused"]  # it was an overload
    assert report.data["open"]["answered"] > 0
    assert report.data["deadlines"]["hasty"]["answered"] > 0


@pytest.mark.ci
def test_a_short_chaos_is_noticed_by_nobody() -> None:
    report = chaos.run(chaos.Effort(requests=150, terms=1, kills=1, callers=4), SMALL_MODEL)
    assert broken(report, "no drain ran into") == []
    assert report.data["answered"] >= 150
    assert report.data["streamed"] > 0


@pytest.mark.ci
@linux
def test_a_short_chaos_among_the_processes_of_servers_is_noticed_by_nobody() -> None:
    effort = chaos.Effort(requests=150, terms=1, kills=1, worker_kills=1, engine_kills=1, callers=4)
    report = chaos.run(effort, {"GLIMPSE_WORKERS": "2", **SMALL_MODEL})
    assert broken(report, "no drain ran into") == []
    assert {ending["signal"] for ending in report.data["endings"]} == {
        "SIGTERM",
        "SIGKILL",
        "SIGKILL of a worker",
        "SIGKILL of an engine",
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_drain_that_is_announced_loses_nothing_for_those_who_never_retry() -> None:
    effort = chaos.Effort(requests=300, terms=3, kills=0, callers=4, retries=False, until="answering")
    assert broken(chaos.run(effort, {}), "no drain ran into") == []
