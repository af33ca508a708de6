"""`python -m models.train` and `python -m models.evaluate`, end to end on images that take seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from models import bundle, evaluate, golden
from models.train import __main__ as command
from models.train import fit
from models.train.data import hold_out, read, statistics
from models.train.plan import Plan


def options(data: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--data", str(data), "--out", str(out), "--architecture", "resnet20", "--size", "8x8"),
        *("--hold-out", "6", "--epochs", "2", "--batch-size", "10", "--learning-rate", "0.05", "--name", "patches"),
        *more,
    ]


@pytest.fixture(scope="module")
def run(patches: Path, test_patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert command.main(options(patches, out, "--test", str(test_patches), "--data-note", "Made *here*.")) == 0
    return out


def test_a_run_ends_with_a_bundle_that_is_whole(run: Path) -> None:
    made = bundle.read(run / "bundle")
    made.check_digest()
    assert (made.name, made.version, made.architecture, made.variant) == ("patches", "1", "resnet20", "cifar")
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
        "36 images, of which 30 trained the network and 6",
        "Made *here*.",
        "2 epochs in batches of 10",
        "--hold-out 6",
        f"| top-1 accuracy | {made.metrics['top1']:.2%} (95% interval ",
        f"temperature {made.temperature:g}",
        made.weights_digest,
        "| parameters | 273,587 |",
        "python -m models.evaluate --bundle",
    ):
        assert part in card
    assert "Provisional" not in card
    assert "top-5" not in card


def test_an_interrupted_run_goes_on_to_the_same_weights(run: Path, patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    assert command.main(options(patches, out, "--stop-after", "1")) == 0
    assert "from epoch 1 of 2" in (out / "bundle" / "MODEL_CARD.md").read_text()
    halfway = load_file(out / "bundle" / "weights.safetensors")
    assert command.main(options(patches, out)) == 0

    whole, resumed = (load_file(folder / "bundle" / "weights.safetensors") for folder in (run, out))
    assert not np.allclose(halfway["stem_conv/kernel"], whole["stem_conv/kernel"], atol=1e-4)
    for name, tensor in whole.items():
        np.testing.assert_allclose(resumed[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
    assert [row["epoch"] for row in fit.history(out)] == [1, 2]


def test_a_finished_run_trains_no_further(run: Path, patches: Path, tmp_path: Path) -> None:
    out = shutil.copytree(run, tmp_path / "again")
    before = bundle.read(out / "bundle").weights_digest
    assert command.main(options(patches, out)) == 0
    assert bundle.read(out / "bundle").weights_digest == before


def test_a_bundle_is_made_of_a_checkpoint_alone(run: Path, patches: Path, tmp_path: Path) -> None:
    shutil.copy(run / fit.CHECKPOINT, tmp_path)
    assert command.main(options(patches, tmp_path, "--export-only")) == 0
    assert bundle.read(tmp_path / "bundle").weights_digest == bundle.read(run / "bundle").weights_digest
    # Without test images the held-out ones are measured, and the card says so.
    assert "## Results on 6 held-out images" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


def test_weights_can_be_kept_in_half_the_bytes(run: Path, patches: Path, tmp_path: Path) -> None:
    shutil.copy(run / fit.CHECKPOINT, tmp_path)
    note = ("--training-note", "Stopped *early*.")
    assert command.main(options(patches, tmp_path, "--export-only", "--weights-dtype", "float16", *note)) == 0
    halves = load_file(tmp_path / "bundle" / bundle.WEIGHTS)
    for name, whole in load_file(run / "bundle" / bundle.WEIGHTS).items():
        np.testing.assert_array_equal(halves[name], whole.astype(np.float16))
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert ", float16, `sha256:" in card
    assert "Stopped *early*." in card


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_moves_a_share_of_every_target_to_all_classes(smoothing: float) -> None:
    logits = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]], np.float32)
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = np.eye(3)[[0, 1]] * (1 - smoothing) + smoothing / 3
    loss = fit.Smoothed(3, smoothing)(np.array([0, 1]), logits)
    assert float(loss) == pytest.approx(-(targets * log).sum(axis=1).mean(), rel=1e-5)


def test_another_plan_in_the_same_folder_is_refused(
    run: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(options(patches, run, "--momentum", "0.8")) == 1
    assert "plan.momentum was 0.9, now 0.8. Give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--architecture", "resnet200"), "Did you mean resnet20"),
        (("--variant", "imagenet"), "has no variant 'imagenet'"),
        (("--hold-out", "0"), "--hold-out must be positive"),
        (("--hold-out", "36"), "Cannot hold out 36 of 36"),
        (("--epochs", "0"), "epochs must be positive"),
        (("--std", "0", "1", "1"), "std must be three positive numbers"),
        (("--data", "nowhere.zip"), "nowhere.zip"),
        (("--export-only",), "Train first"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_training(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert command.main(options(patches, tmp_path / "run", *more)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_command_can_express_every_value_of_a_plan() -> None:
    plan = Plan(
        architecture="se_resnet20",
        variant="cifar",
        epochs=45,
        batch_size=64,
        learning_rate=0.1,
        warmup_epochs=1.5,
        momentum=0.8,
        weight_decay=1e-3,
        precision="mixed_bfloat16",
        seed=7,
    )
    words = [f"--{name.replace('_', '-')}={getattr(plan, name)}" for name in Plan.__slots__]
    assert command.plan_of(command.parser().parse_args(["--data", "train.zip", *words])) == plan


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


def test_evaluating_what_is_no_bundle_says_so(
    tmp_path: Path, test_patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--bundle", str(tmp_path), "--data", str(test_patches)]) == 1
    assert "model.json cannot be read" in capsys.readouterr().err


def test_the_learning_rate_warms_up_falls_and_starts_again() -> None:
    plan = Plan(
        architecture="resnet20",
        epochs=4,
        warmup_epochs=1,
        learning_rate=0.2,
        restart_epochs=2,
        restart_learning_rate=0.1,
    )
    schedule = fit.Schedule(plan, steps=10)
    at = {step: float(schedule(np.int64(step))) for step in (0, 5, 10, 25, 39, 40, 50, 59)}
    assert at[0] == 0
    assert at[5] == pytest.approx(0.1)
    assert at[10] == pytest.approx(0.2)
    assert at[25] == pytest.approx(0.1)
    assert at[39] < 0.001
    assert at[40] == pytest.approx(0.1)
    assert at[50] == pytest.approx(0.05)
    assert at[59] < 0.001


def test_a_finished_run_may_be_lengthened_by_a_restart(run: Path, patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "longer"
    shutil.copytree(run, out)
    assert command.main(options(patches, out, "--restart-epochs", "1", "--restart-learning-rate", "0.01")) == 0
    assert len(fit.history(out)) == 3
    card = (out / "bundle" / "MODEL_CARD.md").read_text()
    assert "once more in 1 epochs from 0.01" in card
    assert "--restart-epochs 1" in card
