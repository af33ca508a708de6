"""The bundle that comes with the package keeps its card's word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from glimpse.models import bundle
from glimpse.models.bundle import Bundle
from glimpse.models.evaluate import evaluate

TEST_IMAGES = Path(__file__).parents[3] / "shared" / "data" / "cifar10" / "test.zip"


@pytest.fixture(scope="module")
def embedded() -> Bundle:
    return bundle.read(bundle.EMBEDDED_DEFAULT)


@pytest.fixture(scope="module")
def card(embedded: Bundle) -> str:
    return (embedded.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_default_sorts_into_the_ten_classes_of_cifar_10(embedded: Bundle) -> None:
    assert embedded.name == embedded.folder.name == "se_resnet20_cifar10"
    assert " ".join(label.label for label in embedded.labels) == (
        "airplane automobile bird cat deer dog frog horse ship truck"
    )


def test_the_weights_are_the_ones_that_were_measured(embedded: Bundle, card: str) -> None:
    embedded.check_digest()
    assert embedded.weights_digest in card
    assert embedded.recipe.digest in card


def test_the_weights_and_pictures_stay_small(embedded: Bundle) -> None:
    assert embedded.weights_path.stat().st_size < 2_000_000
    pictures = list(embedded.folder.glob("*.png"))
    assert len(pictures) == 3
    assert all(picture.stat().st_size < 60_000 for picture in pictures)


def test_everything_in_the_bundle_can_be_read_by_every_user(embedded: Bundle) -> None:
    assert [file.name for file in embedded.folder.iterdir() if not file.stat().st_mode & 0o044] == []


def test_the_card_s_numbers_are_those_of_the_description(embedded: Bundle, card: str) -> None:
    metrics = embedded.metrics
    top1, low, high = _numbers(card, r"top-1 accuracy \| ([\d.]+)% \(95% interval ([\d.]+)% to ([\d.]+)%\)")
    assert (top1, low, high) == pytest.approx(
        (metrics["top1"] * 100, metrics["top1_low"] * 100, metrics["top1_high"] * 100), abs=0.006
    )
    assert _numbers(card, r"top-5 accuracy \| ([\d.]+)%") == pytest.approx((metrics["top5"] * 100,), abs=0.006)
    before, after = _numbers(card, r"expected calibration error, 15 bins \| ([\d.]+)% \| ([\d.]+)%")
    assert (before, after) == pytest.approx((metrics["ece_uncalibrated"] * 100, metrics["ece"] * 100), abs=0.006)
    before, after = _numbers(card, r"mean negative log likelihood, nats \| ([\d.]+) \| ([\d.]+)")
    assert (before, after) == pytest.approx((metrics["nll_uncalibrated"], metrics["nll"]), abs=6e-5)
    assert _numbers(card, r"the temperature ([\d.]+) before") == pytest.approx((embedded.temperature,), abs=1e-3)


def test_nine_in_ten_of_the_test_images_are_right(embedded: Bundle) -> None:
    assert embedded.metrics["images"] == 5000
    assert embedded.metrics["top1"] >= 0.90


def test_calibration_is_worth_its_temperature(embedded: Bundle) -> None:
    assert embedded.metrics["nll"] <= embedded.metrics["nll_uncalibrated"]
    assert embedded.metrics["ece"] <= embedded.metrics["ece_uncalibrated"]


@pytest.mark.slow
def test_the_accuracy_that_is_claimed_is_measured_again(embedded: Bundle) -> None:
    if not TEST_IMAGES.exists():
        pytest.skip(f"the test images are not here: {TEST_IMAGES}")
    found = evaluate(embedded, TEST_IMAGES)
    assert found.images == embedded.metrics["images"]
    assert found.top1 == pytest.approx(embedded.metrics["top1"], abs=0.002)
    assert found.nll == pytest.approx(embedded.metrics["nll"], abs=0.005)
    assert found.reliability.error == pytest.approx(embedded.metrics["ece"], abs=0.003)


def _numbers(text: str, pattern: str) -> tuple[float, ...]:
    found = re.search(pattern, text)
    assert found is not None, pattern
    return tuple(float(number) for number in found.groups())
