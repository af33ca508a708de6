"""A run's folder remembers what it is a run of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glimpse.models.catalogue import find
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train import plan as plans
from glimpse.models.train.options import parser, plan_of, recipe_of
from glimpse.models.train.plan import PLAN, Plan, PlanError, Run, check_kind, claim, earlier
from glimpse.models.train.transfer.plan import HEAD_CHECKPOINT, TransferPlan, TransferRun
from tests.models.full_disk import files_of

RUN = Run(
    plan=Plan(architecture="resnet20", epochs=3),
    recipe=Recipe(height=8, width=8),
    images=30,
    hold_out=3,
    labels=("a", "b"),
)
CHECKPOINT = "checkpoint"


def test_a_full_disk_leaves_the_plan_with_which_a_run_goes_on(tmp_path: Path) -> None:
    claim(tmp_path, RUN, checkpoint=CHECKPOINT)
    plan = (tmp_path / PLAN).read_bytes()
    with files_of(100), pytest.raises(OSError, match=f"File too large: '{tmp_path / PLAN}'"):
        claim(tmp_path, RUN, checkpoint=CHECKPOINT)
    assert [path.name for path in tmp_path.iterdir()] == [PLAN]
    assert (tmp_path / PLAN).read_bytes() == plan


def test_the_same_run_may_go_on(tmp_path: Path) -> None:
    claim(tmp_path / "run", RUN, checkpoint=CHECKPOINT)
    claim(tmp_path / "run", RUN, checkpoint=CHECKPOINT)


def test_only_the_number_of_epochs_may_change(tmp_path: Path) -> None:
    claim(tmp_path, RUN, checkpoint=CHECKPOINT)
    longer = replace(RUN, plan=replace(RUN.plan, epochs=5))
    claim(tmp_path, longer, checkpoint=CHECKPOINT)
    assert '"epochs": 5' in (tmp_path / "plan.json").read_text()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(RUN, plan=replace(RUN.plan, seed=21)), "plan.seed was 20, now 21"),
        (replace(RUN, recipe=replace(RUN.recipe, filter="lanczos")), "recipe.filter was 'bilinear', now 'lanczos'"),
        (replace(RUN, hold_out=4), "hold_out was 3, now 4"),
        (replace(RUN, labels=("a", "c")), r"labels was \['a', 'b'\], now \['a', 'c'\]"),
    ],
)
def test_another_run_is_refused_by_what_differs(tmp_path: Path, other: Run, message: str) -> None:
    claim(tmp_path, RUN, checkpoint=CHECKPOINT)
    (tmp_path / CHECKPOINT).touch()
    before = (tmp_path / "plan.json").read_text()
    with pytest.raises(PlanError, match=f"holds a run with another plan: {message}. Give another --out"):
        claim(tmp_path, other, checkpoint=CHECKPOINT)
    assert (tmp_path / "plan.json").read_text() == before


@pytest.mark.parametrize("run", ["from scratch", "a transfer"])
def test_other_images_of_the_same_number_make_another_run(tmp_path: Path, run: str) -> None:
    begun: Run | TransferRun = replace(RUN if run == "from scratch" else TRANSFER, contents="blake2b:1")
    claim(tmp_path, begun, checkpoint=CHECKPOINT)
    (tmp_path / CHECKPOINT).touch()
    claim(tmp_path, begun, checkpoint=CHECKPOINT)
    with pytest.raises(PlanError, match=r"begun with other images\. There are as many now, .* another --out\.$"):
        claim(tmp_path, replace(begun, contents="blake2b:2"), checkpoint=CHECKPOINT)
    with pytest.raises(PlanError, match=r"another plan: images was 30, now 31\. Give another --out\.$"):
        claim(tmp_path, replace(begun, images=31, contents="blake2b:2"), checkpoint=CHECKPOINT)


def test_a_run_that_has_not_kept_what_its_images_were_goes_on_and_keeps_it(tmp_path: Path) -> None:
    claim(tmp_path, RUN, checkpoint=CHECKPOINT)
    (tmp_path / CHECKPOINT).touch()
    assert "contents" not in json.loads((tmp_path / PLAN).read_text())
    claim(tmp_path, replace(RUN, contents="blake2b:1"), checkpoint=CHECKPOINT)
    with pytest.raises(PlanError, match="begun with other images"):
        claim(tmp_path, replace(RUN, contents="blake2b:2"), checkpoint=CHECKPOINT)


OLD_PLAN = """{
  "plan": {"architecture": "vgg16", "variant": null, "epochs": 3, "batch_size": 128, "learning_rate": 0.2,
    "warmup_epochs": 2.0, "restart_epochs": 0, "restart_learning_rate": 0.1, "cutout": 0.0, "cutout_from": 0,
    "label_smoothing": 0.0, "momentum": 0.9, "weight_decay": 0.005, "precision": "float32", "seed": 20},
  "recipe": %s, "images": 30, "hold_out": 3, "labels": ["a", "b"]
}
"""  # as written before there were options of architectures and a choice of optimizers


def test_a_run_that_began_before_there_was_a_choice_goes_on_with_sgd(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(OLD_PLAN % json.dumps(RUN.recipe.to_dict()))
    (tmp_path / CHECKPOINT).touch()
    words = ["--data", "x", "--architecture", "vgg16", "--epochs", "3"]
    fresh = plan_of(parser().parse_args(words), images=27)
    assert (fresh.optimizer, fresh.batch_size) == ("adam", 8)
    begun = earlier(tmp_path, checkpoint=CHECKPOINT)
    resumed = plan_of(parser().parse_args(words), images=27, begun=begun)
    assert (resumed.optimizer, resumed.learning_rate, resumed.batch_size) == ("sgd", 0.2, 128)
    claim(tmp_path, replace(RUN, plan=resumed), checkpoint=CHECKPOINT)
    assert json.loads((tmp_path / "plan.json").read_text())["plan"]["optimizer"] == "sgd"


OLD_RECIPE = """{"height": 28, "width": 28, "geometry": "crop", "crop_share": 1.0, "filter": "bilinear",
  "antialias": true, "smaller": "pad", "channels": "RGB", "fill": [0, 0, 0], "mean": [0.0, 0.0, 0.0],
  "std": [1.0, 1.0, 1.0]}"""  # as written before there was a choice of paddings


def test_a_run_goes_on_in_colour_and_with_the_padding_that_it_began_with(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(OLD_PLAN.replace("vgg16", "basic_cnn") % OLD_RECIPE)
    words = ["--data", "x", "--architecture", "basic_cnn", "--epochs", "3", "--size", "28"]
    options, row = parser().parse_args(words), find("basic_cnn")
    fresh = recipe_of(options, row, earlier(tmp_path, checkpoint=CHECKPOINT))
    assert (fresh.channels, fresh.padding) == ("GRAY", "zero")
    (tmp_path / CHECKPOINT).touch()
    begun = earlier(tmp_path, checkpoint=CHECKPOINT)
    resumed = recipe_of(options, row, begun)
    assert (resumed.channels, resumed.padding) == ("RGB", "fill")
    claim(tmp_path, replace(RUN, plan=plan_of(options, begun=begun), recipe=resumed), checkpoint=CHECKPOINT)
    grey = recipe_of(parser().parse_args([*words, "--channels", "1", "--padding", "zero"]), row, begun)
    assert (grey.channels, grey.padding) == ("GRAY", "zero")
    other = recipe_of(parser().parse_args(["--data", "x", "--architecture", "mnist_dnn"]), find("mnist_dnn"), begun)
    assert other.channels == "GRAY"


TRANSFER = TransferRun(
    plan=TransferPlan(base="b", base_digest="random", architecture="basic_cnn", variant="handbook"),
    recipe=RUN.recipe,
    images=30,
    hold_out=3,
    labels=("a", "b"),
)


@pytest.mark.parametrize(
    ("begun", "kept", "message"),
    [
        (RUN, plans.CHECKPOINT, "holds a run from scratch, and this is a transfer"),
        (TRANSFER, HEAD_CHECKPOINT, "holds a run with --from, and this is a run from scratch"),
    ],
)
@pytest.mark.parametrize("of_it", ["checkpoint", "bundle"])
def test_a_folder_with_a_run_of_the_other_kind_is_refused(
    tmp_path: Path, begun: Run | TransferRun, kept: str, message: str, of_it: str
) -> None:
    transfer = begun is RUN  # what comes then
    claim(tmp_path, begun, checkpoint=kept)
    check_kind(tmp_path, transfer=transfer)  # nothing is lost yet
    (tmp_path / (kept if of_it == "checkpoint" else "bundle")).mkdir()
    with pytest.raises(PlanError, match=f"{message}. Give another --out"):
        check_kind(tmp_path, transfer=transfer)
    check_kind(tmp_path, transfer=not transfer)


def test_the_plan_of_another_architecture_is_not_gone_on_with(tmp_path: Path) -> None:
    claim(tmp_path, replace(RUN, plan=replace(RUN.plan, optimizer="adam")), checkpoint=CHECKPOINT)
    (tmp_path / CHECKPOINT).touch()
    options = parser().parse_args(["--data", "x", "--architecture", "se_resnet20"])
    assert plan_of(options, begun=earlier(tmp_path, checkpoint=CHECKPOINT)).optimizer == "sgd"


def test_other_options_of_the_architecture_make_another_run(tmp_path: Path) -> None:
    claim(tmp_path, RUN, checkpoint=CHECKPOINT)
    (tmp_path / CHECKPOINT).touch()
    other = replace(RUN, plan=replace(RUN.plan, options={"se_ratio": 4}))
    with pytest.raises(PlanError, match=r"plan\.options\.se_ratio was None, now 4"):
        claim(tmp_path, other, checkpoint=CHECKPOINT)


def test_a_run_has_nothing_earlier_to_go_on_with_before_its_first_checkpoint(tmp_path: Path) -> None:
    claim(tmp_path, RUN, checkpoint=CHECKPOINT)
    assert earlier(tmp_path, checkpoint=CHECKPOINT) == {}
    (tmp_path / CHECKPOINT).touch()
    (tmp_path / "plan.json").write_text("[]")
    assert earlier(tmp_path, checkpoint=CHECKPOINT) == {}


@pytest.mark.parametrize(("images", "size"), [(20, 8), (256, 8), (512, 16), (4095, 64), (4096, 128), (60000, 128)])
def test_the_batch_is_small_enough_for_some_steps_an_epoch(images: int, size: int) -> None:
    assert plan_of(parser().parse_args(["--data", "x", "--architecture", "resnet20"]), images=images).batch_size == size


def test_sgds_rate_is_in_proportion_to_a_small_batch_and_adams_is_not() -> None:
    def rate(*more: str) -> float:
        return plan_of(parser().parse_args(["--data", "x", "--architecture", "resnet20", *more])).learning_rate

    assert rate("--batch-size", "32") == pytest.approx(0.05)
    assert rate("--batch-size", "512") == pytest.approx(0.2)
    assert rate("--batch-size", "32", "--optimizer", "adam") == pytest.approx(0.001)


def test_a_run_that_has_kept_nothing_gives_way_to_another(tmp_path: Path) -> None:
    claim(tmp_path, RUN, checkpoint=CHECKPOINT)
    other = replace(RUN, hold_out=4)
    claim(tmp_path, other, checkpoint=CHECKPOINT)
    (tmp_path / CHECKPOINT).touch()
    claim(tmp_path, other, checkpoint=CHECKPOINT)


def test_a_checkpoint_of_nobody_knows_what_is_refused_unless_it_is_adopted(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).touch()
    with pytest.raises(PlanError, match=r"no plan.json, so it is not known what was trained"):
        claim(tmp_path, RUN, checkpoint=CHECKPOINT)
    claim(tmp_path, RUN, checkpoint=CHECKPOINT, adopt=True)
    claim(tmp_path, RUN, checkpoint=CHECKPOINT)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_plan_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match="is not the plan of a run"):
        claim(tmp_path, RUN, checkpoint=CHECKPOINT)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be greater than 0. Received: 0"),
        ({"warmup_epochs": math.inf}, "warmup_epochs must be a finite number. Received: inf"),
        ({"seed": 2**32}, "seed must be at most 4294967295. Received: 4294967296"),
        ({"batch_size": -1}, "batch_size must be greater than 0. Received: -1"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0. Received: 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0. Received: -1.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be at least 0 and less than 1. Received: 1.0"),
        ({"cutout": -0.1}, r"cutout must be at least 0 and less than 1. Received: -0.1"),
        ({"cutmix": 1.0}, r"cutmix must be at least 0 and less than 1. Received: 1.0"),
        ({"cutmix": 0.5, "head": "multi-label"}, "cutmix is for classes that exclude each other"),
        ({"optimizer": "rmsprop"}, "optimizer must be one of sgd, adam. Received: rmsprop"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and less than 1. Received: 1.0"),
    ],
)
def test_a_plan_refuses_values_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(architecture="resnet20", **values)
