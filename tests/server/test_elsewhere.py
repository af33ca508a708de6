"""Other systems: a server starts, answers and ends where Python has less than on Linux."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from glimpse.server.machine import cores
from glimpse.server.runtime import memory_budget
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT

Start = Callable[..., RunningServer]


@pytest.mark.parametrize("system", ["macos", "windows"])
def test_a_server_starts_answers_and_ends_there(
    start_server: Start, picture: Callable[[int], pb.Image], system: str
) -> None:
    lives(start_server(module="tests.server.elsewhere", environment={"SYSTEM": system}), picture)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["macos", "windows"])
def test_a_server_converts_its_network_there(
    start_server: Start, picture: Callable[[int], pb.Image], tmp_path: Path, system: str
) -> None:
    cache = {"GLIMPSE_CACHE": str(tmp_path / "cache")}
    running = start_server(module="tests.server.elsewhere", environment={"SYSTEM": system, **cache})
    running.wait_for("network converted")
    lives(running, picture)


def lives(running: RunningServer, picture: Callable[[int], pb.Image]) -> None:
    running.wait_for("serving")
    with grpc.insecure_channel(running.target) as channel:
        answer = ImageClassifierStub(channel).Classify(pb.ClassifyRequest(images=[picture(1)]), timeout=TIMEOUT)
    assert answer.results[0].predictions
    running.terminate()
    assert running.exit_code() == 0
    assert running.wait_for("stopped")["in_flight"] == 0
    assert running.stray == []


def test_where_there_are_no_decoder_processes_the_server_says_so(start_server: Start) -> None:
    running = start_server("--decode-in=processes", module="tests.server.elsewhere", environment={"SYSTEM": "windows"})
    assert running.exit_code() == 1
    assert "Set GLIMPSE_DECODE_IN=threads" in running.wait_for("cannot start")["detail"]


def test_without_a_word_of_the_scheduler_the_machine_s_cores_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert cores.available(tmp_path / "no such file") == 3
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert cores.available(tmp_path / "no such file") == 1


def test_without_accounts_of_memory_nothing_is_known_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory_budget, "resource", None)
    assert memory_budget.available(tmp_path) is None
    assert memory_budget.killed_for_memory(tmp_path) == 0
