"""The process of a server: how its threads take turns, and what Python looks through for garbage."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glimpse.server.machine.memory import settle
from tests.conftest import RunningServer
from tests.variations import mostly_in_ci


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no SCHED_BATCH")
def test_the_threads_of_a_server_take_turns_at_ticks(server: RunningServer) -> None:
    """Those that are there when it serves; each inherits it from the one that began it."""
    threads = [int(task.name) for task in Path(f"/proc/{server.process.pid}/task").iterdir()]
    assert len(threads) > 10
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}


@pytest.mark.parametrize("limit", mostly_in_ci(["AVX2", "SSE41"], "AVX2"))
def test_a_server_computes_without_the_instructions_its_environment_rules_out(
    start_server: Callable[..., RunningServer], limit: str
) -> None:
    """Where the environment limits the instructions, a server computes with the others."""
    running = start_server("--runtime=openvino", environment={"ONEDNN_MAX_CPU_ISA": limit})
    running.wait_for("serving")
    assert running.wait_for("model loaded")["precision"] == "float32"


def test_what_is_there_when_all_is_loaded_is_not_looked_through_again() -> None:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)  # Python's own; a server in this process may have changed them
    try:
        kept: list[list[int]] = [[] for _ in range(1000)]
        settle()
        assert gc.get_freeze_count() > len(kept)
        assert gc.get_threshold()[0] > 700
        cycle: list[Any] = []
        cycle.append(cycle)
        del cycle
        assert gc.collect() >= 1, "what comes later is still looked through"
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
