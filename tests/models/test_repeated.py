"""Images that are in the data more than once: which are told of, and which are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train import repeated
from glimpse.models.train.data import LabelledImages, read

from .conftest import write_images

RECIPE = Recipe(height=8, width=8)


def test_images_that_are_there_once_are_not_told_of(patches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = read(patches, RECIPE)
    halves = repeated.seen(images, np.arange(0, 36, 2)), repeated.seen(images, np.arange(1, 36, 2))
    assert repeated.report(patches, None, *halves) == 0
    assert capsys.readouterr().err == ""


def test_a_copy_is_told_of_with_the_file_that_it_is_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "data", each=2, seed=3)
    shutil.copy(data / "red" / "000.png", data / "red" / "copy.png")
    shutil.copy(data / "red" / "000.png", data / "blue" / "wrong.png")
    images = read(data, RECIPE)
    held = np.array([place for place, file in enumerate(images.files) if file == "red/copy.png"])
    rest = np.setdiff1d(np.arange(len(images)), held)
    test = repeated.seen(images.select(held))
    assert repeated.report(data, tmp_path, repeated.seen(images, rest), repeated.seen(images, held), test) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{data}: 2 images are the same as another one, pixel for pixel, but of another class")
    assert "red/000.png as blue/wrong.png, red/copy.png as blue/wrong.png" in said[0]
    assert "of the held-out images, 1 is also trained on" in said[1]
    assert said[1].endswith("too good: red/copy.png as red/000.png. Keep each image once.")
    assert said[2].endswith(f"new images: red/copy.png as red/000.png. Remove them here, or in {data}.")
    assert len(said) == 3


def test_the_same_pixels_with_other_labels_contradict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.array([[1, 0], [1, 0], [1, 1]])
    images = LabelledImages(np.zeros((3, 4, 4, 3), np.uint8), labels, ("a", "b"))
    repeated.report(tmp_path, None, repeated.seen(images), [])
    assert "1 image is the same as another one, pixel for pixel, but" in capsys.readouterr().err
