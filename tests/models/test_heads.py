"""Heads other than a softmax: bundles, recipes, Keras files that end in sigmoids, and how they are calibrated."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from numpy.typing import NDArray

from glimpse.models import bundle as bundles
from glimpse.models import features, golden, heads, two_scores
from glimpse.models.bundle import Bundle, BundleError
from glimpse.models.heads import Head
from glimpse.models.serving import load_bundle, serving_model
from glimpse.models.sources import ModelSource, resolve
from glimpse.models.weights import WeightsError
from tests.models.keras_makers import CLASSES, PIXELS, model, predicted, saved, trunk

pytestmark = pytest.mark.usefixtures("seeded")

MULTI_LABEL = 'head = "multi-label"\n'
HEAD = Head(kind="multi-label", temperatures=(1.0, 2.0, 0.5), offsets=(0.0, -1.0, 2.0), thresholds=(0.5, 0.25, 0.75))


def served(path: Path) -> NDArray[np.float32]:
    """What is answered for `PIXELS`."""
    bundle = resolve(ModelSource(weights=str(path)))
    network = serving_model(load_bundle(bundle), bundle.recipe, bundle.temperature, bundle.head)
    return np.asarray(keras.ops.convert_to_numpy(network(PIXELS, training=False)))


ENDS: dict[str, Any] = {
    "dense": lambda x: trunk(x, activation="sigmoid"),
    "layer": lambda x: layers.Activation("sigmoid")(trunk(x)),
    "function": lambda x: ops.sigmoid(trunk(x)),
    "behind": lambda x: layers.Reshape((CLASSES,))(trunk(x, activation="sigmoid")),
}


@pytest.mark.parametrize("end", ENDS)
def test_sigmoids_of_keras_are_served_as_they_are(end: str, tmp_path: Path) -> None:
    made = model(ENDS[end])
    expected = predicted(made)
    assert not np.allclose(expected.sum(axis=1), 1, atol=0.05)
    np.testing.assert_allclose(served(saved(made, tmp_path, more=MULTI_LABEL)), expected, rtol=0, atol=1e-5)


def test_logits_of_labels_become_sigmoids(tmp_path: Path) -> None:
    made = model(trunk)
    expected = heads.sigmoid(predicted(made))
    np.testing.assert_allclose(served(saved(made, tmp_path, more=MULTI_LABEL)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("end", "size"),
    [("sigmoid", 8), (None, 8), ("hard_sigmoid", 0)],
)
def test_a_single_score_becomes_the_probabilities_of_two_classes(end: str | None, size: int, tmp_path: Path) -> None:
    """As networks for cats and dogs end that `keras.io` shows: ``Dense(1)``, with or without its sigmoid."""
    made = model(lambda x: trunk(x, 1, activation=end))
    second = predicted(made)[:, 0] if end else heads.sigmoid(predicted(made)[:, 0])
    path = saved(made, tmp_path, classes=2)
    np.testing.assert_allclose(served(path), np.asarray([1 - second, second]).T, rtol=0, atol=1e-5)
    summary = load_bundle(resolve(ModelSource(weights=str(path)))).summary
    assert (summary.output, summary.embedding) == ("binary", size)


def test_a_single_score_of_one_label_may_be_stated(tmp_path: Path) -> None:
    made = model(lambda x: trunk(x, 1, activation="sigmoid"))
    found = served(saved(made, tmp_path, classes=1, more=MULTI_LABEL))
    np.testing.assert_allclose(found, predicted(made), rtol=0, atol=1e-5)


REFUSED: dict[str, tuple[int, str, int, str, str]] = {
    "a softmax of labels": (CLASSES, "softmax", CLASSES, MULTI_LABEL, "must end in a sigmoid or in logits"),
    "sigmoids of classes": (CLASSES, "sigmoid", CLASSES, "", 'state head = "multi-label" in its recipe'),
    "one score of three": (1, "sigmoid", 3, "", r"Give two labels for it: first that of 0.*Received: 3 labels"),
    "a softmax of one": (1, "softmax", 2, "", "must end in a sigmoid"),
    "two scores": (2, "softmax", 2, 'head = "binary"\n', "Remove head from the recipe"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_of_another_head_is_refused(name: str, tmp_path: Path) -> None:
    units, end, classes, more, said = REFUSED[name]
    made = model(lambda x: trunk(x, units, activation=end))
    with pytest.raises(WeightsError, match=said):
        served(saved(made, tmp_path, classes=classes, more=more))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('head = "sigmoid"\n', "head must be one of softmax, multi-label, binary"),
        ("thresholds = 0.5\n", 'thresholds are those of a head = "multi-label"'),
        (MULTI_LABEL + "thresholds = [0.5, 0.5]\n", "one for each of the 4 labels"),
        (MULTI_LABEL + "thresholds = 1.5\n", "thresholds must be from 0 to 1"),
        (MULTI_LABEL + 'thresholds = "half"\n', "thresholds must be a list of numbers"),
        ('head = "binary"\n', "A binary head has two labels"),
    ],
)
def test_a_head_that_a_recipe_states_wrongly_is_refused(more: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=said):
        resolve(ModelSource(weights=str(saved(model(ENDS["dense"]), tmp_path, more=more))))


def test_a_recipe_may_state_thresholds(tmp_path: Path) -> None:
    made = model(ENDS["dense"])
    one = resolve(ModelSource(weights=str(saved(made, tmp_path / "a", more=MULTI_LABEL + "thresholds = 0.25\n"))))
    each = resolve(
        ModelSource(weights=str(saved(made, tmp_path / "b", more=MULTI_LABEL + "thresholds = [0.1, 0.2, 0.3, 1]\n")))
    )
    assert one.head.thresholds == (0.25,) * 4
    assert each.head.thresholds == (0.1, 0.2, 0.3, 1.0)


def test_offsets_and_temperatures_are_those_of_each_label() -> None:
    image = keras.Input((3,), name="image")
    head = keras.layers.Rescaling(
        scale=[1 / each for each in HEAD.temperatures],
        offset=[-o / t for o, t in zip(HEAD.offsets, HEAD.temperatures, strict=True)],
    )
    network = keras.Model(image, keras.layers.Activation("sigmoid")(head(image)))
    logits = np.random.default_rng(0).normal(0, 4, (20, 3)).astype(np.float32)
    found = keras.ops.convert_to_numpy(network(logits))
    np.testing.assert_allclose(found, HEAD.probabilities(logits), rtol=0, atol=1e-6)


def test_two_scores_share_the_layers_of_one() -> None:
    image = keras.Input((8, 8, 3))
    one = keras.Model(image, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(image)))
    two = two_scores.of_one(one)
    pixels = np.random.default_rng(0).normal(0, 9, (5, 8, 8, 3)).astype(np.float32)
    logits = keras.ops.convert_to_numpy(two(pixels))
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], keras.ops.convert_to_numpy(one(pixels))[:, 0], rtol=1e-5)
    assert two.count_params() == one.count_params()
    assert features.size(two) == 3


def written(folder: Path, head: Head, *, classes: int = 3) -> Bundle:
    """A bundle of a network of the library with such a head."""
    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    folder.mkdir(exist_ok=True)
    (folder / "weights.safetensors").write_bytes(shipped.weights_path.read_bytes())
    return bundles.write(
        folder,
        name="shapes",
        version="1",
        architecture=shipped.architecture,
        variant=shipped.variant,
        input_shape=shipped.input_shape,
        labels=[bundles.ClassLabel(f"label {number}") for number in range(classes)],
        recipe=shipped.recipe,
        temperature=1.0,
        metrics={},
        head=head,
    )


def test_a_bundle_keeps_its_head_in_a_format_that_older_readers_refuse(tmp_path: Path) -> None:
    found = written(tmp_path, HEAD)
    assert found.head == HEAD
    assert json.loads((tmp_path / "model.json").read_text())["format"] == 2


def test_a_bundle_with_a_softmax_is_what_it_was(tmp_path: Path) -> None:
    assert written(tmp_path, heads.SOFTMAX).head == heads.SOFTMAX
    values = json.loads((tmp_path / "model.json").read_text())
    assert values["format"] == 1
    assert "head" not in values


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 1}, "must have the key head if, and only if, its format is 2"),
        ({"format": 3}, "reads formats 1 and 2"),
        ({"head": {"kind": "multi-label"}}, "temperatures, offsets and thresholds"),
        ({"head": {**HEAD.to_dict(), "thresholds": [0.5, 0.5]}}, "temperatures, offsets and thresholds"),
        ({"head": {**HEAD.to_dict(), "temperatures": [1, 0, 1]}}, "temperatures must be positive"),
        ({"head": {**HEAD.to_dict(), "offsets": [0, 0, None]}}, "head.offsets must be a list of numbers"),
        ({"head": {**HEAD.to_dict(), "bias": []}}, "head must have kind"),
        ({"head": {"kind": "binary"}}, "A binary head has two labels"),
        (
            {"novelty": {"score": "energy", "threshold": 1.0, "known_share": 0.95, "images": 100}},
            "novelty follows from probabilities that add up to 1",
        ),
    ],
)
def test_a_bundle_whose_head_does_not_fit_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    written(tmp_path, HEAD)
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(BundleError, match=said):
        bundles.read(tmp_path)


def test_only_answers_whose_every_label_is_clear_are_recorded() -> None:
    assert golden.is_clear(np.array([0.6, 0.1, 0.9], np.float32), HEAD)
    assert not golden.is_clear(np.array([0.6, 0.3, 0.9], np.float32), HEAD)
    assert not golden.is_clear(np.array([0.55, 0.3, 0.15], np.float32), dataclasses.replace(HEAD))
