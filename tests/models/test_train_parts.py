"""What training is made of, and runs that end before they are done; nothing here needs a finished run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from glimpse.models import bundle, evaluate
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train import __main__ as command
from glimpse.models.train import fit
from glimpse.models.train import options as plan_options
from glimpse.models.train.data import LabelledImages
from glimpse.models.train.plan import Plan
from tests.models.training import commands_of, options, run_words

ROOT = Path(__file__).parents[2]


@pytest.mark.ci
def test_options_of_an_architecture_are_in_all_that_is_made_with_them(
    patches: Path,
    test_patches: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = options(patches, Path("run"), "--test", str(test_patches))
    given += ["--option", "width=4", "--option", "batch_norm=after", "--epochs", "1"]
    assert command.main(given) == 0
    made = bundle.read(Path("run/bundle"))
    assert made.options == {"width": 4, "batch_norm": "after"}
    assert json.loads(Path("run/plan.json").read_text())["plan"]["options"] == made.options
    card = (made.folder / "MODEL_CARD.md").read_text()
    assert '`basic_cnn`, variant `handbook`, width 4, batch_norm "after" |' in card
    training, measuring = commands_of(made.folder / "MODEL_CARD.md")
    capsys.readouterr()
    assert run_words(measuring) == 0
    assert 'architecture       basic_cnn (handbook), width 4, batch_norm "after"' in capsys.readouterr().out
    first = training.index("--option")
    assert training[first : first + 4] == ["--option", "width=4", "--option", 'batch_norm="after"']
    assert run_words(training) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_moves_a_share_of_every_target_to_all_classes(smoothing: float) -> None:
    logits = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]], np.float32)
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = np.eye(3)[[0, 1]] * (1 - smoothing) + smoothing / 3
    loss = fit.SmoothedCrossEntropy(3, smoothing)(np.array([0, 1]), logits)
    assert float(loss) == pytest.approx(-(targets * log).sum(axis=1).mean(), rel=1e-5)


def test_targets_may_be_the_share_of_each_class() -> None:
    logits, loss = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]], np.float32), fit.SmoothedCrossEntropy(3, 0.1)
    whole = [float(loss(np.array([number]), logits[:1])) for number in range(3)]
    assert float(loss(np.eye(3, dtype=np.float32)[[1]], logits[:1])) == pytest.approx(whole[1], rel=1e-5)
    mixed = float(loss(np.array([[0.25, 0.0, 0.75]], np.float32), logits[:1]))
    assert mixed == pytest.approx(0.25 * whole[0] + 0.75 * whole[2], rel=1e-5)


# `--option` has those of an architecture, and the head follows from `--labels`.
_OF_NO_OPTION = {"options", "head"}


def test_the_command_can_express_every_value_of_a_plan() -> None:
    plan = Plan(
        architecture="se_resnet20",
        variant="cifar",
        options={"se_ratio": 4, "projection": "forced"},
        epochs=45,
        batch_size=64,
        optimizer="adam",
        learning_rate=0.1,
        restart_learning_rate=0.04,
        warmup_epochs=1.5,
        momentum=0.8,
        weight_decay=1e-3,
        precision="mixed_bfloat16",
        seed=7,
    )
    words = [
        f"--{name.replace('_', '-')}={getattr(plan, name)}" for name in Plan.__slots__ if name not in _OF_NO_OPTION
    ]
    words += [f"--option={name}={value}" for name, value in plan.options.items()]
    assert plan_options.plan_of(plan_options.parser().parse_args(["--data", "train.zip", *words])) == plan


def test_evaluating_other_images_names_the_default_model(
    test_patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever forgets --bundle is told which model was taken."""
    assert evaluate.main(["--data", str(test_patches)]) == 1
    assert ". The model is se_resnet20_cifar10, the default. Name yours with --bundle." in capsys.readouterr().err


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


def test_the_history_ends_where_the_checkpoint_does(tmp_path: Path) -> None:
    (tmp_path / fit.HISTORY).write_text("epoch,loss\n1,0.5\n2,0.4\n2,0.3\n3,0.2\n4,0")
    assert fit.history(tmp_path, 2) == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.3}]


def random_images(count: int, side: int) -> LabelledImages:
    rng = np.random.default_rng(0)
    return LabelledImages(rng.integers(0, 256, (count, side, side, 3), np.uint8), rng.integers(0, 2, count), ("a", "b"))


def test_what_a_dropout_drops_goes_on_where_a_run_was_interrupted(tmp_path: Path) -> None:
    plan = Plan(
        architecture="mnist_dnn", options={"hidden": [8], "dropout": 0.5}, epochs=2, batch_size=4, optimizer="adam"
    )
    recipe, images = Recipe(height=4, width=4), random_images(16, 4)
    arguments = plan, recipe, images, images
    whole = fit.train(*arguments, tmp_path / "whole")
    fit.train(*arguments, tmp_path / "interrupted", stop_after=1)
    resumed = fit.train(*arguments, tmp_path / "interrupted")
    for one, other in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7, err_msg=one.path)


def test_held_out_images_are_computed_in_no_larger_batches_than_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def stop(*_: object, **options: object) -> None:
        seen.append(options["validation_batch_size"])
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "fit", stop)
    for side in (32, 256):
        plan, images = Plan(architecture="mnist_dnn", options={"hidden": [4]}), random_images(2, side)
        with pytest.raises(KeyboardInterrupt):
            fit.train(plan, Recipe(height=side, width=side), images, images, tmp_path)
    assert seen == [500, 64]


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_130_and_no_traceback(patches: Path, tmp_path: Path) -> None:
    arguments = options(patches, tmp_path / "run", "--epochs", "1000")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background shells have it ignored
    running = subprocess.Popen(
        [sys.executable, "-m", "glimpse.models.train", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert running.stdout is not None
    while "Epoch 2/1000" not in running.stdout.readline():
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == (
        "glimpse.models.train: interrupted. Run the same command to resume after the last completed epoch."
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_run_whose_output_is_full_ends_with_a_line(patches: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command_line = [sys.executable, "-m", "glimpse.models.train", *options(patches, tmp_path / "run")]
        ended = subprocess.run(command_line, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 10
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == (
        "glimpse.models.train: The standard output cannot be written: No space left on device."
    )
