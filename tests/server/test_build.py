"""Which version runs: that of the installed package, or of the sources, as in a container image."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from server import build
from tests.conftest import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def test_the_version_that_is_installed_is_told() -> None:
    assert build.VERSION == build.version("glimpse-serve") == VERSION
    assert build.version("no-such-package", "structlog") == build.version("structlog") != ""
    assert build.version("no-such-package") == ""


@pytest.mark.parametrize(
    ("project", "told"),
    [
        ((ROOT / "pyproject.toml").read_text("utf-8"), VERSION),
        ("[project]\n", "unknown"),
        ("no TOML", "unknown"),
        (None, "unknown"),
    ],
    ids=["image", "no-version", "damaged", "none"],
)
def test_where_nothing_is_installed_the_sources_tell_their_version(
    project: str | None, told: str, tmp_path: Path
) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "build.py").write_bytes((ROOT / "server" / "build.py").read_bytes())
    if project is not None:
        (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    # -S: without the packages of this environment.
    code = "from server import build; print(build.VERSION)"
    ended = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == f"{told}\n"
