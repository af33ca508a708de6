"""Scores of novelty: higher for images that a network is unsure of, with a threshold that known images pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from glimpse.models import bundle
from glimpse.models.bundle import BundleError
from glimpse.models.novelty import novelty
from glimpse.models.novelty.novelty import NoveltyThreshold
from tests.models.test_bundle import make

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(0, 4, (200, 300)).astype(np.float32)
FITTED = NoveltyThreshold(score="entropy", threshold=1.5, known_share=0.95, images=2500)


def test_scores_are_those_of_their_papers() -> None:
    """Written down plainly: numbers of this size need no care."""
    powers = np.exp(LOGITS.astype(np.float64))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    top = np.sort(probabilities, axis=1)[:, -100:]
    expected = {
        "energy": -np.log(powers.sum(axis=1)),
        "max_logit": -LOGITS.max(axis=1),
        "max_probability": 1 - probabilities.max(axis=1),
        "entropy": -(probabilities * np.log(probabilities)).sum(axis=1),
        "generalised_entropy": (top**0.1 * (1 - top) ** 0.1).sum(axis=1),
    }
    assert expected.keys() == novelty.SCORES.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(novelty.score(name, LOGITS), values, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", novelty.SCORES)
def test_an_image_that_a_network_is_unsure_of_has_a_higher_score(name: str) -> None:
    sure, unsure = np.eye(1, 10) * 12, np.full((1, 10), 0.1)
    assert novelty.score(name, sure)[0] < novelty.score(name, unsure)[0]


@pytest.mark.parametrize("name", novelty.SCORES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_unknown(name: str, value: float) -> None:
    """And the score is one that JSON and float32 can hold."""
    (found,) = novelty.score(name, np.full((1, 4), value))
    assert found == np.finfo(np.float32).max


def test_a_threshold_lets_its_share_of_known_images_pass() -> None:
    known = RNG.permutation(np.arange(1000) / 1000)
    assert (known <= novelty.fit_threshold(known)).mean() == 0.95
    assert (known <= novelty.fit_threshold(known, 0.5)).mean() == 0.5
    assert novelty.fit_threshold(known, 1.0) == known.max()


def test_a_threshold_of_too_few_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 20 images .* Received: 19"):
        novelty.fit_threshold(np.arange(19.0))


def test_the_auroc_is_the_statistic_of_mann_and_whitney() -> None:
    """With many equal scores, of which each counts half."""
    known, foreign = RNG.integers(0, 20, 80).astype(float), RNG.integers(8, 28, 60).astype(float)
    pairs = np.sign(foreign[:, np.newaxis] - known)
    assert novelty.auroc(known, foreign) == pytest.approx((pairs.mean() + 1) / 2)
    assert novelty.auroc(np.zeros(3), np.ones(4)) == 1
    with pytest.raises(ValueError, match="needs known images and foreign ones"):
        novelty.auroc(known, foreign[:0])


def test_a_bundle_keeps_its_threshold(tmp_path: Path) -> None:
    assert make(tmp_path / "with", novelty=FITTED).novelty == FITTED
    assert bundle.read(tmp_path / "with").novelty == FITTED


def test_a_bundle_without_a_threshold_loads_as_it_did(tmp_path: Path) -> None:
    made = make(tmp_path / "without")
    assert made.novelty is None
    assert "novelty" not in json.loads((made.folder / "model.json").read_text())


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"score": "entropy"}, "novelty lacks threshold"),
        ({"score": "magic", "threshold": 1}, "score of novelty must be one of energy"),
        ({"score": ["entropy"], "threshold": 1}, "score of novelty must be one of energy"),
        ({"score": "entropy", "threshold": "1"}, "threshold of novelty must be a number"),
        ({"score": "entropy", "threshold": 1, "known_share": 0}, "known_share of novelty must be above 0"),
        ({"score": "entropy", "threshold": 1, "images": 1.5}, "images of novelty must be whole numbers"),
        (["entropy", 1], "novelty must be an object"),
    ],
)
def test_a_bundle_with_a_damaged_threshold_is_refused(tmp_path: Path, values: object, problem: str) -> None:
    made = make(tmp_path / "small")
    path = made.folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"novelty": values}))
    with pytest.raises(BundleError, match=problem):
        bundle.read(made.folder)
