"""`python -m glimpse.models.train` and `python -m glimpse.models.evaluate`, end to end on images that take seconds."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from glimpse.models import bundle, calibration_pictures, evaluate, golden
from glimpse.models.train import __main__ as command
from glimpse.models.train import fit
from glimpse.models.train.data import hold_out, read, statistics
from glimpse.models.train.plan import CHECKPOINT
from tests.models import training
from tests.models.training import SMALL, commands_of, run_words

from .conftest import write_images

ROOT = Path(__file__).parents[2]


def options(data: Path, out: Path, *more: str) -> list[str]:
    """The command line of a training of a small network with batch normalization, whose statistics are not trained."""
    return training.options(data, out, "--option", "batch_norm=before", *more)


@pytest.fixture(scope="module")
def run(patches: Path, test_patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    more = ("--test", str(test_patches), "--data-note", "Made *here*.")
    assert command.main(options(patches, out, *more)) == 0
    return out


def test_a_run_ends_with_a_bundle_that_is_whole(run: Path) -> None:
    made = bundle.read(run / "bundle")
    made.check_digest()
    assert (made.name, made.version, made.architecture) == ("patches", "1", SMALL)
    assert (made.variant, made.options) == ("handbook", {"batch_norm": "before"})
    assert [label.label for label in made.labels] == ["blue", "green", "red"]
    assert made.input_shape == (8, 8, 3)
    assert made.metrics["images"] == 12
    # Golden answers come along where so small a network answers the shipped photographs clearly.
    assert (made.folder / "golden").is_dir() == bool(golden.read(made))
    assert {file.name for file in made.folder.iterdir()} - {"golden"} == {
        "MODEL_CARD.md",
        "confusion.png",
        "curves.png",
        "labels.txt",
        "model.json",
        "reliability.png",
        "weights.safetensors",
    }


def test_the_pictures_are_small_and_can_be_opened(run: Path) -> None:
    for path in (run / "bundle").glob("*.png"):
        assert path.stat().st_size < 60_000
        with Image.open(path) as picture:
            picture.load()


def test_the_scaling_is_that_of_the_training_images(run: Path, patches: Path) -> None:
    recipe = bundle.read(run / "bundle").recipe
    training, _ = hold_out(read(patches, recipe), 6, seed=20)
    assert (recipe.mean, recipe.std) == statistics(training)


def test_the_history_has_a_row_an_epoch(run: Path) -> None:
    rows = fit.history(run)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0].keys() == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"}


def test_the_card_says_what_was_done_and_found(run: Path) -> None:
    made = bundle.read(run / "bundle")
    card = (run / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for part in (
        "# patches",
        "3 classes: blue, green, red",
        "36 images, of which 30 trained the network and 6 (the same share of every class)",
        "Made *here*.",
        "2 epochs in batches of 10",
        "--hold-out 6",
        f"| top-1 accuracy | {made.metrics['top1']:.2%} (95% interval ",
        f"temperature {made.temperature:g}",
        made.weights_digest,
        "| parameters | 37,379 |",
        "python -m glimpse.models.evaluate --bundle",
    ):
        assert part in card
    assert "Provisional" not in card
    assert "top-5" not in card


def test_an_interrupted_run_goes_on_to_the_same_weights(
    run: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "interrupted"
    assert command.main(options(patches, out, "--stop-after", "1")) == 0
    assert "Epoch 1/2" in capsys.readouterr().out
    assert "from epoch 1 of 2" in (out / "bundle" / "MODEL_CARD.md").read_text()
    halfway = load_file(out / "bundle" / "weights.safetensors")
    assert command.main(options(patches, out)) == 0
    # What is shown is the place in the whole run.
    assert re.findall(r"Epoch \d+/\d+", capsys.readouterr().out) == ["Epoch 2/2"]

    whole, resumed = (load_file(folder / "bundle" / "weights.safetensors") for folder in (run, out))
    assert not np.allclose(halfway["stem_conv/kernel"], whole["stem_conv/kernel"], atol=1e-4)
    assert "stem_bn/moving_mean" in whole
    for name, tensor in whole.items():
        np.testing.assert_allclose(resumed[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
    assert [row["epoch"] for row in fit.history(out)] == [1, 2]


def test_a_finished_run_trains_no_further(run: Path, patches: Path, tmp_path: Path) -> None:
    out = shutil.copytree(run, tmp_path / "again")
    before = bundle.read(out / "bundle").weights_digest
    assert command.main(options(patches, out)) == 0
    assert bundle.read(out / "bundle").weights_digest == before


def test_an_older_run_goes_on_with_the_images_that_it_held_out(
    run: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(run, tmp_path / "old")
    plan = json.loads((out / "plan.json").read_text())
    assert plan.pop("hold_out_rule") == "share"
    (out / "plan.json").write_text(json.dumps(plan))
    assert command.main(options(patches, out)) == 0
    assert "6 (as many of every class" in (out / "bundle" / "MODEL_CARD.md").read_text().replace("\n", " ")
    capsys.readouterr()
    assert command.main(["--data", str(patches), "--from", f"{SMALL}:random", "--out", str(out)]) == 1
    assert "holds a run from scratch, and this is a transfer. Give another --out" in capsys.readouterr().err
    assert json.loads((out / "plan.json").read_text()) == plan


def test_held_out_images_may_be_left_out_of_a_bundle(
    run: Path, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_pictures, "FEWEST", 1)
    shutil.copy(run / CHECKPOINT, tmp_path)
    again = ("--export-only",)
    assert command.main(options(patches, tmp_path, *again)) == 0
    assert calibration_pictures.there(bundle.read(tmp_path / "bundle"))
    assert command.main(options(patches, tmp_path, *again, "--without-pictures")) == 0
    assert not calibration_pictures.there(bundle.read(tmp_path / "bundle"))
    assert "--without-pictures" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


def test_a_bundle_is_made_of_a_checkpoint_alone(run: Path, patches: Path, tmp_path: Path) -> None:
    shutil.copy(run / CHECKPOINT, tmp_path)
    assert command.main(options(patches, tmp_path, "--export-only")) == 0
    assert bundle.read(tmp_path / "bundle").weights_digest == bundle.read(run / "bundle").weights_digest
    # Without test images the held-out ones are measured, and the card says so.
    assert "## Results on 6 held-out images" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


def test_without_matplotlib_a_bundle_is_made_without_plots(
    run: Path,
    patches: Path,
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of an earlier export go, because they show other numbers; the card has no pictures that are not there."""
    out = shutil.copytree(run, tmp_path / "again")
    assert "![" in (out / "bundle" / "MODEL_CARD.md").read_text()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib", None)
        assert command.main(options(patches, out, "--export-only")) == 0
    assert "no plots, because matplotlib is not installed. To add them: pip install" in capsys.readouterr().out
    assert not list((out / "bundle").glob("*.png"))
    assert "![" not in (out / "bundle" / "MODEL_CARD.md").read_text()
    assert command.main(options(patches, out, "--export-only")) == 0
    assert len(list((out / "bundle").glob("*.png"))) == 3


