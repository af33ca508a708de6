from __future__ import annotations

import numpy as np
import pytest

from tools.bench import loads


def test_requests_come_at_the_asked_rate_and_before_the_end() -> None:
    due = loads.poisson(50, 200, seed=1)
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 200
    assert len(due) == pytest.approx(10_000, rel=0.05)


def test_the_gaps_are_those_of_independent_callers() -> None:
    gaps = np.diff(loads.poisson(50, 200, seed=1))
    # Of an exponential distribution mean and deviation are equal, and a share of 1/e is longer than the mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert np.mean(gaps > gaps.mean()) == pytest.approx(1 / np.e, rel=0.05)


def test_a_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    assert loads.poisson(5, 20, seed=1) == loads.poisson(5, 20, seed=1)
    assert loads.poisson(5, 20, seed=1) != loads.poisson(5, 20, seed=2)


def test_a_rate_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="rate and seconds must be positive"):
        loads.poisson(0, 1, seed=1)


def test_percentiles_are_values_that_occurred_and_never_lie_below_the_share() -> None:
    found = loads.percentiles([float(value) for value in range(1, 102)])
    assert (found["p50"], found["p95"], found["p99"], found["max"]) == (51, 96, 100, 101)
    assert loads.percentiles([1.0, 9.0])["p99"] == 9
    assert loads.percentiles([]) == {}


def test_the_rate_of_batched_answers_does_not_depend_on_where_they_are_cut() -> None:
    """The rate of answers that come in batches does not depend on where the window cuts them."""
    finished = [(0.5 * batch, 1) for batch in range(100) for _ in range(32)]  # 64 images a second
    for begin in (3.0, 3.1, 3.4, 3.5):
        for end in (30.0, 30.2, 30.49):
            assert loads.steady_rate(finished, begin, end) == pytest.approx(64, rel=0.02)


def test_a_rate_counts_the_images_of_each_answer() -> None:
    assert loads.steady_rate([(0.1 * i, 8) for i in range(50)], 0, 10) == pytest.approx(80)


def test_too_few_answers_have_no_rate() -> None:
    assert loads.steady_rate([(1.0, 1), (2.0, 1)], 0, 10) == 0


def test_the_spread_is_a_share_of_the_median() -> None:
    assert loads.spread_of([9.0, 10.0, 12.0]) == pytest.approx(0.3)
