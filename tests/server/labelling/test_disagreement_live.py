"""Images of which two versions disagree are kept, by a real server with a shadow that sees wrong colours."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from glimpse import Client
from tests.conftest import RunningServer
from tests.server.photos import add_with_wrong_colours, parts
from tests.server.repositories import add

pytestmark = pytest.mark.ci


def test_an_image_of_which_the_shadow_says_something_else_is_kept(
    tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    root, folder = tmp_path / "models", tmp_path / "samples"
    add(root, 1)
    add_with_wrong_colours(root, 3)
    (root / "cifar" / "aliases.toml").write_text("stable = 1\n")
    (root / "cifar" / "rollout.toml").write_text("[shadow]\nversion = 3\nshare = 1\n")
    running = start_server(
        f"--samples={folder}", "--samples-reasons=disagreement", environment={"GLIMPSE_MODELS": str(root)}, model={}
    )
    running.wait_for("serving", seconds=600)
    with Client(running.target) as client:
        for photo in itertools.islice(parts(), 2000):
            client.classify(photo)
            if len(sides := list(folder.glob("*.json"))) >= 3:
                break
    assert len(sides) >= 3
    for side in sides:
        said = json.loads(side.read_text())
        assert said["reasons"] == ["disagreement"]
        assert said["model"]["version"] == "1"
        assert said["other"]["version"] == "3"
        assert said["other"]["label"] != said["first"][0]["label"]
