"""Training with the samples that a server has kept: those with a true class are images of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train import samples
from glimpse.models.train.checks import report_new_classes, report_unlabelled
from glimpse.models.train.data import read
from glimpse.server.labelling.folder import MARK, Limits, SampleFolder

RECIPE = Recipe(height=8, width=8)


def kept(path: Path, *classes: str | None) -> Path:
    """A folder as the server writes it."""
    folder = SampleFolder(path, Limits(100, 1 << 30, 3600.0))
    folder.open()
    for number, each in enumerate(classes):
        file = path.parent / "one.png"
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(file)
        folder.add(f"{number:032x}", file.read_bytes(), ".png", {"reasons": ["random"], "true_class": None})
        if each is not None:
            folder.label(f"{number:032x}", each)
    return path


def test_labelled_samples_are_images_of_their_class(tmp_path: Path) -> None:
    images = read(kept(tmp_path / "samples", "red", None, "green", "red", "a/b"), RECIPE)
    assert images.labels == ("a-b", "green", "red")
    assert images.pixels[:, 0, 0, 0].tolist() == [0, 2, 3, 4]
    assert images.classes.tolist() == [2, 1, 2, 0]


def test_they_are_added_to_other_images_with_their_classes(tmp_path: Path, patches: Path) -> None:
    path = kept(tmp_path / "samples", "red", "violet", None)
    alone, images = read(patches, RECIPE), read(patches, RECIPE, besides=path)
    assert images.labels == ("blue", "green", "red", "violet")
    assert len(images) == len(alone) + 2
    assert images.classes[-2:].tolist() == [2, 3]
    assert np.array_equal(images.pixels[: len(alone)], alone.pixels)


def test_those_without_a_class_are_counted(tmp_path: Path, patches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = kept(tmp_path / "samples", "red", None, None)
    report_unlabelled(patches, path, None)
    assert capsys.readouterr().err == f"{path}: 2 samples have no true class yet and are left out.\n"


def test_classes_that_come_from_samples_alone_are_told(
    tmp_path: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new class is one, and so is one that somebody has spelt in another way."""
    report_new_classes(patches, None)
    report_new_classes(patches, kept(tmp_path / "known", "red", "green", None))
    assert capsys.readouterr().err == ""
    path = kept(tmp_path / "samples", "red", "Red", "violet")
    report_new_classes(patches, path)
    assert capsys.readouterr().err == (
        f"{path}: these classes, of which {patches} has no image, become classes of the model, too: Red, violet.\n"
    )


@pytest.mark.parametrize(
    "side",
    [
        "no JSON",
        "[]",
        json.dumps({"file": "a.png"}),
        json.dumps({"file": "../one.png", "true_class": "red"}),
        json.dumps({"file": 1, "true_class": "red"}),
        json.dumps({"file": ".one.png", "true_class": ["red"]}),
    ],
)
def test_what_is_no_label_leaves_its_sample_out(tmp_path: Path, side: str) -> None:
    path = kept(tmp_path / "samples", "green", "red")
    (path / f"{1:032x}.json").write_text(side)
    assert list(samples.labelled(path)) == [(f"{0:032x}.png", "green")]


def test_the_server_and_training_know_the_folder_by_the_same_file() -> None:
    assert samples.MARK == MARK
