"""Files of a user that are nested more deeply than their readers go: each is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from glimpse.client.commands import config
from glimpse.client.commands.output import File
from glimpse.client.commands.records import JsonLines
from glimpse.client.commands.sorting import unsort
from glimpse.client.load import scenario

DEEP = "[" * 50_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "deep"
    path.write_text(f"a = {DEEP}\n")
    return path


def test_the_client_s_own_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CLIENT_CONFIG", str(file))
    with pytest.raises(ValueError, match="is nested too deeply"):
        config.defaults({"target": str})


def test_a_scenario(file: Path) -> None:
    with pytest.raises(ValueError, match="is nested too deeply"):
        scenario.read(file, timeout=1.0)


def test_a_list_of_what_was_sorted(file: Path) -> None:
    file.write_text(f"{DEEP}\n")
    with pytest.raises(ValueError, match="nested too deeply"):
        list(unsort(file))


def test_answers_to_go_on_with(file: Path) -> None:
    file.write_text(f'{{"path": "{DEEP}\n{{"path": {DEEP}\n')
    with File(file, JsonLines()) as answers, pytest.raises(ValueError, match="is not the output of this command"):
        answers.resume(retry_failed=False)
