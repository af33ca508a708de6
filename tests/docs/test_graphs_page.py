"""The network that a how-to page exports is served with the labels and the recipe that the page shows."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from glimpse.client import Client
from tests.conftest import RunningServer
from tests.docs.blocks import ROOT, blocks
from tests.docs.running import Folder

_PAGE = "docs/how-to/graphs.md"


@pytest.mark.ci
def test_the_network_that_a_page_exports_is_served(tmp_path: Path, start_server: Callable[..., RunningServer]) -> None:
    folder = Folder(tmp_path, "", "")
    for block in blocks(_PAGE):
        if block.language == "python":
            folder.python(block)
        elif block.language == "toml":
            tomllib.loads(block.text)
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "sh" and "printf" in block.text:
            folder.run(block.text)
    server = start_server(
        *("--weights", str(tmp_path / "mine")), environment={"GLIMPSE_CACHE": str(tmp_path / "cache")}
    )
    server.wait_for("serving")
    with Client(server.target) as client:
        found = client.classify(ROOT / "docs" / "chelsea.jpg")
        described = client.describe()
    assert {each.label for each in found.predictions} == {"cat", "dog", "bird"}
    assert described.model.name == "classifier"
    assert [stage for stage in described.stages if stage.name == "Convolution"]