def test_weights_can_be_kept_in_half_the_bytes(run: Path, patches: Path, tmp_path: Path) -> None:
    shutil.copy(run / CHECKPOINT, tmp_path)
    note = ("--training-note", "Stopped *early*.")
    assert command.main(options(patches, tmp_path, "--export-only", "--weights-dtype", "float16", *note)) == 0
    halves = load_file(tmp_path / "bundle" / bundle.WEIGHTS)
    for name, whole in load_file(run / "bundle" / bundle.WEIGHTS).items():
        np.testing.assert_array_equal(halves[name], whole.astype(np.float16))
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert ", float16, `sha256:" in card
    assert "Stopped *early*." in card


def test_another_plan_in_the_same_folder_is_refused(
    run: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(options(patches, run, "--momentum", "0.8")) == 1
    assert "plan.momentum was 0.9, now 0.8. Give another --out" in capsys.readouterr().err


def test_other_images_of_the_same_number_are_refused_and_a_copy_is_not(
    run: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = shutil.copytree(run, tmp_path / "run"), shutil.copytree(patches, tmp_path / "data")
    given = options(data, out)
    assert command.main([*given, "--export-only"]) == 0
    Image.new("RGB", (12, 12), (200, 40, 50)).save(data / "red" / "003.png")
    capsys.readouterr()
    for more in ((), ("--export-only",)):
        assert command.main([*given, *more]) == 1
        assert f"{out} holds a run that was begun with other images. There are as many" in capsys.readouterr().err


def test_evaluating_a_bundle_gives_what_its_card_claims(
    run: Path, test_patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--bundle", str(run / "bundle"), "--data", str(test_patches), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == pytest.approx(found["claimed"], abs=1e-5)
    assert found["metrics"].keys() >= {"top1", "nll", "nll_uncalibrated", "ece", "ece_uncalibrated"}
    assert np.array(found["confusion"]).sum() == 12


def test_evaluating_shows_a_table_for_people(run: Path, test_patches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--bundle", str(run / "bundle"), "--data", str(test_patches)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("patches 1 (sha256:")
    assert lines[-4].split() == ["blue", "green", "red"]
    assert [sum(map(int, line.split()[1:])) for line in lines[-3:]] == [4, 4, 4]


def test_a_finished_run_may_be_lengthened_by_a_restart(run: Path, patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "longer"
    shutil.copytree(run, out)
    assert command.main(options(patches, out, "--restart-epochs", "1", "--restart-learning-rate", "0.01")) == 0
    assert len(fit.history(out)) == 3
    card = (out / "bundle" / "MODEL_CARD.md").read_text()
    assert "once more in 1 epochs from 0.01" in card
    assert "--restart-epochs 1" in card


_KILLED = """
import os, signal, sys
from glimpse.models.train import __main__, fit
save = fit.save_checkpoint
def killed(model, checkpoint):
    if len(fit.history(checkpoint.parent)) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    save(model, checkpoint)
fit.save_checkpoint = killed
__main__.main(sys.argv[1:])
"""


def epochs_in(folder: Path) -> list[str]:
    """The first column of the history, as it stands in the file."""
    return [line.partition(",")[0] for line in (folder / fit.HISTORY).read_text().splitlines()]


@pytest.mark.ci  # as one that is interrupted goes on; how the history ends is tested below as well
def test_a_run_that_is_killed_before_its_checkpoint_has_each_epoch_once(patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    wanted = options(patches, out)
    ended = subprocess.run([sys.executable, "-c", _KILLED, *wanted], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert epochs_in(out) == ["epoch", "1", "2"]
    with (out / fit.HISTORY).open("a") as file:
        file.write("3,0.5")  # torn
    assert command.main(wanted) == 0
    assert epochs_in(out) == ["epoch", "1", "2"]
    assert [row["epoch"] for row in fit.history(out)] == [1, 2]


def test_the_commands_of_a_card_run_as_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("my photos"), each=6, seed=1)
    write_images(Path("it's a test $HOME"), each=2, seed=2)
    (Path("my photos") / "red" / "broken.png").write_bytes(b"no picture")
    given = options(Path("my photos"), Path("runs of today/one"), "--test", "it's a test $HOME")
    given += ["--epochs", "1", "--cutmix", "0.5"]
    given += ["--std", "63.123456789", "64", "65", "--skip-unreadable", "--data-note", "Mine; *really* `mine`."]
    assert command.main(given) == 0
    assert "skipped: red/broken.png cannot be decoded" in capsys.readouterr().err
    made = bundle.read(Path("runs of today/one/bundle"))
    assert "1 more could not be read and were left out" in (made.folder / "MODEL_CARD.md").read_text().replace(
        "\n", " "
    )
    assert "in 50% of the batches, every image gets a rectangle" in (made.folder / "MODEL_CARD.md").read_text()
    training, measuring = commands_of(made.folder / "MODEL_CARD.md")

    assert run_words([*measuring, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == pytest.approx(found["claimed"], abs=1e-5)
    # The run goes on where it is, and nothing is left to be trained: its plan is the same.
    assert run_words(training) == 0
    again = bundle.read(made.folder)
    assert (again.weights_digest, again.recipe, again.name) == (made.weights_digest, made.recipe, made.name)
    assert commands_of(made.folder / "MODEL_CARD.md") == [training, measuring]


@pytest.mark.slow
def test_without_test_images_the_card_measures_the_held_out_ones_again(
    run: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run / CHECKPOINT, tmp_path)
    assert command.main(options(patches, tmp_path, "--export-only")) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    _, measuring = commands_of(tmp_path / "bundle" / "MODEL_CARD.md")
    assert measuring[-1] == "--export-only"
    assert run_words(measuring) == 0
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_a_checkpoint_that_is_damaged_is_told_of(
    run: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(run, tmp_path / "damaged")
    (out / CHECKPOINT).write_bytes((out / CHECKPOINT).read_bytes()[:1000])
    assert command.main(options(patches, out)) == 1
    assert f"{out / CHECKPOINT} cannot be loaded: " in capsys.readouterr().err


def test_evaluating_leaves_out_what_cannot_be_read_on_demand(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "data", each=2, seed=3)
    (data / "red" / "bad.png").write_bytes(b"no picture")
    arguments = ["--bundle", str(run / "bundle"), "--data", str(data), "--json"]
    assert evaluate.main(arguments) == 1
    assert "red/bad.png cannot be decoded" in capsys.readouterr().err
    assert evaluate.main([*arguments, "--skip-unreadable"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["metrics"]["images"] == 6
    assert "skipped: red/bad.png cannot be decoded" in said.err
