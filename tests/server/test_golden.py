"""The golden check before SERVING, on the shipped model's own recorded answers; nothing is computed here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog
from numpy.typing import NDArray

from glimpse.models import bundle as bundles
from glimpse.server.processes.startup import GoldenError
from glimpse.server.runtime.golden_check import GoldenCheck, load
from glimpse.server.runtimes import PRECISIONS

EMBEDDED = bundles.read(bundles.EMBEDDED_DEFAULT)


@pytest.fixture(scope="module")
def recorded() -> GoldenCheck:
    return load(EMBEDDED, "require")


@pytest.fixture
def bare(tmp_path: Path) -> bundles.Bundle:
    """The shipped bundle without its recorded answers."""
    folder = tmp_path / "bare"
    shutil.copytree(EMBEDDED.folder, folder, ignore=shutil.ignore_patterns("golden"))
    description = folder / "model.json"
    description.write_text(description.read_text().replace('"golden": "golden"', '"golden": ""'))
    return bundles.read(folder)


def answers(found: GoldenCheck, size: int) -> NDArray[np.float32]:
    assert found.expected is not None
    return np.take(found.expected, range(size), axis=0, mode="wrap").copy()


def check(found: GoldenCheck, given: NDArray[np.float32], precision: str = "float32") -> None:
    found.check(given, runtime="openvino", precision=precision)


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_the_recorded_answers_pass_in_every_batch(recorded: GoldenCheck, size: int) -> None:
    assert recorded.batch(size).shape == (size, 32, 32, 3)
    np.testing.assert_array_equal(recorded.batch(size)[-1], recorded.pictures[(size - 1) % 4])
    check(recorded, answers(recorded, size))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_probability_may_differ_by_no_more_than_the_precision_allows(recorded: GoldenCheck, precision: str) -> None:
    tolerance = PRECISIONS[precision].tolerance
    for share, passes in ((0.99, True), (1.01, False)):
        given = answers(recorded, 2)
        given[1, [0, 8]] += np.array([tolerance, -tolerance], np.float32) * share
        if passes:
            check(recorded, given, precision)
        else:
            with pytest.raises(GoldenError, match=r"rocket\.png .* in a batch of 2\) differs from the recorded one"):
                check(recorded, given, precision)


def test_a_refusal_names_the_picture_what_was_expected_what_came_and_what_to_do(recorded: GoldenCheck) -> None:
    given = answers(recorded, 3)
    given[2] = given[0]
    with pytest.raises(GoldenError) as refused:
        check(recorded, given)
    for part in (
        "coffee.png (openvino in float32, in a batch of 3)",
        "Expected: class 1 with 0.819",
        "Received: class 3 with 0.978",
        "0.001 is allowed",
        "GLIMPSE_PRECISION",
    ):
        assert part in str(refused.value)


def test_another_first_class_is_refused_though_all_is_within_the_tolerance() -> None:
    """Another first class is refused, though every probability is within the tolerance."""
    close = GoldenCheck(
        np.zeros((1, 2, 2, 3), np.uint8), ("a.png",), np.array([[0.51, 0.49]], np.float32), disabled=False
    )
    with pytest.raises(GoldenError, match="differs from the recorded one"):
        check(close, np.array([[0.49, 0.51]], np.float32), "bfloat16")


@pytest.mark.parametrize(
    "row", [[np.nan, 0.5, 0.5], [np.inf, 0, 0], [-0.1, 0.6, 0.5], [0.4, 0.4, 0.4], [0.3, 0.3, 0.3], [0, 0, 0]]
)
def test_without_recorded_answers_they_must_still_be_probabilities(bare: bundles.Bundle, row: list[float]) -> None:
    found = load(bare, "auto")
    with pytest.raises(GoldenError, match=r"black .* has invalid probabilities"):
        check(found, np.array([row], np.float32))


def test_the_same_answer_to_very_different_pictures_is_refused(bare: bundles.Bundle) -> None:
    found = load(bare, "auto")
    check(found, np.array([[0.5, 0.5], [0.4, 0.6]], np.float32))
    with pytest.raises(GoldenError, match="exactly the same answer for black and noise"):
        check(found, np.array([[0.5, 0.5], [0.5, 0.5]], np.float32))


def test_one_recorded_picture_fills_a_batch_with_the_same_answer() -> None:
    one = GoldenCheck(np.zeros((1, 2, 2, 3), np.uint8), ("a.png",), np.array([[0.2, 0.8]], np.float32), disabled=False)
    check(one, np.array([[0.2, 0.8], [0.2, 0.8]], np.float32))


@pytest.mark.parametrize(
    ("architecture", "row"), [("resnet18", [0.4, 0.6]), ("", [0.5, 0.5])], ids=["prefers a class", "network of its own"]
)
def test_a_network_that_was_not_trained_serves_with_one_warning(
    architecture: str, row: list[float], bare: bundles.Bundle
) -> None:
    found = load(replace(bare, architecture=architecture), "auto")
    with structlog.testing.capture_logs() as logs:
        for size in (2, 3):
            check(found, np.array([row] * size, np.float32))
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("warning", "answers do not depend on the picture")
    ]


def test_answers_that_are_required_and_missing_are_refused(bare: bundles.Bundle) -> None:
    with pytest.raises(GoldenError, match="has no golden answers, and GLIMPSE_GOLDEN is require"):
        load(bare, "require")


def test_answers_of_random_weights_cannot_be_required(bare: bundles.Bundle) -> None:
    """Nothing can be recorded for them, so the message says what to set instead."""
    with pytest.raises(GoldenError, match=r"random weights, for which no answers .* Set GLIMPSE_GOLDEN to auto"):
        load(replace(bare, random=True), "require")


def test_off_checks_nothing_and_warns(bare: bundles.Bundle) -> None:
    for bundle in (EMBEDDED, bare):
        with structlog.testing.capture_logs() as logs:
            found = load(bundle, "off")
        assert [line["log_level"] for line in logs] == ["warning"]
        check(found, np.full((2, 10), np.nan, np.float32))


def test_answers_of_other_weights_are_refused_at_once(bare: bundles.Bundle) -> None:
    shutil.copytree(EMBEDDED.folder / "golden", bare.folder / "golden")
    description = bare.folder / "model.json"
    text = description.read_text().replace('"golden": ""', '"golden": "golden"')
    description.write_text(text.replace(EMBEDDED.weights_digest, "sha256:" + "0" * 64))
    with pytest.raises(GoldenError, match="was recorded with weights_digest"):
        load(bundles.read(bare.folder), "auto")


def test_a_golden_picture_that_cannot_be_decoded_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED.folder, tmp_path / "bundle"))
    next((folder / "golden").glob("*.png")).write_bytes(b"no picture")
    with pytest.raises(GoldenError, match=r"A picture of the golden answers of .* cannot be decoded"):
        load(bundles.read(folder), "auto")
