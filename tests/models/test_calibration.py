"""Temperature and threshold of novelty, fitted on one half of the images and measured on the other."""

from __future__ import annotations

import numpy as np
import pytest

from glimpse.models.calibration import fitting
from glimpse.models.calibration.debiased import debiased_error
from glimpse.models.calibration.fitting import calibrate, debiased_by_chance, error_by_chance
from glimpse.models.novelty import novelty

RNG = np.random.default_rng(11)


def scores(number: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are that many times too sure, of 20 classes, and true classes drawn from what they should say."""
    logits = RNG.normal(0, 2, (number, 20)).astype(np.float32)
    powers = np.exp(logits)
    drawn = (powers.cumsum(axis=1) / powers.sum(axis=1, keepdims=True) < RNG.random((number, 1))).sum(axis=1)
    return logits * np.float32(temperature), drawn


def test_the_temperature_is_found_and_measured_on_the_other_half() -> None:
    logits, classes = scores(4000, temperature=2.5)
    found = calibrate(logits, classes, {})
    assert found.temperature == pytest.approx(2.5, rel=0.08)
    assert found.fitted_on == found.after.images == 2000
    assert found.after.nll < found.before.nll
    assert found.after.reliability.error < 2 * found.chance < found.before.reliability.error
    assert found.after.top1 == found.before.top1
    assert calibrate(logits, classes, {}, before=1.7, keep=True).temperature == 1.7


def test_half_of_the_known_images_says_how_many_are_rejected() -> None:
    logits, classes = scores(4000, temperature=1.0)
    found = calibrate(logits, classes, {})
    assert found.threshold.score == novelty.DEFAULT_SCORE
    assert found.threshold.images == 2000
    assert 0.03 < found.rejected < 0.07
    assert found.foreign == {}


def test_the_score_that_tells_the_foreign_images_best_is_chosen() -> None:
    """Foreign images whose highest logit is as that of known ones: only the others tell them."""
    logits, classes = scores(2000, temperature=1.0)
    foreign = logits[:1000].copy()
    foreign[:, :5] = foreign.max(axis=1, keepdims=True)
    found = calibrate(logits, classes, {"many at once": foreign})
    aurocs = {name: each["many at once"] for name, each in found.aurocs.items()}
    assert aurocs[found.threshold.score] == max(aurocs.values()) > 0.9
    assert aurocs["max_logit"] < 0.6
    assert found.foreign["many at once"].images == 500
    assert found.foreign["many at once"].auroc == pytest.approx(aurocs[found.threshold.score])
    assert found.foreign["many at once"].caught > 0.5
    assert calibrate(logits, classes, {"many at once": foreign}, score="energy").threshold.score == "energy"


def test_chance_alone_makes_a_calibration_error_of_few_images() -> None:
    """The error of probabilities that are exactly right: large of few images, nearly none of many."""
    few, many = (error_by_chance(RNG.dirichlet(np.ones(10), number)) for number in (200, 50_000))
    assert many < 0.01
    assert few > 0.03


def test_an_error_without_chance_is_a_fault_and_no_fault_is_small() -> None:
    """Of probabilities that are right, and of such as claim 0.15 too much; on 300 images."""
    true = RNG.uniform(0.5, 0.85, (300, 300))
    squares = {
        fault: np.mean([debiased_error(each + fault, RNG.random(300) < each) ** 2 for each in true])
        for fault in (0.0, 0.15)
    }
    assert squares[0.15] == pytest.approx(0.15**2, rel=0.1)
    assert squares[0.0] < 0.045**2
    answers = np.stack([true[0], 1 - true[0]], axis=1)
    assert debiased_by_chance(answers) < 0.6 * error_by_chance(answers)
    with pytest.raises(ValueError, match="Received: 1"):
        debiased_error(np.zeros(1), np.zeros(1, bool))


def test_the_reference_of_drift_has_images_and_answers() -> None:
    logits, _ = scores(300, temperature=1.0)
    made = fitting.reference(logits, {"size": np.full(300, 9.0)}, 1.0, fitting.fit_novelty(logits, {}))
    assert made.bins.keys() == {"size", "top_probability", "margin", "entropy", "novelty"}
    assert made.images == 300
