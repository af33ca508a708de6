"""How many processes a server has, and how long it waits to start one again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from glimpse.server.processes.startup import MemoryShortError, StartupError
from glimpse.server.runtime.memory_budget import MemoryBudget
from glimpse.server.settings import Settings
from glimpse.server.supervisor import plan
from glimpse.server.supervisor.backoff import Backoff
from glimpse.server.supervisor.plan import Plan

linux = pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only")


def settings(**chosen: Any) -> Settings:
    return Settings(**chosen)


@linux
@pytest.mark.parametrize(
    ("chosen", "cpus", "gpus", "workers", "engines"),
    [
        pytest.param({}, 2, 0, 1, 1, id="few cores: one process"),
        pytest.param({}, 15, 0, 1, 1, id="not many cores: one process"),
        pytest.param({}, 16, 0, 2, 1, id="many cores: a worker for eight"),
        pytest.param({}, 256, 0, 16, 1, id="no more than sixteen workers"),
        pytest.param({}, 2, 1, 2, 1, id="a GPU: two workers at least"),
        pytest.param({}, 16, 1, 10, 1, id="a GPU: cores are left to the engine"),
        pytest.param({}, 64, 8, 16, 8, id="an engine for each GPU"),
        pytest.param({"engines": 2}, 64, 8, 16, 2, id="as many engines as are asked for"),
        pytest.param({"workers": 1}, 64, 1, 1, 1, id="one worker is one process"),
        pytest.param({"workers": 3}, 2, 0, 3, 1, id="as many workers as are asked for"),
    ],
)
def test_the_number_of_processes_follows_settings_and_machine(
    chosen: dict[str, Any], cpus: int, gpus: int, workers: int, engines: int
) -> None:
    found = plan.planned(settings(**chosen), cpus=cpus, devices=[str(each) for each in range(gpus)])
    assert (found.workers, found.engines) == (workers, engines)


def test_several_workers_are_refused_where_they_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(StartupError, match="GLIMPSE_WORKERS is 2, but several processes can share a port on Linux"):
        plan.planned(settings(workers=2), cpus=4, devices=())
    assert plan.planned(settings(), cpus=64, devices=["0"]).workers == 1


def test_a_repository_is_served_by_one_process_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIMPSE_WEIGHTS", raising=False)
    chosen = settings(models=Path("repository"))
    assert plan.planned(chosen, cpus=64, devices=["0", "1"]).workers == 1
    several = settings(models=Path("repository"), workers=3)
    assert plan.planned(several, cpus=64, devices=["0", "1"]) == plan.Plan(3, 1, ("0",))
    with pytest.raises(ValueError, match=r"models needs one engine, .* Received: 2"):
        settings(models=Path("repository"), workers=3, engines=2)


def test_several_engines_are_refused_where_there_is_one_process() -> None:
    with pytest.raises(StartupError, match="GLIMPSE_ENGINES is 2, but there is one worker"):
        plan.planned(settings(workers=1, engines=2), cpus=4, devices=())


def test_more_workers_than_memory_are_refused_with_the_figures() -> None:
    budget = MemoryBudget(500 << 20, "within the container's memory limit")
    plan.check_memory(Plan(5, 1), budget)
    with pytest.raises(MemoryShortError) as refused:
        plan.check_memory(Plan(6, 1), budget)
    assert str(refused.value) == (
        "6 workers take about 504 MiB of memory, 84 MiB each, but 500 MiB are free (within the container's memory "
        "limit). Allow more memory, or lower GLIMPSE_WORKERS."
    )


@linux
def test_each_engine_has_a_gpu_of_its_own_by_the_name_that_cuda_knows() -> None:
    found = plan.planned(settings(), cpus=16, devices=["GPU-4f0c", "MIG-91ab", "2"])
    assert [plan.device_of(engine + 1, found.gpus) for engine in range(found.engines)] == ["GPU-4f0c", "MIG-91ab", "2"]
    assert plan.device_of(4, found.gpus) == "GPU-4f0c"  # more engines than GPUs share them


def test_a_process_that_dies_young_is_waited_for_longer_each_time() -> None:
    backoff = Backoff()
    pauses = [backoff.pause(lived=1.0) for _ in range(9)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.pause(lived=60.0) == 0.1
