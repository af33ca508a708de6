"""The how-to page of multi-label models, as its reader follows it: draw, train, measure, serve, ask."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from glimpse.models import bundle
from tests.conftest import RunningServer
from tests.docs.blocks import blocks, commands
from tests.docs.running import clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
_MODULES = {"train": "glimpse.models.train", "evaluate": "glimpse.models.evaluate"}


def test_what_the_page_trains_tells_which_shapes_are_shown(
    tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    folder = clone(tmp_path, target="nobody:1", metrics_url="")
    for block in blocks("docs/how-to/multi-label.md"):
        if block.language == "python":
            folder.python(block)
        for command in commands(block) if block.language == "sh" else ():
            if command.words == ("make", "serve"):
                made = tmp_path / command.environment["GLIMPSE_WEIGHTS"]
                running = start_server(environment={"GLIMPSE_WEIGHTS": str(made)})
                running.wait_for("serving")
                folder = folder.asking(running.target)
            elif command.words[0] == "make":
                arguments = command.words[2].removeprefix("ARGS=")
                folder.run(f".venv/bin/python -m {_MODULES[command.words[1]]} {arguments}")
            else:
                folder.run(command.text)
    assert bundle.read(tmp_path / "runs/shapes/bundle").metrics["mean_average_precision"] > 0.9
    table = io.StringIO((tmp_path / "drawn/test.csv").read_text())
    wanted = {row["file"]: row["labels"] for row in csv.DictReader(table)}
    told = csv.DictReader(io.StringIO(folder.run("client/cli.py classify drawn/test --csv")))
    found = {Path(row["path"]).name: set(filter(None, row["labels"].split("|"))) for row in told}
    right = sum(set(filter(None, labels.split("|"))) == found[name] for name, labels in wanted.items())
    assert right > 0.8 * len(wanted)
