"""A training that diverges stops at once; one that learns nothing is told of."""

from __future__ import annotations

import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from glimpse.models import bundle
from glimpse.models.train import __main__ as command
from glimpse.models.train import fit, watch
from glimpse.models.train.plan import CHECKPOINT, Plan

PLAN = Plan(architecture="basic_cnn", epochs=10, warmup_epochs=2.0)


def options(data: Path, out: Path, rate: str, *more: str) -> list[str]:
    return [
        *("--data", str(data), "--out", str(out), "--architecture", "basic_cnn", "--size", "8x8", "--hold-out", "6"),
        *("--batch-size", "10", "--warmup-epochs", "0", "--optimizer", "sgd", "--learning-rate", rate, *more),
    ]


def test_a_run_that_diverges_ends_with_that_batch_and_gives_way_to_another(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert command.main(options(patches, out, "1e30", "--epochs", "9")) == 1
    said = capsys.readouterr().err
    assert re.search(r"The training diverged: in epoch 1, at batch [23] of 3, the loss became (nan|inf)\. ", said)
    assert "Give a lower --learning-rate, for example 1e+29 instead of 1e+30, or --optimizer adam.\n" in said
    assert not (out / CHECKPOINT).exists()
    assert command.main(options(patches, out, "0.01", "--epochs", "1")) == 0


@pytest.mark.ci
def test_a_run_that_diverges_later_goes_on_from_its_checkpoint(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert command.main(options(patches, out, "0.01", "--epochs", "3", "--stop-after", "1")) == 0
    before = (out / CHECKPOINT).read_bytes()
    assert command.main(options(patches, out, "1e30", "--epochs", "3")) == 1
    said = capsys.readouterr().err
    assert "The training diverged: in epoch 2, " in said
    assert "The checkpoint of epoch 1 is kept, and the run goes on from it." in said
    assert (out / CHECKPOINT).read_bytes() == before
    assert [row["epoch"] for row in fit.history(out)] == [1]
    assert command.main(options(patches, out, "0.001", "--epochs", "3")) == 0
    assert [row["epoch"] for row in fit.history(out)] == [1, 2, 3]
    assert bundle.read(out / "bundle").metrics["images"] == 6


def test_what_the_last_batch_of_an_epoch_breaks_is_found_in_the_weights() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="last")])
    watch.check_weights(model, PLAN, 4)
    model.layers[0].bias.assign(np.array([0.0, math.inf], np.float32))
    with pytest.raises(watch.DivergedError, match=r"after epoch 5, .*last/bias holds numbers that are infinite or not"):
        watch.check_weights(model, PLAN, 4)


def test_a_network_that_has_learned_nothing_is_told_of(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(options(patches, tmp_path / "slow", "1e-12", "--epochs", "2")) == 0
    said = capsys.readouterr().err
    assert "The network has not learned anything in 2 epochs: the loss is " in said
    assert "guessing by the frequencies of the classes gives 1.0986." in said


def test_nothing_learned_is_said_some_epochs_after_the_warm_up_and_at_the_end() -> None:
    said = [epoch for epoch in range(10) if watch.nothing_learned(PLAN, epoch, 1.0986, math.log(3))]
    assert said == [4, 9]
    assert not any(watch.nothing_learned(PLAN, epoch, 1.0, math.log(3)) for epoch in range(10))


def test_the_loss_of_guessing_is_the_entropy_of_the_classes() -> None:
    assert watch.guessing(np.array([0, 1, 2]), 3) == pytest.approx(math.log(3))
    assert watch.guessing(np.array([0, 0, 0, 1]), 3) == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    # With smoothing, targets are less certain, and so is the best guess.
    assert watch.guessing(np.array([0, 0, 0, 1]), 2, 0.5) == pytest.approx(
        -(0.625 * math.log(0.625) + 0.375 * math.log(0.375))
    )
