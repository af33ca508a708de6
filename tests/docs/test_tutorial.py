"""The tutorials that train, as their reader follows them: draw, train, serve, ask."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunningServer
from tests.docs.blocks import blocks, commands
from tests.docs.running import assert_said, clone

_PATHS = ("GLIMPSE_WEIGHTS", "GLIMPSE_SAMPLES")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(("page", "name"), [("own-model", "shapes"), ("in-minutes", "few")])
def test_what_a_tutorial_trains_is_served_and_tells_the_shapes_apart(
    page: str, name: str, tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    folder = clone(tmp_path, target="nobody:1", metrics_url="")
    said = ""
    for block in blocks(f"docs/tutorials/{page}.md"):
        if block.language == "python":
            said = folder.python(block)
        elif block.language == "text":
            assert_said(block, said)
        for command in commands(block) if block.language == "sh" else ():
            if command.words == ("make", "serve"):
                bundle = tmp_path / command.environment["GLIMPSE_WEIGHTS"]
                running = start_server(environment={"GLIMPSE_WEIGHTS": str(bundle)})
                running.wait_for("serving")
                folder = folder.asking(running.target)
            else:
                text = command.text
                if command.words[:2] == ("make", "train"):  # which installs what is installed here, and then runs this
                    text = ".venv/bin/python -m glimpse.models.train " + command.words[2].removeprefix("ARGS=")
                said = folder.run(text)
                if "classify" in command.words:
                    assert_named(said)
    assert f"{name}, version 1" in said  # of describe


def test_with_feedback_a_model_is_right_more_often(tmp_path: Path, start_server: Callable[..., RunningServer]) -> None:
    """By what the servers count of Monday's answers, and of Tuesday's, which nobody has trained with."""
    folder = clone(tmp_path, target="nobody:1", metrics_url="")
    said, right, running = "", list[int](), None
    for block in blocks("docs/tutorials/feedback.md"):
        if block.language == "python":
            folder.python(block)
        elif block.language == "text":
            assert_said(block, said)
        for command in commands(block) if block.language == "sh" else ():
            if command.words == ("make", "serve"):
                paths = {name: str(tmp_path / command.environment[name]) for name in _PATHS}
                if running is not None:
                    running.terminate()
                    assert running.exit_code() == 0
                running = start_server(environment=command.environment | paths)
                running.wait_for("serving", seconds=600)
                folder = folder.asking(running.target)
                continue
            text = command.text
            if command.words[:2] == ("make", "train"):
                text = ".venv/bin/python -m glimpse.models.train " + command.words[2].removeprefix("ARGS=")
            said = folder.run(text)
            right += [int(number) for number in re.findall(r"counted: (\d+) answers were right", said)]
    monday, tuesday = right
    assert tuesday >= monday + 10, right  # of 100


def assert_named(said: str) -> None:
    """Each file lies in a folder that is called as its only line says."""
    lines = said.split()
    files = [word for word in lines if word.endswith(".png")]
    assert len(files) == 3
    for file in files:
        assert lines[lines.index(file) + 1] == Path(file).parent.name, said
