"""The GPU benchmark's table, and that it claims nothing where there is no GPU."""

from __future__ import annotations

import pytest

from tools.bench import gpu


def test_the_table_holds_medians_and_the_shares_of_what_bounds_each() -> None:
    found = {
        "network": "mobilenet",
        "runtime": "jax",
        "device": "gpu:0",
        "precision": "bfloat16",
        "batch": 64,
        "compute": [900.0, 1000.0, 1100.0],
        "decode": [500.0, 400.0, 600.0],
        "raw": [950.0, 990.0, 910.0],
        "jpeg": [450.0, 475.0, 425.0],
    }
    _, _, row = gpu.table([found]).splitlines()
    assert row == "| mobilenet, jax | gpu:0 | bfloat16 | 64 | 1000 | 950 | 95.0% | 500 | 450 | 90.0% |"


@pytest.mark.slow
def test_where_no_runtime_computes_on_a_gpu_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """It loads the runtime to find out."""
    if gpu.main(["--runtimes", "tensorflow", "--networks", "embedded", "--rounds", "0"]) == 0:
        pytest.skip("there is a GPU")
    assert "nothing to measure" in capsys.readouterr().err
