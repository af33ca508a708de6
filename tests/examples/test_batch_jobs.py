"""The batch jobs, each on a cluster of this machine alone, beside the answers of a `Classifier`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glimpse import Classifier
from tests.conftest import ROOT

_PATIENCE = 560  # seconds; until a job is called hung
_NEEDED = {"ray": ("ray", "pandas", "pyarrow"), "spark": ("pyspark", "pandas", "pyarrow")}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.ci) for name in _NEEDED])  # an engine takes long to start
def engine(request: pytest.FixtureRequest) -> str:
    """The name of an engine that is installed."""
    name: str = request.param
    missing = [package for package in _NEEDED[name] if importlib.util.find_spec(package) is None]
    if name == "spark" and shutil.which("java") is None:
        missing.append("java")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; examples/{name}/README.md says how to install it")
    return name


@pytest.fixture
def photos(tmp_path: Path, cat_photo: Path) -> Path:
    """More photos than one batch holds, in folders of folders, among them some that cannot be classified."""
    below = tmp_path / "photos" / "below"
    below.mkdir(parents=True)
    for number in range(70):
        shutil.copyfile(cat_photo, (below if number % 2 else below.parent) / f"{number}.jpg")
    (below / "truncated.jpg").write_bytes(cat_photo.read_bytes()[:5000])
    (below / "empty.png").touch()
    (below.parent / "text.jpeg").write_text("no photo")
    (below / "notes.txt").write_text("left out")
    return below.parent


def run(engine: str, *arguments: str | Path) -> list[dict[str, Any]]:
    """Run an example to its end; returns the rows that it wrote."""
    import pyarrow.parquet

    ours = {name: value for name, value in os.environ.items() if not name.startswith("GLIMPSE_WEIGHTS")}
    ended = subprocess.run(
        [sys.executable, ROOT / "examples" / engine / "classify.py", *arguments],
        env={
            **ours,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
            "PYSPARK_PYTHON": sys.executable,
            "RAY_USAGE_STATS_ENABLED": "0",
            "SPARK_LOCAL_IP": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(arguments[1]).to_pylist()
    return rows


@pytest.mark.timeout(2 * _PATIENCE)
def test_all_photos_get_a_row_and_those_that_fail_an_error(
    engine: str, photos: Path, cat_photo: Path, tmp_path: Path
) -> None:
    rows = run(engine, photos, tmp_path / "answers", "--model", "cifar10", "--top-k", "3")
    found = {Path(row["path"].removeprefix("file:")): row for row in rows}
    assert len(found) == len(rows)
    wrong = {"truncated.jpg": "TRUNCATED_IMAGE", "text.jpeg": "NOT_AN_IMAGE", "empty.png": "EMPTY_IMAGE"}
    if engine == "spark":  # it leaves out empty files
        del wrong["empty.png"]
        (photos / "below" / "empty.png").unlink()
    assert set(found) == {path for path in photos.rglob("*") if path.suffix in {".jpg", ".jpeg", ".png"}}
    failed = {path.name: row["error"] for path, row in found.items() if row["error"] is not None}
    assert failed == wrong
    with Classifier.load("cifar10") as classifier:
        wanted = classifier.classify(cat_photo, top_k=3).predictions
    for path, row in found.items():
        if path.name in failed:
            assert (row["label"], row["probability"], row["labels"]) == (None, None, [])
            assert row["message"]
        else:
            assert (row["label"], row["message"]) == ("cat", None)
            assert row["labels"] == [each.label for each in wanted]
            # The last digits of a probability depend on the batch that the image rode in.
            assert row["probabilities"] == pytest.approx([each.probability for each in wanted], abs=5e-3)
