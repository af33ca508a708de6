"""A run's folder remembers what it is a run of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.plan import Plan, PlanError, Run, claim

RUN = Run(
    plan=Plan(architecture="resnet20", epochs=3),
    recipe=Recipe(height=8, width=8),
    images=30,
    hold_out=3,
    labels=("a", "b"),
)
CHECKPOINT = "checkpoint"


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
        ({"batch_size": -1}, "batch_size must be greater than 0. Received: -1"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0. Received: 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0. Received: -1.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be at least 0 and less than 1. Received: 1.0"),
        ({"cutout": -0.1}, r"cutout must be at least 0 and less than 1. Received: -0.1"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and less than 1. Received: 1.0"),
    ],
)
def test_a_plan_refuses_values_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(architecture="resnet20", **values)
