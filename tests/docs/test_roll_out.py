"""The page about rolling out a new version, as its reader follows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunningServer
from tests.docs.blocks import blocks, commands
from tests.docs.running import assert_said, clone

PAGE = "docs/how-to/roll-out.md"


@pytest.mark.ci
def test_a_version_is_rolled_out_and_back_by_the_commands_of_the_page(
    tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    folder = clone(tmp_path, target="nobody:1", metrics_url="")
    said = ""
    spoken = []
    for block in blocks(PAGE):
        if block.language == "text":
            assert_said(block, said)
        for command in commands(block) if block.language == "sh" else ():
            if command.words == ("make", "serve"):
                ours = {**command.environment, "GLIMPSE_MODELS": str(tmp_path / command.environment["GLIMPSE_MODELS"])}
                running = start_server(environment=ours, model={})
                running.wait_for("serving")
                folder = folder.asking(running.target)
            else:
                said = folder.run(command.text)
                spoken.append(said)
    assert "stable of cifar is version canary." in "".join(spoken)
    listed = folder.run("client/cli.py models list").splitlines()
    assert [line.split()[:4] for line in listed[1:3]] == [
        ["cifar", "1", "ready", "*"],
        ["cifar", "2", "ready", "canary,"],
    ]
