"""From the outputs of a network to labelled predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse.models.bundle import ClassLabel
from glimpse.server.answers.postprocessing import postprocess, top_k

LABELS = [ClassLabel("cat", "n1"), ClassLabel("dog"), ClassLabel("frog")]


def test_predictions_come_by_falling_probability_with_their_labels() -> None:
    first, second = top_k(np.array([0.2, 0.7, 0.1], np.float32), LABELS, k=2)
    assert (first.index, first.label, first.class_id) == (1, "dog", "")
    assert (second.index, second.label, second.class_id) == (0, "cat", "n1")


def test_among_equals_the_lower_index_comes_first() -> None:
    assert [p.index for p in top_k(np.full(3, 1 / 3, np.float32), LABELS, k=3)] == [0, 1, 2]


def test_the_minimum_is_inclusive_and_may_leave_nothing() -> None:
    probabilities = np.array([0.5, 0.25, 0.25], np.float32)
    assert len(top_k(probabilities, LABELS, k=3, min_probability=0.25)) == 3
    assert len(top_k(probabilities, LABELS, k=3, min_probability=0.3)) == 1
    assert top_k(probabilities, LABELS, k=3, min_probability=0.9) == ()


@given(st.integers(1, 200), st.integers(1, 12), st.integers(0, 2**32), st.data())
def test_the_k_largest_are_returned(classes: int, distinct: int, seed: int, data: st.DataObject) -> None:
    """Of few classes and of many, with many equals among them."""
    k = data.draw(st.integers(1, classes))
    probabilities = np.random.default_rng(seed).integers(0, distinct, classes).astype(np.float32) / np.float32(distinct)
    labels = [ClassLabel(str(i)) for i in range(classes)]
    found = [p.index for p in top_k(probabilities, labels, k=k)]
    assert found == sorted(range(classes), key=lambda index: -probabilities[index])[:k]


def test_any_number_of_many_classes_comes_in_order() -> None:
    probabilities = np.random.default_rng(7).permutation(1000).astype(np.float32) / np.float32(1000)
    labels = [ClassLabel(str(i)) for i in range(1000)]
    for k in (1, 5, 100, 250, 500, 750, 998, 999, 1000):
        found = top_k(probabilities, labels, k=k)
        assert [p.index for p in found] == np.argsort(-probabilities)[:k].tolist()


@pytest.mark.parametrize("distinct", [1, 3, 100_000])
def test_of_thousands_of_classes_the_most_probable_come_first(distinct: int) -> None:
    """With hardly any equals, with many, and with nothing but equals."""
    probabilities = np.random.default_rng(7).integers(0, distinct, 5000).astype(np.float32) / np.float32(distinct)
    labels = [ClassLabel(str(i)) for i in range(5000)]
    for k in (1, 5, 70, 79, 500, 4999):
        found = [p.index for p in top_k(probabilities, labels, k=k)]
        assert found == np.argsort(-probabilities, kind="stable")[:k].tolist()


def test_probabilities_become_predictions_and_other_outputs_stay_as_they_are() -> None:
    probabilities, logits = np.array([0.2, 0.7, 0.1], np.float32), np.array([0.0, 1.25, -0.7], np.float32)
    options = {"k": 1, "min_probability": 0.0}
    predictions, others = postprocess({"logits": logits, "probabilities": probabilities}, LABELS, **options)  # type: ignore[arg-type]
    assert [each.label for each in predictions] == ["dog"]
    assert others == {"logits": logits}
    assert postprocess({"logits": logits}, LABELS, **options) == ((), {"logits": logits})  # type: ignore[arg-type]
    assert postprocess({"probabilities": probabilities}, LABELS, **options) == (predictions, {})  # type: ignore[arg-type]
