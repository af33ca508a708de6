"""The sets that make installs, one on top of the other, agree on every version."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALLER_FIRST = ["client", "server", "train", "dev"]


def pins(name: str) -> dict[str, str]:
    """Version by package of one lock."""
    text = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ \\;]+)", text, re.MULTILINE))


@pytest.mark.parametrize(("smaller", "larger"), list(pairwise(SMALLER_FIRST)))
def test_a_larger_set_disturbs_no_smaller_one(smaller: str, larger: str) -> None:
    assert pins(smaller).items() <= pins(larger).items()


def test_training_needs_no_tools_of_development() -> None:
    assert "matplotlib" in pins("train")
    assert pins("train").keys().isdisjoint({"mypy", "buf-bin", "ruff", "pytest", "grpcio-tools"})


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "lock"), [("client", "client"), ("train", "train"), ("evaluate", "server"), ("serve", "server")]
)
def test_make_installs_the_smallest_set_that_does(target: str, lock: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "src", "locks"):
        (tmp_path / name).symlink_to(ROOT / name)
    ended = subprocess.run(
        [str(shutil.which("make")), "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert re.findall(r"-r locks/(\w+)\.txt", ended.stdout) == [lock]
    assert ("With TensorFlow" in ended.stdout) == (lock != "client"), "it says what takes minutes"
