"""The score of novelty that is fitted on foreign images: a logistic regression on embedding, entropy and distance."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse.models import bundle as bundles
from glimpse.models.bundle import BundleError
from glimpse.models.calibration.fitting import calibrate
from glimpse.models.calibration.inner import Embedded, Inner
from glimpse.models.novelty import feature_distance, logistic_score, novelty
from glimpse.models.novelty.logistic_score import LogisticScore
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import EMBEDDING, FEATURE_STATISTICS, LOGITS
from tests.models.test_bundle import make

SIZE = 6
RNG = np.random.default_rng(9)
AWAY = np.array([2.0, -1.5, 0, 0, 0, 0])  # of foreign embeddings


def embeddings(number: int, away: float = 0.0) -> np.ndarray:
    return (RNG.normal(1, 1, (number, SIZE)) * [1, 2, 1, 1, 30, 1] + away * AWAY).astype(np.float32)


def logits(number: int) -> np.ndarray:
    return RNG.normal(0, 3, (number, 10)).astype(np.float32)


def statistics(number: int, shift: float = 0.0) -> np.ndarray:
    means = RNG.normal(shift, 1, (number, 2))
    return np.concatenate([means, means**2 + 1], axis=1).astype(np.float32)


def columns(number: int, away: float = 0.0) -> np.ndarray:
    return logistic_score.columns(embeddings(number, away), RNG.exponential(1, number), None)


def fitted() -> NoveltyThreshold:
    found = logistic_score.fit(columns(200), [columns(200, 1)], distance=False)
    return NoveltyThreshold(score="logistic", threshold=0.5, images=100, logistic=found)


def test_foreign_images_are_told_that_the_logits_do_not_tell() -> None:
    """Others of the same kind than those that it was fitted on; and how large a feature is makes no difference."""
    found = logistic_score.fit(columns(500), [columns(500, 1)], distance=False)

    def scores(away: float) -> np.ndarray:
        return found.score(embeddings(500, away), RNG.exponential(1, 500))

    assert novelty.auroc(scores(0), scores(1)) > 0.9
    weights = np.frombuffer(base64.b64decode(found.weights), "<f4") * [1, 2, 1, 1, 30, 1]
    assert np.abs(weights).argmax() == 0
    assert np.abs(weights[2:]).max() < np.abs(weights[:2]).min()


def test_the_regression_is_at_the_least_of_its_loss() -> None:
    """Whatever weight is moved, the loss rises: written down plainly, without the entropy that is added."""
    values, share = RNG.normal(0, 1, (60, 3)) + np.arange(60)[:, np.newaxis] / 30, np.full(60, 1 / 60)
    weights, offset = logistic_score._regression(values, 30, share)

    def loss(moved: np.ndarray) -> float:
        odds = values @ moved[:-1] + moved[-1]
        plain = np.logaddexp(0, np.where(np.arange(60) < 30, odds, -odds)).mean()
        return float(plain + logistic_score._PENALTY * 3 * (moved[:-1] ** 2).sum() / 2)

    best = np.append(weights, offset)
    for index in range(4):
        for step in (-1e-3, 1e-3):
            assert loss(best + step * np.eye(4)[index]) > loss(best)


def test_a_small_set_counts_more_than_its_images_alone_would() -> None:
    """Two sets that differ from known images in other features, one a hundred times as large as the other."""
    known, large, small = columns(400), columns(2000, 1), columns(20)
    small[:, 2] += 4
    unseen = embeddings(200)
    unseen[:, 2] += 4

    def told(sets: list[np.ndarray]) -> float:
        found = logistic_score.fit(known, sets, distance=False)
        entropy = np.zeros(400)
        return novelty.auroc(found.score(known[:, :SIZE], entropy), found.score(unseen, entropy[:200]))

    assert told([large, small]) > told([np.concatenate([large, small])]) + 0.05


def test_unsure_answers_are_less_known_though_foreign_images_are_sure() -> None:
    known, foreign = columns(300), columns(300, 1)
    foreign[:, SIZE] = known[:, SIZE]
    found = logistic_score.fit(known, [foreign], distance=False)
    assert found.entropy_weight > 0


@pytest.mark.parametrize("distance", [True, False])
def test_a_bundle_and_a_pickle_keep_the_score(tmp_path: Path, distance: bool) -> None:  # noqa: FBT001
    mine = fitted()
    outputs = {LOGITS: logits(5), EMBEDDING: embeddings(5)}
    if distance:
        inner = feature_distance.fit("layer", statistics(100), statistics(100), RNG.exponential(1, 100))
        with_distance = np.column_stack([columns(200), RNG.normal(0, 1, 200)])
        found = logistic_score.fit(with_distance, [with_distance + 1], distance=True)
        mine = NoveltyThreshold(score="logistic", threshold=0.5, images=100, logistic=found, distance=inner)
        outputs[FEATURE_STATISTICS] = statistics(5)
    made = make(tmp_path / "with", novelty=mine)
    assert made.novelty == mine == pickle.loads(pickle.dumps(made)).novelty  # noqa: S301 - our own
    assert made.novelty.needs == outputs.keys()
    np.testing.assert_array_equal(made.novelty.scores(outputs), mine.scores(outputs))
    assert made.statistics_layer == ("layer" if distance else "")


def test_embeddings_that_are_no_numbers_are_unknown() -> None:
    (found,) = fitted().scores({LOGITS: logits(1), EMBEDDING: np.full((1, SIZE), np.nan)})
    assert found == np.finfo(np.float32).max


def test_too_few_images_and_too_large_an_embedding_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"at least 10 images .* Received: 9 and 20\. .* give more"):
        logistic_score.fit(columns(9), [columns(20)], distance=False)
    wide = np.ones((20, logistic_score.MOST_FEATURES + 2))
    with pytest.raises(ValueError, match=r"has 2,049 numbers, .* at most 2,048\. Choose another score"):
        logistic_score.fit(wide, [wide], distance=False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"features": 0}, "features of the logistic score of novelty must be a whole number from 1 to 2048"),
        ({"features": 1 << 40}, "features of the logistic score of novelty must be a whole number"),
        ({"features": SIZE + 1}, "weights of the logistic score of novelty must be base64 of 7 numbers"),
        ({"known": -1}, "images of the logistic score of novelty"),
        ({"foreign": True}, "images of the logistic score of novelty"),
        ({"weights": [0.0] * SIZE}, "weights of the logistic score of novelty must be a string"),
        ({"weights": base64.b64encode(np.full(SIZE, np.inf, "<f4").tobytes()).decode()}, "6 finite numbers"),
        ({"entropy_weight": "1"}, "entropy_weight of the logistic score of novelty must be a number"),
        ({"offset": 1e300}, "offset of the logistic score of novelty must be a number"),
        ({"distance_weight": 1.0}, "must have a distance if, and only if"),
    ],
)
def test_a_bundle_with_a_damaged_score_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    made = make(tmp_path / "small", novelty=fitted())
    path = made.folder / "model.json"
    values = json.loads(path.read_text())
    values["novelty"]["logistic"] |= changes
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=problem):
        bundles.read(made.folder)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"score": "logistic", "threshold": 1}, "weights of a logistic score if, and only if"),
        ({"score": "entropy", "threshold": 1, "logistic": {}}, "weights of a logistic score if, and only if"),
        ({"score": "logistic", "threshold": 1, "logistic": []}, "logistic score of novelty must be an object"),
        ({"score": "logistic", "threshold": 1, "logistic": {}}, "logistic score of novelty lacks features, known"),
    ],
)
def test_a_score_and_its_weights_belong_together(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        NoveltyThreshold.from_dict(values)


@pytest.mark.parametrize("distance", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_a_calibration_measures_on_images_that_it_was_not_fitted_on(distance: bool, trained: bool) -> None:  # noqa: FBT001
    """Nor was the threshold fitted on those that the regression has, or the distance."""
    known, foreign = embeddings(1200), {"far": embeddings(200, 2), "other": embeddings(100, -3)}
    inner = None
    if distance:
        layers = {name: statistics(len(each), 4) for name, each in foreign.items()}
        inner = Inner(
            layer="layer", known=statistics(1200), foreign=layers, trained=statistics(100) if trained else None
        )
    found = calibrate(
        logits(1200),
        RNG.integers(0, 10, 1200),
        {name: logits(len(each)) for name, each in foreign.items()},
        inner=Embedded(known=known, foreign=foreign, inner=inner),
        measured_only=["other"],
    )
    logistic = found.threshold.logistic
    assert logistic is not None
    used = 200 if distance and not trained else 300
    assert (logistic.known, logistic.foreign, found.threshold.images) == (used, 100, used)
    assert 0.02 < found.rejected < 0.09
    assert found.foreign["far"].auroc == found.aurocs["logistic"]["far"] > 0.95
    assert [(each.images, each.fitted) for each in found.foreign.values()] == [(100, True), (100, False)]


def test_no_score_is_chosen_by_images_that_are_measured_alone() -> None:
    """The logits of one set are told by the highest, and those of the other by all the scores but that one."""
    known = logits(400)
    many = known[:100].copy()
    many[:, :5] = many.max(axis=1, keepdims=True)
    classes = RNG.integers(0, 10, 400)
    low = logits(100) - 30
    assert calibrate(known, classes, {"many": many, "low": low}, measured_only=["low"]).threshold.score != "max_logit"
    found = calibrate(known, classes, {"many": many, "low": low}, measured_only=["many"])
    assert found.threshold.score in {"max_logit", "energy"}
    assert calibrate(known, classes, {"low": low}, measured_only=["low"]).threshold.score == novelty.DEFAULT_SCORE


def test_what_is_written_is_what_is_read() -> None:
    mine = fitted().logistic
    assert mine is not None
    assert LogisticScore.from_dict(json.loads(json.dumps(mine.to_dict()))) == mine
