"""The bundle of a run is the old one until the new one is whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models import bundle, golden
from glimpse.models.bundle import ClassLabel
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.renewed import renewed


def make(folder: Path, *, weights: bytes = b"old", version: str = "1") -> bundle.Bundle:
    """A bundle with recorded answers."""

    def answer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array([[0.9, 0.1]] * len(pixels), np.float32)

    (folder / bundle.WEIGHTS).write_bytes(weights)
    made = bundle.write(
        folder,
        name="small",
        version=version,
        architecture="resnet20",
        variant="cifar",
        input_shape=(8, 8, 3),
        labels=[ClassLabel("red"), ClassLabel("blue")],
        recipe=Recipe(height=8, width=8),
        temperature=1.0,
        metrics={},
    )
    return golden.record(made, answer, golden.pictures(folder)[:1], by=f"version {version}")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_what_goes_wrong_leaves_the_bundle_of_before(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    make(target)
    before = contents(target)

    def make_anew() -> None:
        with renewed(target) as fresh:
            make(fresh, weights=b"new", version="2")
            raise error

    with pytest.raises(type(error)):
        make_anew()
    assert contents(target) == before
    assert not list(target.glob(".*"))


def test_a_bundle_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    """With what a user has put beside it, and without what is of the one before alone."""
    target = tmp_path / "runs" / "bundle"
    with renewed(target) as fresh:
        make(fresh)
    for name in ("groups.toml", "confusion.png", "calibration.safetensors"):
        (target / name).touch()
    (target / "golden").rename(target / "golden-1a2b")  # as `calibrate` calls it
    description = target / bundle.DESCRIPTION
    description.write_text(json.dumps(json.loads(description.read_text()) | {"golden": "golden-1a2b"}))
    (target / ".new-killed").mkdir()
    for version in ("2", "3"):
        with renewed(target) as fresh:
            make(fresh, weights=version.encode(), version=version)
        made = bundle.read(target)
        made.check_digest()
        assert made.version == version
        assert json.loads((target / "golden" / "answers.json").read_text())["by"] == f"version {version}"
        assert len(golden.read(made)) == 1
        there = {"groups.toml", "labels.txt", "model.json", "weights.safetensors", "golden"}
        assert {path.name for path in target.iterdir()} == there
