"""Which version runs, and of what."""

from __future__ import annotations

import re
import tomllib

import pytest

import glimpse
from glimpse.server import build
from tests.conftest import ROOT


def test_the_version_that_is_installed_is_told() -> None:
    assert build.VERSION == glimpse.__version__ == build.version("glimpse-serve") == build.version("glimpse-client")
    assert build.version("no-such-package", "structlog") == build.version("structlog") != ""
    assert build.version("no-such-package") == ""


def test_the_server_needs_the_client_of_its_own_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["dependencies"] == [f"glimpse-client=={glimpse.__version__}"]


@pytest.mark.parametrize("file", ["pyproject.toml", "src/pyproject.toml"])
def test_the_version_stands_in_one_place(file: str) -> None:
    project = tomllib.loads((ROOT / file).read_text("utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert re.fullmatch(r"(src/)?glimpse/__init__\.py", project["tool"]["hatch"]["version"]["path"])
