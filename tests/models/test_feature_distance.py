"""The score of novelty that looks into the network: an inner layer's statistics and the distance to known ones."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from glimpse.models import bundle as bundles
from glimpse.models import features, sources
from glimpse.models.bundle import BundleError
from glimpse.models.calibration.fitting import calibrate
from glimpse.models.calibration.inner import Inner
from glimpse.models.errors import BundleError as NetworkError
from glimpse.models.novelty import feature_distance, novelty
from glimpse.models.novelty.feature_distance import FeatureDistance
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import FEATURE_STATISTICS, LOGITS
from glimpse.models.serving import by_name, load_bundle, serving_outputs
from tests.models.test_bundle import make

LAYER = "group2_block3_act"
SIZE = 8
RNG = np.random.default_rng(5)
_MIXED = np.eye(SIZE // 2) + RNG.normal(0, 0.3, (SIZE // 2, SIZE // 2))


def statistics(number: int, *, shift: float = 0.0) -> np.ndarray:
    """Means and mean squares of channels that follow one another, float32 ``[N, SIZE]``."""
    means = RNG.normal(shift, 1, (number, SIZE // 2)) @ _MIXED
    return np.concatenate([means, means**2 + RNG.uniform(0.5, 1.5, means.shape)], axis=1).astype(np.float32)


def logits(number: int) -> np.ndarray:
    return RNG.normal(0, 3, (number, 10)).astype(np.float32)


def entropy(number: int) -> np.ndarray:
    return novelty.entropy(logits(number).astype(np.float64))


def fitted() -> NoveltyThreshold:
    distance = feature_distance.fit(LAYER, statistics(400), statistics(100), entropy(100))
    return NoveltyThreshold(score=novelty.FEATURE_DISTANCE, threshold=4.5, images=100, distance=distance)


def test_the_distance_is_that_of_mahalanobis() -> None:
    """Written down plainly, over means and standard deviations; float16 in the bundle costs less than a hundredth."""
    known, found = statistics(2000), statistics(50, shift=1)

    def plain(values: np.ndarray) -> np.ndarray:
        means, squares = np.split(values.astype(np.float64), 2, axis=1)
        return np.concatenate([means, np.sqrt(squares - means**2)], axis=1)

    away = plain(found) - plain(known).mean(axis=0)
    expected = np.log(np.einsum("ni,ij,nj->n", away, np.linalg.inv(np.cov(plain(known).T)), away))
    distance = feature_distance.fit(LAYER, known, statistics(100), entropy(100))
    np.testing.assert_allclose(distance.log_distance(found), expected, atol=0.05)


def test_the_entropy_moves_the_score_as_much_as_is_stated() -> None:
    known, unsure = statistics(400), entropy(400)
    distance = feature_distance.fit(LAYER, statistics(400), known, unsure)
    both = distance.score(known, unsure) - distance.log_distance(known)
    assert both.std() == pytest.approx(distance.log_distance(known).std() * 0.6, rel=1e-3)


def test_a_layer_that_follows_from_another_and_one_that_is_dead_do_no_harm() -> None:
    known = np.concatenate([statistics(400)[:, :2], statistics(400)[:, :2] * 0], axis=1)
    known = np.concatenate([known[:, [0, 0, 2, 3]], known[:, [0, 0, 2, 3]] ** 2], axis=1)
    distance = feature_distance.fit(LAYER, known, known, entropy(400))
    assert np.isfinite(distance.score(known, entropy(400))).all()


def test_a_bundle_and_a_pickle_keep_the_distance(tmp_path: Path) -> None:
    mine = fitted()
    made = make(tmp_path / "with", novelty=mine)
    assert made.novelty == mine
    assert made.statistics_layer == LAYER
    assert pickle.loads(pickle.dumps(made)).novelty == mine  # noqa: S301 - our own
    outputs = {LOGITS: logits(5), FEATURE_STATISTICS: statistics(5)}
    assert made.novelty is not None
    np.testing.assert_array_equal(made.novelty.scores(outputs), mine.scores(outputs))


def test_statistics_that_are_no_numbers_are_unknown() -> None:
    (found,) = fitted().scores({LOGITS: logits(1), FEATURE_STATISTICS: np.full((1, SIZE), np.nan)})
    assert found == np.finfo(np.float32).max


def test_too_few_images_and_too_many_channels_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"at least 16 images .* Received: 15\. .* --trained-on"):
        feature_distance.fit(LAYER, statistics(15), statistics(20), entropy(20))
    wide = np.ones((1000, 194), np.float32)
    with pytest.raises(ValueError, match="has 97 channels, and a distance can have at most 96"):
        feature_distance.fit(LAYER, wide, wide, entropy(1000))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"layer": ""}, "layer of the distance of novelty must be a name"),
        ({"layer": "a\nb"}, "layer of the distance of novelty must be a name"),
        ({"layer": ["a"]}, "layer of the distance of novelty must be a name"),
        ({"features": 7}, "features of the distance of novelty must be an even number"),
        ({"features": 1 << 40}, "features of the distance of novelty must be an even number"),
        ({"features": 10}, "mean of the distance of novelty must be base64 of 10 numbers"),
        ({"images": -1}, "images of the distance of novelty"),
        ({"entropy_weight": float("nan")}, "entropy_weight of the distance of novelty|not JSON"),
        ({"entropy_weight": True}, "entropy_weight of the distance of novelty"),
        ({"mean": [0.0] * SIZE}, "mean of the distance of novelty must be a string of base64"),
        ({"mean": "A" * 44}, "mean of the distance of novelty"),
        ({"mean": "é" * 44}, "mean of the distance of novelty is not base64"),
        ({"scale": base64.b64encode(np.zeros(SIZE, "<f4").tobytes()).decode()}, "scale .* must be positive"),
        ({"scale": base64.b64encode(np.full(SIZE, np.inf, "<f4").tobytes()).decode()}, "8 finite numbers"),
        ({"whitening": ""}, "whitening of the distance of novelty must be base64 of 36 numbers of f2"),
        ({"whitening": None}, "whitening of the distance of novelty must be a string"),
    ],
)
def test_a_bundle_with_a_damaged_distance_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    made = make(tmp_path / "small", novelty=fitted())
    path = made.folder / "model.json"
    values = json.loads(path.read_text())
    values["novelty"]["distance"] |= changes
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=problem):
        bundles.read(made.folder)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"score": "feature_distance", "threshold": 1}, "must have a distance if, and only if"),
        ({"score": "entropy", "threshold": 1, "distance": {}}, "must have a distance if, and only if"),
        ({"score": "feature_distance", "threshold": 1, "distance": []}, "distance of novelty must be an object"),
        ({"score": "feature_distance", "threshold": 1, "distance": {}}, "distance of novelty lacks layer, features"),
    ],
)
def test_a_score_and_its_distance_belong_together(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        NoveltyThreshold.from_dict(values)


def test_an_inner_layer_is_the_last_before_the_last_reduction() -> None:
    shipped = sources.resolve(sources.ModelSource(weights="cifar10"))
    assert features.inner_layer(load_bundle(shipped).model) == LAYER
    flat = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3, padding="same")])
    assert not features.inner_layer(flat)


def test_the_statistics_are_those_of_the_layer() -> None:
    """And the other outputs are the same numbers with them and without."""
    shipped = sources.resolve(sources.ModelSource(weights="cifar10"))
    assembly = load_bundle(shipped)
    pixels = RNG.integers(0, 256, (3, 32, 32, 3), np.uint8)
    both = [serving_outputs(assembly, shipped.recipe, shipped.temperature, statistics=layer) for layer in ("", LAYER)]
    without, found = ({k: np.asarray(v) for k, v in by_name(each, each(pixels)).items()} for each in both)
    assert found.keys() - without.keys() == {FEATURE_STATISTICS}
    for name, values in without.items():
        np.testing.assert_array_equal(found[name], values)
    inner = keras.Model(assembly.model.inputs, features.inner_map(assembly.model, LAYER))
    recipe = shipped.recipe
    maps = np.asarray(inner([(pixels - np.array(recipe.mean, np.float32)) / np.array(recipe.std, np.float32)]))
    expected = np.concatenate([maps.mean(axis=(1, 2)), (maps**2).mean(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(found[FEATURE_STATISTICS], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "problem"), [("group9_act", "which the network does not have"), ("classifier_pool", "gives none")]
)
def test_a_layer_that_the_network_lacks_is_named(layer: str, problem: str) -> None:
    shipped = sources.resolve(sources.ModelSource(weights="cifar10"))
    with pytest.raises(NetworkError, match=f"{layer}.*{problem}|needs a layer .* {layer} {problem}"):
        serving_outputs(load_bundle(shipped), shipped.recipe, 1.0, statistics=layer)


@pytest.mark.parametrize("trained", [True, False])
def test_a_calibration_fits_the_distance_and_measures_it_on_others(trained: bool) -> None:  # noqa: FBT001
    """Where no images of the training are given, the distance has half of those that are fitted on."""
    known, foreign = statistics(1000), statistics(200, shift=4)
    inner = Inner(layer=LAYER, known=known, foreign={"far": foreign}, trained=statistics(600) if trained else None)
    classes = RNG.integers(0, 10, 1000)
    found = calibrate(logits(1000), classes, {"far": logits(200)}, inner=inner)
    threshold = found.threshold
    assert (threshold.score, threshold.images) == ("feature_distance", 500 if trained else 250)
    assert threshold.distance is not None
    assert threshold.distance.images == (600 if trained else 250)
    assert 0.02 < found.rejected < 0.09
    assert found.foreign["far"].auroc == found.aurocs["feature_distance"]["far"] > 0.95
    assert max(found.aurocs[name]["far"] for name in novelty.SCORES) < 0.6


def test_what_is_written_is_what_is_read() -> None:
    mine = fitted().distance
    assert mine is not None
    assert FeatureDistance.from_dict(json.loads(json.dumps(mine.to_dict()))) == mine
