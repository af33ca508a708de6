"""The benchmark that feeds an engine alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.bench import engine

pytestmark = [pytest.mark.ci, pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")]


def test_an_engine_that_is_fed_answers_all_and_its_threads_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "measured.json"
    arguments = ["--rates", "200", "--workers", "2", "--seconds", "0.5", "--rounds", "1", "--json", str(file)]
    assert engine.main(arguments) == 0
    ((measured,),) = (rounds["200.0"] for rounds in json.loads(file.read_text(encoding="utf-8")).values())
    assert measured["rate"] > 0
    assert measured["batch"] >= 1
    assert measured["parts"]["compose"] >= 0
    assert measured["parts"]["hand over"] >= 0
    assert "| rate asked for | engine |" in capsys.readouterr().out
