"""The reference of drift, and the index of how far counts are from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse.models import bundle, drift
from glimpse.models.bundle import BundleError
from glimpse.models.drift import Bins, Reference
from tests.models.test_bundle import make

RNG = np.random.default_rng(5)
REFERENCE = Reference.of(RNG.integers(0, 2, 400), {"brightness": RNG.normal(100, 20, 400)})


def test_the_figures_of_an_image_are_those_of_its_pixels() -> None:
    """Of a small one exactly; a mask behind the colours does not count."""
    pixels = RNG.integers(0, 256, (20, 30, 4), np.uint8)
    found = drift.image_figures(pixels, 3)
    colours = pixels[..., :3].astype(float)
    assert found.brightness == pytest.approx(colours.mean(), rel=1e-5)
    assert found.colour == pytest.approx((colours[..., 0] - colours[..., 2]).mean(), rel=1e-4)
    assert found.sharpness == pytest.approx(np.abs(np.diff(colours[..., 1], axis=1)).mean())


def test_a_large_image_is_measured_by_some_of_its_pixels() -> None:
    rows, columns = np.mgrid[0:224, 0:224]
    pixels = np.stack([rows, columns, 255 - rows], axis=-1).astype(np.uint8)
    found = drift.image_figures(pixels, 3)
    assert found.brightness == pytest.approx(pixels.mean(), abs=3)
    assert found.sharpness == 1


def test_a_grey_image_has_no_colour() -> None:
    found = drift.image_figures(np.full((8, 1, 1), 77, np.uint8), 1)
    assert found == (77, 0, 0)


def test_the_figures_of_answers_are_those_of_their_probabilities() -> None:
    found = drift.answer_figures(np.array([[0.2, 0.7, 0.1], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], np.float32))
    assert found.first.tolist() == [1, 0, 0]
    np.testing.assert_allclose(found.top_probability, [0.7, 1, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(found.margin, [0.5, 1, 0], atol=1e-6)
    np.testing.assert_allclose(found.entropy, [0.7298, 0, 1], atol=1e-4)


def test_every_tenth_of_the_values_has_a_bin_and_none_is_outside() -> None:
    found = Bins.of(np.arange(1000.0))
    assert found.counts[0] == found.counts[-1] == 0
    assert all(99 <= count <= 101 for count in found.counts[1:-1])
    assert found.count(np.array([-1.0, 5000.0])).tolist() == [1, *[0] * 10, 1]


def test_values_that_are_all_equal_have_a_bin_and_others_are_outside() -> None:
    assert Bins.of(np.full(10, 50_176.0)).counts == (0, 10, 0)
    assert Bins.of(np.full(10, 50_176.0)).count(np.array([50_175.0, 50_176.0, 50_177.0])).tolist() == [1, 1, 1]


def test_only_the_most_frequent_classes_are_counted_apart() -> None:
    first = np.concatenate([np.repeat(np.arange(100), 3), np.repeat(7, 50)])
    found = Reference.of(first, {})
    assert next(iter(found.classes.items())) == (7, 53)
    assert len(found.classes) == drift.MOST_CLASSES
    assert found.class_counts().sum() == found.images == 350


def test_a_reference_of_few_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 100 images. Received: 99"):
        Reference.of(np.zeros(99, np.int64), {})


def test_samples_of_one_population_have_a_small_index() -> None:
    """Also small samples, of many bins: what chance makes of it is taken off."""
    shares = RNG.dirichlet(np.ones(50))
    found = [drift.stability_index(RNG.multinomial(650, shares), RNG.multinomial(300, shares)) for _ in range(200)]
    assert np.mean(found) < 0.05
    assert np.quantile(found, 0.99) < 0.15


def test_the_index_of_large_samples_is_that_of_its_formula() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    expected = ((p - q) * np.log(p / q)).sum()
    assert drift.stability_index((q * 1e7).astype(int), (p * 1e7).astype(int)) == pytest.approx(expected, rel=1e-4)
    assert drift.stability_index([10, 0], [0, 10]) > 1  # an empty bin is no division by zero


def test_a_bundle_keeps_its_reference(tmp_path: Path) -> None:
    assert make(tmp_path / "with", drift=REFERENCE).drift == REFERENCE
    assert bundle.read(tmp_path / "with").drift == REFERENCE
    assert make(tmp_path / "without").drift is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("images",), -1),
        (("images",), 0),
        (("images",), 400.0),
        (("images",), 399),
        (("classes",), {"0": 300, "1": 300}),
        (("classes",), {"2": 1}),
        (("classes",), {"cat": 1}),
        (("classes",), ["0"]),
        (("classes",), {str(each): 0 for each in range(51)}),
        (("figures",), None),
        (("figures", "brightness"), {"edges": [], "counts": [400]}),
        (("figures", "brightness"), {"edges": [1, 1], "counts": [400, 0, 0]}),
        (("figures", "brightness"), {"edges": [1, "2"], "counts": [400, 0, 0]}),
        (("figures", "brightness"), {"edges": [1, 2], "counts": [400, 0]}),
        (("figures", "brightness"), {"edges": [1, 2], "counts": [400, 0, True]}),
        (("figures", "brightness"), {"edges": list(range(40)), "counts": [400, *[0] * 40]}),
        ((), "drift"),
    ],
)
def test_a_bundle_with_a_damaged_reference_is_refused(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    made = make(tmp_path / "small", drift=REFERENCE)
    description = made.folder / "model.json"
    values = json.loads(description.read_text())
    inside = values
    *above, last = ("drift", *path)
    for key in above:
        inside = inside[key]
    inside[last] = value
    description.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"model\.json cannot be used"):
        bundle.read(made.folder)
