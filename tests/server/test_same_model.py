"""An engine that is begun again serves what the other engines serve, or says why not."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from glimpse.client import Client
from glimpse.models import bundle
from glimpse.models.groups import ClassGroup
from glimpse.models.spec import NetworkSummary
from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.processes.startup import ModelLoadError
from glimpse.server.supervisor.child import ChildFailedError
from glimpse.server.supervisor.same_model import SameModel
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of
from tests.server.repositories import add
from tests.server.worker_processes import of, ready, until


def facts(**changes: object) -> ModelFacts:
    made = dataclasses.replace(bundle.read(bundle.EMBEDDED_DEFAULT), **changes)  # type: ignore[arg-type]
    return ModelFacts(made, NetworkSummary("", (), 0, 0), "openvino", "CPU", "float32", (1,), {})


def test_the_content_of_a_model_is_its_bundle_wherever_that_is() -> None:
    one = facts()
    there = one.bundle.folder / ".." / one.bundle.folder.name
    assert facts(folder=there, verified_versions=()).content == one.content
    for change in (
        {"weights_digest": "sha256:0"},
        {"temperature": 2.0},
        {"labels": one.bundle.labels[::-1]},
        {"recipe": dataclasses.replace(one.bundle.recipe, mean=(0.0, 0.0, 0.0))},
        {"groups": (ClassGroup("pets", (3, 5)),)},
    ):
        assert facts(**change).content != one.content, change


OLD = {"name": "cifar", "version": "1", "weights_digest": "sha256:aa", "content": "1"}
NEW = {"name": "cifar", "version": "1", "weights_digest": "sha256:bb", "content": "2"}


def test_an_engine_with_another_model_than_the_others_serve_is_refused() -> None:
    same = SameModel()
    same.take(1, OLD, [])
    same.take(2, OLD, [1])
    with pytest.raises(ChildFailedError) as refused:
        same.take(1, NEW, [2])
    assert refused.value.exit_code == ModelLoadError.exit_code
    said = str(refused.value)
    assert "cifar 1 (sha256:bb), and engine 2 serves cifar 1 (sha256:aa)" in said
    assert "Restart the server" in said
    assert "put the former files back" in said
    same.take(1, OLD, [2])


def test_another_description_of_the_same_weights_is_told_as_that() -> None:
    same = SameModel()
    same.take(1, OLD, [])
    with pytest.raises(ChildFailedError, match="with another description"):
        same.take(2, OLD | {"content": "2"}, [1])


def test_where_no_other_engine_serves_what_is_there_now_is_served_and_told() -> None:
    same = SameModel()
    with structlog.testing.capture_logs() as log:
        same.take(1, OLD, [])
        same.take(1, OLD, [])
        assert log == []
        same.take(1, NEW, [])
    (line,) = log
    assert (line["event"], line["log_level"]) == ("another model is served", "warning")
    assert (line["before"], line["model"]) == ("cifar 1 (sha256:aa)", "cifar 1 (sha256:bb)")
    same.take(2, NEW, [1])


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only")
def test_files_that_change_while_engines_serve_give_no_two_answers(
    start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    folder = add(tmp_path, 1)
    running = start_server("--workers=2", "--engines=2", model={"GLIMPSE_WEIGHTS": str(folder)})
    running.wait_for("serving")

    def version() -> str:
        with Client(running.target) as client:
            return client.describe(timeout=TIMEOUT).model.version

    def versions_in_metrics() -> set[str]:
        told = [key for key in metrics_of(running) if key.startswith("glimpse_model_info")]
        return {key.split('version="')[1].split('"')[0] for key in told}

    description = folder / "model.json"
    changed = json.loads(description.read_text()) | {"version": "changed"}
    before = version()
    description.write_text(json.dumps(changed))
    first, second = sorted(of(running, "engine"))
    os.kill(first, signal.SIGKILL)
    until(lambda: any("Restart the server to serve the files" in line.get("detail", "") for line in running.log))
    assert ready(running)
    assert version() == before
    os.kill(second, signal.SIGKILL)
    running.wait_for("another model is served", seconds=TIMEOUT)
    until(lambda: ready(running) and version() == "changed" and versions_in_metrics() == {"changed"})
