"""A start that was prepared finds its converted models, and imports no framework."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, RunningServer


def prepare(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glimpse.server", "prepare", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.ci
def test_a_start_that_was_prepared_converts_nothing(start_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    ended = prepare("--max-batch-size=2", GLIMPSE_CACHE=str(tmp_path), GLIMPSE_LOG_FORMAT="json")
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line)["event"] for line in ended.stderr.splitlines()]
    # Where the processor has a reduced precision, that is compared as well.
    assert [event for event in events if event not in {"comparing precisions", "precisions compared"}] == [
        "starting",
        "settings",
        "converting network",
        "network converted",
        "model loaded",
        "prepared",
    ]
    running = start_server(environment={"GLIMPSE_CACHE": str(tmp_path)})
    running.wait_for("serving")
    assert not {"network converted", "comparing precisions"} & {line["event"] for line in running.log}


@pytest.mark.ci
def test_to_prepare_where_nothing_can_be_kept_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = prepare(GLIMPSE_CACHE=str(tmp_path / "file"))
    assert ended.returncode == 4
    assert "could not be stored" in ended.stderr.splitlines()[-1]


def test_what_a_start_would_be_refused_for_is_told_when_it_is_prepared(tmp_path: Path) -> None:
    ended = prepare(f"--weights={tmp_path / 'none'}")
    assert ended.returncode == 4
    assert "Cannot load the model" in ended.stderr


@pytest.mark.ci
def test_a_server_loads_no_framework_whether_it_converts_or_not(
    start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    environment = {"GLIMPSE_CACHE": str(tmp_path)}
    for converts in (True, False):
        running = start_server(environment=environment)
        running.wait_for("serving")
        assert any(line["event"] == "network converted" for line in running.log) == converts
        mapped = Path(f"/proc/{running.process.pid}/maps").read_text()
        assert "libopenvino" in mapped
        assert "libtensorflow" not in mapped
        assert not running.stray
        running.terminate()
        assert running.exit_code() == 0
