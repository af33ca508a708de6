"""What the tests of `models` share: small labelled images, and a small network that is quick to train."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (200, 40, 50)}


def pytest_configure(config: pytest.Config) -> None:
    # Keras hands TensorFlow's variables to NumPy, whose `__array__` is older than NumPy 2's `copy`; not ours to mend.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    )


def write_images(folder: Path, *, each: int, seed: int, size: int = 12) -> Path:
    """Noisy patches of one colour a class, as ``folder/class/number.png``."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(np.array(colour) + rng.normal(0, 60, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def zipped(folder: Path, target: Path) -> Path:
    """A zip of `folder` with paths relative to it."""
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    return target


@pytest.fixture
def seeded() -> None:
    """Weights that are drawn in a test are the same each time."""
    import keras  # here alone: most tests of this folder do without

    keras.utils.set_random_seed(3)


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 training images of three classes."""
    return write_images(tmp_path_factory.mktemp("patches"), each=12, seed=1)


@pytest.fixture(scope="session")
def test_patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 test images of the same classes."""
    return write_images(tmp_path_factory.mktemp("test_patches"), each=4, seed=2)
