"""How long the device will need."""

from __future__ import annotations

from glimpse.server.batching.estimate import ComputeEstimate


def test_nothing_measured_expects_nothing() -> None:
    assert ComputeEstimate().seconds(4) == 0.0


def test_one_hiccup_does_not_raise_the_estimate() -> None:
    estimate = ComputeEstimate()
    for seconds in (0.1, 5.0, 0.2):
        estimate.add(4, seconds)
    assert estimate.seconds(4) == 0.1


def test_a_size_that_was_not_measured_takes_at_least_what_smaller_ones_take() -> None:
    estimate = ComputeEstimate()
    estimate.add(2, 0.2)
    estimate.add(8, 0.8)
    assert estimate.seconds(4) == 0.2
    assert estimate.seconds(1) == 0.0


def test_a_device_that_became_slower_is_noticed() -> None:
    estimate = ComputeEstimate()
    estimate.add(1, 0.1)
    for _ in range(16):
        estimate.add(1, 0.3)
    assert estimate.seconds(1) == 0.3


def test_a_short_time_is_remembered_for_sixteen_batches() -> None:
    estimate = ComputeEstimate()
    estimate.add(1, 0.1)
    for _ in range(15):
        estimate.add(1, 0.3)
    assert estimate.seconds(1) == 0.1


def test_a_batch_that_ends_changes_what_was_expected_before() -> None:
    estimate = ComputeEstimate()
    estimate.add(4, 0.4)
    assert (estimate.seconds(4), estimate.seconds(8)) == (0.4, 0.4)
    estimate.add(4, 0.3)
    assert (estimate.seconds(4), estimate.seconds(8)) == (0.3, 0.3)


def test_full_batches_have_no_rest_that_takes_time() -> None:
    estimate = ComputeEstimate()
    estimate.add(4, 0.5)
    estimate.add(1, 0.125)
    assert estimate.seconds_to_compute(8, largest=4) == 1.0
    assert estimate.seconds_to_compute(0, largest=4) == 0.0


def test_many_images_take_many_batches() -> None:
    estimate = ComputeEstimate()
    estimate.add(4, 0.4)
    estimate.add(1, 0.1)
    assert estimate.seconds_to_compute(9, largest=4) == 0.4 + 0.4 + 0.1
