"""What `python -m glimpse.models.train` refuses before it trains, and what it leaves behind then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import keras
import pytest
from PIL import Image

from glimpse.models import bundle
from glimpse.models.train import __main__ as command
from glimpse.models.train import fit
from glimpse.models.train.plan import CHECKPOINT, exclusive
from tests.models.full_disk import files_of
from tests.models.training import SMALL, options

from .conftest import write_images


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--architecture", "resnet200"), "Did you mean resnet20"),
        (("--variant", "imagenet"), "has no variant 'imagenet'"),
        (("--hold-out", "0"), "--hold-out must be at least 1"),
        (("--stop-after", "0"), "--stop-after must be at least 1 epoch. Received: 0"),
        (("--seed", "4294967296"), "seed must be at most 4294967295"),
        (("--hold-out", "36"), "--hold-out must be at least 0 and less than the number of images, 36. Received: 36"),
        (("--epochs", "0"), "epochs must be greater than 0"),
        (("--std", "0", "1", "1"), "std must be three positive numbers"),
        (("--data", "nowhere.zip"), "nowhere.zip does not exist"),
        (("--name", "two words"), "The bundle's name must be 1 to 200 letters, digits"),
        (("--bundle-version", "v 1"), "The bundle's version must be 1 to 200 letters, digits"),
        (("--hold-out", "35"), "All images of the class"),
        (("--mean", "nan", "0", "0"), "mean must be"),
        (("--export-only",), "Train first"),
        (("--seed", "-1"), "seed must be at least 0. Received: -1"),
        (("--architecture", "mobilenet", "--option", "alhpa=0.5"), "has no option 'alhpa'. Did you mean alpha?"),
        (("--architecture", "mobilenet", "--option", "alpha=wide"), "alpha must be a number. Received: 'wide'"),
        (("--architecture", "mobilenet", "--option", "rho=2"), "rho must be above 0 and at most 1. Received: 2"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_training(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert command.main(options(patches, tmp_path / "run", *more)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--architecture", "vgg16", "--size", "8x8"), "vgg16 cannot be built for images of 8 x 8 pixels in float32: "),
        (("--precision", "float33"), f"{SMALL} cannot be built for images of 8 x 8 pixels in float33: "),
    ],
)
def test_a_network_that_cannot_be_built_is_told_and_keeps_no_other_run_away(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    """A network that cannot be built is told in a line, and keeps no other run away from the folder."""
    out = tmp_path / "run"
    for _ in range(2):
        assert command.main(options(patches, out, *more)) == 1
        [said] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("glimpse.models.train: ")]
        assert message in said
        more = (*more, "--momentum", "0.8")


@pytest.mark.parametrize(
    "name", ["a\tb", "a\nb", "a\rb", "a\x1bb", "a\x7fb", "a\x85b", "a\u2028b", " ", "\ufeffa", "a\udcffb"]
)
def test_a_class_that_no_bundle_can_name_is_refused_before_any_training(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "data", each=2, seed=1)
    (data / "red").rename(data / name)
    assert command.main(options(data, tmp_path / "run", "--hold-out", "3")) == 1
    said = capsys.readouterr()
    assert "Epoch" not in said.out
    assert "A label " in said.err
    assert repr(name) in said.err
    assert not (tmp_path / "run").exists()


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "data", each=8, seed=1)
    shutil.rmtree(data / "red")
    shutil.rmtree(data / "blue")
    assert command.main(options(data, tmp_path / "run", "--hold-out", "1")) == 1
    assert "has only one class, 'green'; training needs at least two" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_folders_without_an_image_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "data", each=8, seed=1)
    for name in ("red", "blue"):
        shutil.rmtree(data / name)
        (data / name).mkdir()
    (data / "red" / "1.heic").write_bytes(b"a photo of a telephone")
    assert command.main(options(data, tmp_path / "run", "--hold-out", "1")) == 1
    said = capsys.readouterr().err
    assert f"{data}: folders without a readable image, which become no class: 'blue', 'red'\n" in said
    assert "has only one class, 'green'" in said


def flat_images(folder: Path) -> Path:
    for name in ("black", "darker"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8)).save(folder / name / f"{number}.png")
    return folder


def test_images_without_contrast_train_with_a_scaling_that_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = flat_images(tmp_path / "data")
    given = options(data, tmp_path / "run", "--hold-out", "1", "--epochs", "1", "--mean", "0", "0", "0")
    assert command.main([*given, "--std", "1", "1", "1", "--test", str(data)]) == 0
    # They are all the same image, which is told here and in the card.
    said = capsys.readouterr().err
    assert f"{data}: 4 images are the same as another one, pixel for pixel, but of another class" in said
    assert f"{data}: of the held-out images, 1 is also trained on, pixel for pixel" in said
    assert f"{data}: of the test images, 8 are also trained on, pixel for pixel" in said
    card = " ".join((tmp_path / "run" / "bundle" / "MODEL_CARD.md").read_text().split())
    assert "8 test images give the results below. 8 of them were also trained on, pixel for pixel" in card
    recipe = bundle.read(tmp_path / "run" / "bundle").recipe
    assert (recipe.mean, recipe.std) == ((0, 0, 0), (1, 1, 1))


def test_images_without_contrast_are_refused_without_a_deviation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = flat_images(tmp_path / "data")
    assert command.main(options(data, tmp_path / "run", "--hold-out", "1", "--mean", "0", "0", "0")) == 1
    assert "Give --mean and --std" in capsys.readouterr().err


def test_an_out_that_cannot_be_written_is_refused_before_any_training(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bundle").write_text("")
    for out in ("file", "file/run", "run"):
        assert command.main(options(patches, tmp_path / out)) == 1
        said = capsys.readouterr()
        assert "is not a folder, so" in said.err
        assert said.out == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_out_that_may_not_be_written_is_refused_before_any_training(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    assert command.main(options(patches, tmp_path / "run")) == 1
    assert "cannot be written to" in capsys.readouterr().err


def test_two_runs_do_not_share_a_folder(patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive(tmp_path):
        assert command.main(options(patches, tmp_path)) == 1
    assert f"Another training is running in {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    checkpoint = tmp_path / CHECKPOINT
    checkpoint.write_bytes(b"the last one")
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5000)])
    said = r"checkpoint\.weights\.h5 cannot be written: File too large"
    with files_of(10_000), pytest.raises(OSError, match=said):
        fit.save_checkpoint(model, checkpoint)
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]
    assert checkpoint.read_bytes() == b"the last one"
