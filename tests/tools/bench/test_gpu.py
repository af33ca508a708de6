"""The GPU benchmark: its table, its parts where there is no GPU, and that its own process touches none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from glimpse.server.machine import gpus
from tests.conftest import ROOT
from tools.bench import gpu, gpu_table


def test_the_table_holds_the_best_rates_and_the_shares_of_what_bounds_each() -> None:
    found = {
        "network": "resnet50",
        "runtime": "jax",
        "device": "gpu:0",
        "precision": "bfloat16",
        "batch": 64,
        "device_alone": {"32": 900.0, "64": 1000.0},
        "plain": {"rates": {"128": 1100.0}},
        "services": {
            0: {"raw": {"rate": 600.0}, "large": {"rate": 850.0}, "jpeg": {"rate": 325.0}, "warm_start": 9.26},
            10: {"raw": {"rate": 700.0}, "large": None},
        },
    }
    _, _, row, other = gpu_table.table({"decode": 500.0, "found": [found], "failed": {}}).splitlines()
    cells = ["resnet50, jax", "gpu:0", "bfloat16", "64", "1000", "1100", "600", "60.0%", "850", "85.0%"]
    cells += ["500", "325", "65.0%", "9.3 s"]
    assert row == f"| {' | '.join(cells)} |"
    cells[0], cells[6:10], cells[11:] = "resnet50, jax, 10 workers", ["700", "70.0%", "-", "-"], ["-", "-", "-"]
    assert other == f"| {' | '.join(cells)} |"


def test_the_table_tells_where_the_callers_were_the_limit() -> None:
    loads = {"raw": {"rate": 6.0, "generator_cores": [0.9, 0.8]}, "large": {"rate": 5.0, "generator_cores": [0.3]}}
    found = {"network": "resnet50", "runtime": "jax", "services": {0: {**loads, "jpeg": None}}}
    *_, last = gpu_table.table({"decode": None, "found": [found], "failed": {}}).splitlines()
    assert last == "- resnet50, jax, raw, single: the callers were the limit, at 0.90 of a core each"
    assert "32 a call: the callers" not in gpu_table.table({"decode": None, "found": [found], "failed": {}})


def test_the_table_tells_what_failed_and_leaves_its_cells_open() -> None:
    result = {"decode": None, "found": [{"network": "resnet50", "runtime": "torch"}], "failed": {"start": "E: no\nlog"}}
    _, _, row, _, failure = gpu_table.table(result).splitlines()
    assert set(row.split("|")[2:-1]) == {" - "}
    assert failure == "- start: E: no"


def test_a_part_that_fails_or_takes_too_long_is_recorded_and_ends() -> None:
    run = gpu._Run(Namespace(budget=60.0, part=0.1, json=None))
    assert run.part("endless", lambda: time.sleep(60)) is None
    assert run.part("broken", lambda: 1 // 0) is None
    assert run.part("good", lambda: 7) == 7
    assert run.failed.keys() == {"endless", "broken"}
    assert run.failed["endless"].startswith("TimeoutError")
    over = gpu._Run(Namespace(budget=0.0, part=1.0, json=None))
    assert over.part("late", lambda: 7) is None
    assert "left out" in over.failed["late"]


def test_what_is_found_is_written_after_each_part(tmp_path: Path) -> None:
    """So that whoever ends the run early has what was measured by then."""
    run = gpu._Run(Namespace(budget=60.0, part=10.0, json=tmp_path / "found.json"))
    one = run.result["one"] = {}
    for number in (1, 2):
        run.part("part", lambda number=number: one.update(rate=number))  # type: ignore[misc]
        assert json.loads(run.chosen.json.read_text())["one"] == {"rate": number}
    run.part("broken", lambda: 1 // 0)
    assert json.loads(run.chosen.json.read_text())["failed"].keys() == {"broken"}


def test_where_there_is_no_gpu_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    if gpus.visible():
        pytest.skip("there is a GPU")
    assert gpu.main([]) == 1
    assert "nothing to measure" in capsys.readouterr().err


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu_and_its_own_process_imports_no_framework(tmp_path: Path) -> None:
    script = (
        "import sys; from tools.bench import gpu; code = gpu.main(sys.argv[1:]); "
        "print(sorted({'keras', 'jax', 'torch', 'tensorflow'} & sys.modules.keys())); sys.exit(code)"
    )
    to = tmp_path / "found.json"
    told = (
        "--quick",
        "--networks",
        "embedded",
        "--runtimes",
        "tensorflow",
        "--precision",
        "float32",
        "--json",
        str(to),
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *told],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "GLIMPSE_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"
    result = json.loads(to.read_text())
    (found,) = result["found"]
    assert result["failed"] == {}
    assert result["decode"] > 0
    (service,) = found["services"].values()
    assert min(service["warm_start"], *(service[load]["rate"] for load in ("raw", "large", "jpeg"))) > 0
    assert found["device_alone"].keys() == {"1", "2"}
