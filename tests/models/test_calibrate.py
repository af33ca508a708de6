"""Calibration and measurement, on numbers that were made to have a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models.train.calibrate import (
    fit_temperature,
    log_softmax,
    negative_log_likelihood,
    reliability,
    smoothed_loss,
)
from glimpse.models.train.measure import measure, wilson


def sampled(temperature: float, count: int = 20_000) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits whose true classes are drawn from softmax(logits / temperature): that temperature is the right one."""
    rng = np.random.default_rng(7)
    logits = rng.normal(0, 3, (count, 6))
    cumulated = np.exp(log_softmax(logits, temperature)).cumsum(axis=1)
    return logits, np.minimum((rng.random((count, 1)) > cumulated).sum(axis=1), 5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    assert fit_temperature(*sampled(temperature)) == pytest.approx(temperature, rel=0.03)


def test_no_temperature_nearby_is_likelier_than_the_fitted_one() -> None:
    logits, classes = sampled(1.7, 500)
    fitted = fit_temperature(logits, classes)
    least = smoothed_loss(logits, classes, fitted)
    assert all(smoothed_loss(logits, classes, fitted * f) > least for f in (0.9, 0.99, 1.01, 1.1))
    plain = negative_log_likelihood(logits, classes, fitted)
    assert all(negative_log_likelihood(logits, classes, fitted * f) > plain for f in (0.9, 1.1))


@pytest.mark.parametrize("classes", [2, 3, 50])
def test_a_dozen_images_that_are_all_right_are_no_certainty(classes: int) -> None:
    true = np.arange(12) % classes
    logits = np.random.default_rng(3).normal(0, 1, (12, classes)) + 9 * np.eye(classes)[true]
    assert (logits.argmax(axis=1) == true).all()
    probabilities = np.exp(log_softmax(logits, fit_temperature(logits, true)))
    assert probabilities.max(axis=1).mean() == pytest.approx(13 / 14, abs=0.04)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_neither_fitted_nor_measured(value: float) -> None:
    logits, classes = sampled(1.0, 50)
    logits[[3, 7], [0, 5]] = value
    for what in (lambda: fit_temperature(logits, classes), lambda: measure(logits, classes, 1.0)):
        with pytest.raises(ValueError, match="infinite or not a number for 2 of 50 images"):
            what()


def test_thousands_of_images_get_the_temperature_of_the_plain_likelihood() -> None:
    logits, classes = sampled(1.7, 5000)
    fitted = fit_temperature(logits, classes)
    assert negative_log_likelihood(logits, classes, fitted) < min(
        negative_log_likelihood(logits, classes, fitted * f) for f in (0.99, 1.01)
    )


def test_the_fitted_temperature_closes_the_calibration_gap() -> None:
    logits, classes = sampled(2.5)
    before = reliability(np.exp(log_softmax(logits)), classes).error
    after = reliability(np.exp(log_softmax(logits, fit_temperature(logits, classes))), classes).error
    assert before > 0.1
    assert after < 0.02


def test_a_temperature_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"held-out images. Received: no images"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64))


def test_log_softmax_survives_logits_that_overflow() -> None:
    values = log_softmax(np.array([[1e5, 0.0]], np.float32))
    np.testing.assert_allclose(values, [[0, -1e5]])


def test_equal_logits_have_the_log_of_their_number_as_negative_log_likelihood() -> None:
    """The negative log-likelihood of certainty about nothing is the logarithm of the number of classes."""
    assert negative_log_likelihood(np.zeros((4, 10)), np.arange(4)) == pytest.approx(math.log(10))


def test_calibration_error_is_the_gap_averaged_over_predictions() -> None:
    # Three sure answers (0.95), two of them right; one unsure answer (0.6), right.
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.05, 0.95], [0.6, 0.4]])
    data = reliability(probabilities, np.array([0, 0, 0, 0]))
    assert data.counts.sum() == 4
    assert data.counts[14] == 3
    assert data.accuracy[14] == pytest.approx(2 / 3)
    assert data.confidence[14] == pytest.approx(0.95)
    assert data.error == pytest.approx(3 / 4 * (0.95 - 2 / 3) + 1 / 4 * 0.4)


def test_measurement_counts_answers_by_true_class() -> None:
    answers, classes = np.array([0, 1, 1, 2, 0, 0, 6]), np.array([0, 1, 2, 2, 0, 1, 6])
    logits = np.eye(7)[answers] * 5
    measured = measure(logits, classes, 1.0)
    assert measured.top1 == pytest.approx(5 / 7)
    assert measured.confusion[2, 1] == 1
    assert measured.confusion[1, 0] == 1
    assert measured.confusion.sum() == 7
    np.testing.assert_array_equal(measured.recall, [1, 0.5, 0.5, math.nan, math.nan, math.nan, 1])


def test_top5_looks_at_five_answers_and_is_left_out_where_there_are_no_more() -> None:
    logits = np.array([[6, 5, 4, 3, 2, 1.0]])
    assert measure(logits, np.array([4]), 1.0).top5 == 1
    assert measure(logits, np.array([5]), 1.0).top5 == 0
    assert measure(logits[:, :5], np.array([4]), 1.0).top5 is None
    assert "top5" not in measure(logits[:, :5], np.array([4]), 1.0).metrics()


def test_temperature_changes_likelihood_but_no_answer() -> None:
    logits, classes = sampled(2.0, 1000)
    warm, cold = measure(logits, classes, 2.0), measure(logits, classes, 1.0)
    np.testing.assert_array_equal(warm.confusion, cold.confusion)
    assert warm.nll < warm.nll_uncalibrated == cold.nll


def test_nothing_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="without images"):
        measure(np.zeros((0, 3)), np.zeros(0, np.int64), 1.0)


def test_wilson_s_interval_is_that_of_the_textbook() -> None:
    # Brown, Cai and DasGupta, 2001: the end points solve |p - share| = z sqrt(p (1 - p) / n).
    for successes, trials in [(0, 10), (9, 10), (10, 10), (4600, 5000)]:
        share = successes / trials
        low, high = wilson(successes, trials)
        assert 0 <= low <= share <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                assert abs(end - share) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / trials), abs=1e-9)
