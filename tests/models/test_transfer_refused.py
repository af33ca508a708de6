"""What `python -m glimpse.models.train --from BASE` refuses or says before any training, and what it says of none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from glimpse.models.train import __main__ as command
from glimpse.models.train.transfer import export
from glimpse.models.train.transfer.phase import Outcome
from tests.models.training import PRETRAINED, RANDOM
from tests.models.training import transfer_options as options

from .conftest import write_images


def test_what_differs_from_the_preprocessing_of_the_base_is_said(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any training: this run is refused, because too few images would be held out."""
    refused = ("--from", PRETRAINED, "--hold-out", "2")
    assert command.main(["--data", str(patches), "--out", str(tmp_path / "run"), *refused, "--geometry", "squash"]) == 1
    assert "The preprocessing is the base's, except geometry squash (the base's: " in capsys.readouterr().err
    assert command.main(["--data", str(patches), "--out", str(tmp_path / "run"), *refused]) == 1
    assert "The preprocessing is" not in capsys.readouterr().err


def test_thawing_that_brings_nothing_is_said() -> None:
    head = Outcome(epochs=3, trained=3, best=2, ended=True)
    kept = Outcome(epochs=2, trained=2, best=0, ended=True)
    assert "than the head alone, whose weights are kept" in export.rejected((head, kept))
    assert not export.rejected((head, replace(kept, best=1)))
    assert not export.rejected((head, None))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--from", "nosuch"), "No architecture is called 'nosuch'"),
        (("--from", "se_resnet20:cifar"), "has no weights 'cifar'. Did you mean cifar10"),
        (("--from", "resnet20"), "There are no weights of resnet20 to start from"),
        (("--from", "a/b.keras"), "--from a/b.keras does not exist"),
        (("--from", PRETRAINED, "--architecture", "resnet20"), "--architecture resnet20 contradicts it"),
        (("--from", PRETRAINED, "--thaw", "5"), "--thaw must be at most 4"),
        (("--from", PRETRAINED, "--thaw", "-1"), "thaw must be at least 0"),
        (("--from", PRETRAINED, "--channels", "1"), "--channels has no effect with --from se_resnet20:cifar10"),
        (("--from", PRETRAINED, "--padding", "zero"), "--padding has no effect with --from se_resnet20:cifar10"),
        (("--from", PRETRAINED, "--option", "dropout=0.5"), "those of the weights 'cifar10'. Leave --option out"),
        (("--from", PRETRAINED, "--momentum", "0.9"), "--momentum has no effect with --from"),
        (("--from", PRETRAINED, "--hold-out", "2"), "--hold-out must be at least 3 and at most 33 here"),
        (("--from", PRETRAINED, "--hold-out", "0"), "--hold-out must be at least 1"),
        (("--from", PRETRAINED, "--data", "nowhere.zip"), "nowhere.zip does not exist"),
        (("--from", PRETRAINED, "--export-only"), "Train first"),
        (("--architecture", "resnet20", "--patience", "3"), "--patience has an effect only together with --from"),
        ((), "Give --architecture NAME, or --from BASE"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_training(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert command.main(["--data", str(patches), "--out", str(tmp_path / "run"), *more]) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert "epoch" not in said.out
    assert not (tmp_path / "run").exists()


def test_a_class_with_one_image_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "data", each=6, seed=1)
    for file in sorted((data / "red").iterdir())[1:]:
        file.unlink()
    assert command.main(options(data, tmp_path / "run", *RANDOM)) == 1
    assert "The class 'red' has only 1 image, but needs two" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "data", each=6, seed=1)
    shutil.rmtree(data / "red")
    shutil.rmtree(data / "blue")
    assert command.main(options(data, tmp_path / "run", *RANDOM)) == 1
    assert "has only one class, 'green'" in capsys.readouterr().err


def test_test_images_of_other_classes_are_refused(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = write_images(tmp_path / "test", each=2, seed=1)
    (test / "red").rename(test / "pink")
    assert command.main(options(patches, tmp_path / "run", *RANDOM, "--test", str(test))) == 1
    said = capsys.readouterr()
    assert "has classes that the model does not have: pink" in said.err
    assert not (tmp_path / "run").exists()
