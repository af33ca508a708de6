"""Memory for a model: what there is, what it takes, and what a server without enough of it says."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from glimpse.models import bundle as bundles
from glimpse.models.sources import ModelSource
from glimpse.server.loading import checks
from glimpse.server.loading.loading import load_model
from glimpse.server.loading.options import LoadOptions
from glimpse.server.machine import cores, gpus
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.processes.startup import MemoryShortError
from glimpse.server.runtime import memory_budget
from glimpse.server.runtimes import RUNTIMES, RuntimeName
from glimpse.server.settings import Settings
from tests.conftest import RunningServer

GIB = 1 << 30
BUNDLE = bundles.read(bundles.EMBEDDED_DEFAULT)


def system(root: Path, **files: str) -> Path:
    """A file system with these files, `__` for a slash."""
    for name, text in {"proc__meminfo": "MemTotal: 999 kB\nMemAvailable:   8388608 kB\n", **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def free(root: Path) -> int | None:
    found = memory_budget.available(root)
    return None if found is None else found.free


def check(budget: memory_budget.MemoryBudget | None, *, converted: bool, rows: int = 0) -> None:
    row = RUNTIMES["openvino"]
    takes = memory_budget.expected(BUNDLE, row, converted=converted, rows=rows, images=0)
    assert takes is not None
    memory_budget.check(BUNDLE.name, row, takes, budget)


def test_without_any_limit_it_is_what_the_machine_has_left(tmp_path: Path) -> None:
    assert free(system(tmp_path)) == 8 * GIB


def test_a_container_of_version_2_allows_its_limit_less_what_must_stay(tmp_path: Path) -> None:
    """A container of version 2 allows its limit less what is used, but for the files that it keeps."""
    root = system(
        tmp_path,
        proc__self__cgroup="0::/\n",
        **{
            "sys__fs__cgroup__memory.max": f"{2 * GIB}\n",
            "sys__fs__cgroup__memory.current": f"{GIB}\n",
            "sys__fs__cgroup__memory.stat": f"anon 7\ninactive_file {GIB // 4}\n",
        },
    )
    assert free(root) == GIB + GIB // 4
    assert "container" in (memory_budget.available(root) or memory_budget.MemoryBudget(0, "")).limit


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    group = "sys__fs__cgroup__pods__mine__memory"
    outer = "sys__fs__cgroup__pods__memory"
    root = system(
        tmp_path,
        proc__self__cgroup="0::/pods/mine\n",
        **{f"{group}.max": "max", f"{group}.current": "5", f"{outer}.max": f"{GIB}", f"{outer}.current": "0"},
    )
    assert free(root) == GIB


def test_a_container_of_version_1_is_understood_too(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        proc__self__cgroup="7:cpu:/x\n5:memory:/docker/abc\n",
        **{
            "sys__fs__cgroup__memory__memory.limit_in_bytes": f"{GIB}",
            "sys__fs__cgroup__memory__memory.usage_in_bytes": f"{GIB // 2}",
            "sys__fs__cgroup__memory__memory.stat": "total_inactive_file 100\n",
        },
    )
    assert free(root) == GIB // 2 + 100


def test_version_1_without_a_limit_is_no_limit(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        proc__self__cgroup="5:memory:/\n",
        **{
            "sys__fs__cgroup__memory__memory.limit_in_bytes": "9223372036854771712",
            "sys__fs__cgroup__memory__memory.usage_in_bytes": "5",
        },
    )
    assert free(root) == 8 * GIB


def test_where_nothing_is_known_nothing_is_refused(tmp_path: Path) -> None:
    assert memory_budget.available(tmp_path) is None
    check(None, converted=False, rows=10**9)


def test_this_machine_says_what_it_has() -> None:
    found = memory_budget.available()
    assert found is not None
    assert 0 < found.free < 1 << 50


def test_half_floats_are_counted_as_the_float32_that_they_are_computed_in(tmp_path: Path) -> None:
    weights = BUNDLE.weights_path.stat().st_size
    alone = memory_budget.needed(BUNDLE, 4.5, rows=0, images=0)
    assert alone == 2 * weights * 4.5
    assert memory_budget.needed(BUNDLE, 4.5, rows=3, images=5) - alone == 8 * 32 * 32 * 3


def test_a_network_that_is_converted_already_takes_less(tmp_path: Path) -> None:
    between = memory_budget.MemoryBudget(memory_budget.needed(BUNDLE, 2.0, rows=0, images=0), "what is left of a test")
    check(between, converted=True)
    with pytest.raises(MemoryShortError, match="with openvino takes"):
        check(between, converted=False)


def test_a_refusal_names_what_is_needed_and_what_there_is() -> None:
    with pytest.raises(MemoryShortError, match=r"takes about \d+ MiB .* 3 MiB are free \(what is left of a test\)"):
        check(memory_budget.MemoryBudget(3 << 20, "what is left of a test"), converted=False)


def test_a_server_without_memory_for_its_model_says_so_with_its_own_exit_code(
    start_server: Callable[..., RunningServer],
) -> None:
    """A server without memory for its model says so with an exit code that stands for nothing else."""
    # Images in flight that would take 18 GB, in a process that may have 8: room for the framework, not for them.
    running = start_server("--max-images-in-flight=6000000")
    resource.prlimit(running.process.pid, resource.RLIMIT_AS, (8 * GIB, 8 * GIB))
    assert running.exit_code(seconds=120) == 6
    detail = running.wait_for("cannot start")["detail"]
    assert "takes about 17" in detail
    assert "MiB are free" in detail


def test_who_was_killed_for_want_of_memory_is_counted_as_the_system_tells_it(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        proc__self__cgroup="0::/mine\n",
        proc__vmstat="nr_free_pages 5\noom_kill 3\n",
        **{
            "sys__fs__cgroup__mine__memory.events": "low 0\noom 9\noom_kill 2\n",
            "sys__fs__cgroup__memory.events": "oom_kill 1\n",
        },
    )
    assert memory_budget.killed_for_memory(root) == 6
    assert memory_budget.killed_for_memory(tmp_path / "nothing is told") == 0


@pytest.mark.parametrize(
    ("runtime", "available", "buffers"), [("openvino", 1, 2), ("openvino", 8, 9), ("torch", 1, 4), ("torch", 8, 9)]
)
def test_the_staging_of_every_device_that_may_compute_is_counted(
    monkeypatch: pytest.MonkeyPatch, runtime: RuntimeName, available: int, buffers: int
) -> None:
    """A GPU has two streams and needs four buffers, however few cores are beside it."""
    monkeypatch.setattr(cores, "available", lambda: available)
    assert staged(monkeypatch, runtime, max_batch_size=16) == 16 * buffers


@pytest.mark.parametrize(
    ("runtime", "beside", "rows"),
    [
        ("openvino", "a GPU", 2 * 32),
        ("torch", "a GPU", 4 * 256),
        ("torch", "no GPU", 4 * 32),
        ("tensorflow", "a GPU, in its build for CPUs", 4 * 32),
    ],
)
def test_the_largest_batch_that_a_gpu_may_be_found_worth_is_counted(
    monkeypatch: pytest.MonkeyPatch, runtime: RuntimeName, beside: str, rows: int
) -> None:
    """How large the batches are is measured once the model is loaded."""
    monkeypatch.setattr(cores, "available", lambda: 1)
    monkeypatch.setattr(gpus, "may_be_there", lambda: beside != "no GPU")
    monkeypatch.setattr(checks, "is_for_cpus", lambda _: beside.endswith("for CPUs"))
    assert staged(monkeypatch, runtime, max_batch_size=0) == rows


def staged(monkeypatch: pytest.MonkeyPatch, runtime: RuntimeName, *, max_batch_size: int) -> int:
    """Rows of staging that are counted before a model is loaded."""
    counted = list[int]()

    def noted(*_: object, rows: int, **__: object) -> None:
        counted.append(rows)
        raise MemoryShortError("it is not to be loaded")

    monkeypatch.setattr(memory_budget, "expected", noted)
    chosen = Settings(max_batch_size=max_batch_size)  # type: ignore[call-arg]
    options = replace(LoadOptions.of(chosen), runtimes=(runtime,))
    with pytest.raises(MemoryShortError):
        load_model(ModelSource(weights=str(bundles.EMBEDDED_DEFAULT)), options, Metrics().of)
    (rows,) = counted
    return rows
