"""Where a calibration is kept: in a bundle, which is the old one or the new one at any time, or beside weights."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from glimpse.models import beside, golden, sources
from glimpse.models import bundle as bundles
from glimpse.models.bundle import BundleError
from glimpse.models.calibration import writing
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.sources import ModelSource


def full_disk(*_: object, **__: object) -> None:
    raise OSError("no space")


def same_answer(one: golden.GoldenAnswer, other: golden.GoldenAnswer) -> bool:
    return one.picture == other.picture and bool((one.probabilities == other.probabilities).all())


def test_a_calibration_that_cannot_be_finished_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step that writes; afterwards it can be done again."""
    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    mine = tmp_path / "mine"
    shutil.copytree(shipped.folder, mine)
    before, answers = bundles.read(mine), golden.read(bundles.read(mine))
    assert before.novelty is not None
    changed = replace(before.novelty, threshold=2.0)
    for step in ("copyfile", "replace", "fsync"):
        with monkeypatch.context() as broken:
            owner = {"copyfile": shutil, "replace": Path, "fsync": os}[step]
            broken.setattr(owner, step, full_disk)
            with pytest.raises(OSError, match="no space"):
                writing.write(before, None, temperature=1.5, novelty=changed, drift=None)
        assert bundles.read(mine) == before
        assert [path.name for path in mine.glob("golden*")] == [before.golden]
        assert all(map(same_answer, golden.read(bundles.read(mine)), answers))
    writing.write(before, None, temperature=1.5, novelty=changed, drift=None)
    after = bundles.read(mine)
    assert (after.temperature, after.novelty) == (1.5, changed)
    assert not (mine / before.golden).exists()
    assert len(golden.read(after)) == len(answers)


def test_a_reference_of_drift_goes_with_its_temperature_and_score(tmp_path: Path) -> None:
    mine = shutil.copytree(bundles.EMBEDDED_DEFAULT, tmp_path / "mine")
    shipped = bundles.read(mine)
    assert shipped.novelty is not None
    assert shipped.drift is not None
    same = replace(shipped.novelty, threshold=2.0)
    writing.write(shipped, None, temperature=shipped.temperature, novelty=same, drift=None)
    assert bundles.read(mine).drift == shipped.drift
    other = NoveltyThreshold(score="entropy", threshold=1.0)
    for temperature, novelty in ((1.5, same), (shipped.temperature, other)):
        out = tmp_path / novelty.score
        writing.write(shipped, out, temperature=temperature, novelty=novelty, drift=None)
        assert bundles.read(out).drift is None
        writing.write(bundles.read(out), None, temperature=temperature, novelty=novelty, drift=shipped.drift)
        assert bundles.read(out).drift == shipped.drift


def test_pictures_that_cannot_be_written_leave_the_old_bundle_or_none(tmp_path: Path) -> None:
    """The description, which alone makes a bundle of a folder, comes after everything that belongs to it."""
    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    mine, fresh = tmp_path / "mine", tmp_path / "fresh"
    shutil.copytree(shipped.folder, mine)
    before = bundles.read(mine)
    assert before.novelty is not None
    for out in (None, fresh):
        with pytest.raises(OSError, match="no space"):
            writing.write(before, out, temperature=1.5, novelty=before.novelty, drift=None, first=full_disk)
    assert bundles.read(mine) == before
    assert (fresh / before.weights_file).exists()
    assert not (fresh / bundles.DESCRIPTION).exists()


def test_a_bundle_that_is_made_of_weights_has_the_groups_beside_them(tmp_path: Path) -> None:
    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    weights = tmp_path / "mine.safetensors"
    shutil.copy(shipped.weights_path, weights)
    shutil.copy(shipped.folder / "labels.txt", tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(shipped.recipe.to_dict()))
    (tmp_path / "groups.toml").write_text('pet = ["cat", "dog"]\n')
    found = sources.resolve(ModelSource(weights=str(weights), architecture="se_resnet20", variant="cifar_wide"))
    assert [each.name for each in found.groups] == ["pet"]
    assert shipped.novelty is not None
    out = writing.write(found, tmp_path / "made", temperature=1.5, novelty=shipped.novelty, drift=None)
    assert bundles.read(out).groups == found.groups


def test_a_calibration_beside_a_file_is_read_with_it_and_only_with_it(tmp_path: Path) -> None:
    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    weights = tmp_path / "mine.safetensors"
    shutil.copy(shipped.weights_path, weights)
    shutil.copy(shipped.folder / "labels.txt", tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(shipped.recipe.to_dict()))
    source = ModelSource(weights=str(weights), architecture="se_resnet20", variant="cifar_wide")
    assert sources.resolve(source).temperature == 1

    path = beside.calibration_path(weights)
    assert path.name == "mine.safetensors.calibration.json"
    beside.write_calibration(path, beside.Calibration(1.5, shipped.novelty, shipped.drift), shipped.weights_digest)
    found = sources.resolve(source)
    assert (found.temperature, found.novelty, found.drift) == (1.5, shipped.novelty, shipped.drift)

    beside.write_calibration(path, beside.Calibration(1.5), "sha256:other")
    with pytest.raises(BundleError, match="is of other weights"):
        sources.resolve(source)
    for damaged in ("", "[]", "{}", '{"weights_digest": "x", "temperature": -1}'):
        path.write_text(damaged)
        with pytest.raises(BundleError, match="cannot be used"):
            sources.resolve(source)
