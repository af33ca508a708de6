"""Pictures out of a few photographs: different from one another, the same each time."""

from __future__ import annotations

import io
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glimpse.models import bundle as bundles
from glimpse.models import golden, variations
from glimpse.models.golden import SampleImage
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe

RECIPE = Recipe(height=48, width=64)


def picture(name: str, width: int, height: int) -> SampleImage:
    """A smooth one, each its own."""
    across, down = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    pixels = np.stack([across, down, np.full_like(across, 20 * len(name))], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return SampleImage(name, file.getvalue(), "made")


def first(number: int, own: tuple[SampleImage, ...], recipe: Recipe = RECIPE) -> NDArray[np.uint8]:
    return np.stack([*islice(variations.series(own, recipe), number)])


@pytest.mark.parametrize(
    ("own", "recipe"),
    [
        ((), RECIPE),
        ((), Recipe(height=224, width=224)),
        ((picture("a", 100, 80),), RECIPE),
        ((picture("a", 100, 80), picture("ab", 20, 20)), RECIPE),
        ((picture("a", 20, 20),), RECIPE),
    ],
)
def test_they_have_the_input_s_size_and_differ_and_are_the_same_each_time(
    own: tuple[SampleImage, ...], recipe: Recipe
) -> None:
    """They have the input's size, differ from one another, and are the same each time."""
    found = first(150, own, recipe)
    assert found.shape == (150, recipe.height, recipe.width, 3)
    assert found.dtype == np.uint8
    assert len(np.unique(found.reshape(150, -1), axis=0)) == 150
    np.testing.assert_array_equal(found, first(150, own, recipe))


def test_a_bundle_s_own_come_first_as_they_are() -> None:
    own = (picture("a", 100, 80), picture("ab", 20, 20))
    with Image.open(io.BytesIO(own[1].data)) as image:
        expected = host.fit(image.convert("RGB"), RECIPE)
    np.testing.assert_array_equal(first(2, own)[1], expected)


def test_pieces_are_cut_of_a_bundle_s_own_pictures_if_they_are_large_enough() -> None:
    """Pieces are cut of a bundle's own pictures where they are large enough, and else of the photographs."""
    small, large = picture("abc", 63, 80), picture("a", 64, 48)
    of_photographs = first(20, ())
    np.testing.assert_array_equal(first(21, (small,))[1:], of_photographs)
    for pixels in first(21, (large,))[1:]:
        assert np.ptp(pixels[..., 2]) <= 1, "its blue is the same everywhere"


def test_they_are_of_many_sizes_and_places_mirrored_and_of_different_brightness() -> None:
    pieces = first(60, (picture("a", 64, 48),))[1:].astype(int)
    spans = np.array([np.ptp(each[0, :, 0]) for each in pieces])
    assert spans.min() < 90, "a third of the width"
    assert spans.max() > 150
    assert {bool(each[0, 0, 0] > each[0, -1, 0]) for each in pieces} == {True, False}
    blue = np.array([each[0, 0, 2] for each in pieces])
    assert blue.min() < 18
    assert blue.max() > 22


def test_the_shipped_photographs_are_named_with_their_licence() -> None:
    listed = (golden.PHOTOGRAPHS / "README.md").read_text()
    shipped = golden.photographs()
    assert len(shipped) >= 6
    for photo in shipped:
        assert f"`{photo.name}`" in listed
        with Image.open(io.BytesIO(photo.data)) as image:
            assert min(image.size) == 256


def test_other_files_have_another_digest() -> None:
    own = golden.pictures(bundles.EMBEDDED_DEFAULT)
    assert variations.digest(own) == variations.digest(own)
    assert len({variations.digest(own), variations.digest(own[1:]), variations.digest(())}) == 3
