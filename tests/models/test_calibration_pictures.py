"""Pictures that a bundle brings, with which a network is made int8: written, read again, and refused if damaged."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from glimpse.models import bundle as bundles
from glimpse.models import calibration_pictures, golden, variations
from glimpse.models.bundle import Bundle, BundleError
from glimpse.models.commands import calibrate
from glimpse.models.prestem.recipe import Recipe

EMBEDDED = bundles.read(bundles.EMBEDDED_DEFAULT)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundles.read(Path(shutil.copytree(EMBEDDED.folder, tmp_path / "bundle")))


def crops(number: int, recipe: Recipe = EMBEDDED.recipe) -> NDArray[np.uint8]:
    series = variations.crops(variations.opened(golden.photographs()), recipe)
    return np.stack([next(series) for _ in range(number)])


def test_a_bundle_without_pictures_has_none(bundle: Bundle) -> None:
    assert not calibration_pictures.there(bundle)
    assert calibration_pictures.read(bundle) is None


def test_what_is_written_is_read_with_its_classes(bundle: Bundle) -> None:
    pixels, classes = crops(160), np.arange(160) % 10
    assert calibration_pictures.write(bundle.folder, pixels, classes, bundle.recipe)
    assert calibration_pictures.there(bundle)
    found = calibration_pictures.read(bundle)
    assert found is not None
    which = calibration_pictures.chosen(160)
    assert sorted(which) == list(range(160))
    assert (found.classes == classes[which]).all()
    assert found.pixels.shape == pixels.shape
    assert np.abs(found.pixels.astype(int) - pixels[which]).mean() < 4, "JPEG changes little"


def test_of_many_images_300_are_kept_in_3_mb(bundle: Bundle) -> None:
    large = Recipe(height=224, width=224)
    pixels = np.repeat(crops(20, large), 16, axis=0)
    assert calibration_pictures.write(bundle.folder, pixels, np.zeros(320, np.int64), large)
    file = bundle.folder / calibration_pictures.FILE
    assert 1_000_000 < file.stat().st_size < 3_100_000
    kept = len(safetensors.numpy.load_file(file)["ends"])
    assert calibration_pictures.FEWEST <= kept <= calibration_pictures.MOST


def test_calibrate_puts_images_with_their_classes_into_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    for number, pixels in enumerate(crops(160)):
        file = tmp_path / "data" / ("cat" if number % 2 else "ship") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    options = Namespace(data=tmp_path / "data", name="mine")
    assert calibrate._pictures(options, bundle, bundle.folder)
    found = calibration_pictures.read(bundle)
    assert found is not None
    labels = [label.label for label in bundle.labels]
    assert sorted(found.classes) == sorted(80 * [labels.index("cat"), labels.index("ship")])


def test_of_too_few_images_none_is_kept_and_earlier_ones_go(bundle: Bundle) -> None:
    classes = np.zeros(150, np.int64)
    assert calibration_pictures.write(bundle.folder, crops(150), classes, bundle.recipe)
    assert not calibration_pictures.write(bundle.folder, crops(149), classes, bundle.recipe)
    assert not calibration_pictures.there(bundle)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("classes", np.full(150, 10)),
        ("classes", np.full(150, -2)),
        ("classes", np.zeros(149, np.int64)),
        ("ends", np.arange(150)),
        ("ends", np.arange(1, 151)),
        ("ends", np.array([3], np.int64)),
        ("jpeg", np.zeros((3, 4), np.uint8)),
    ],
)
def test_a_damaged_file_is_refused(bundle: Bundle, name: str, values: NDArray[np.int64]) -> None:
    assert calibration_pictures.write(bundle.folder, crops(150), np.zeros(150, np.int64), bundle.recipe)
    file = bundle.folder / calibration_pictures.FILE
    file.write_bytes(safetensors.numpy.save({**safetensors.numpy.load_file(file), name: values}))
    with pytest.raises(BundleError, match=r"has no valid pictures.*models calibrate"):
        calibration_pictures.read(bundle)


def test_pictures_of_another_size_are_refused(bundle: Bundle) -> None:
    other = Recipe(height=40, width=40)
    assert calibration_pictures.write(bundle.folder, crops(150, other), np.zeros(150, np.int64), other)
    with pytest.raises(BundleError, match="40 x 40 pixels, the network 32 x 32"):
        calibration_pictures.read(bundle)


def test_a_file_that_is_too_large_or_no_tensors_is_refused(bundle: Bundle) -> None:
    file = bundle.folder / calibration_pictures.FILE
    for data in (b"nothing", bytes(4_000_000)):
        file.write_bytes(data)
        with pytest.raises(BundleError, match="has no valid pictures"):
            calibration_pictures.read(bundle)
