"""The pre-stem's host half equals Pillow's own calls: to the pixel, but for the last digit of what a crop keeps."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from PIL import Image, ImageOps

from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Filter, Recipe
from tests.models.parity.photos import PHOTOS, furthest, photos, share_above

FILTERS = get_args(Filter)
INPUTS = [(224, 224), (33, 40)]  # width and height
FILL = (9, 80, 200)


def resampling(name: Filter) -> Image.Resampling:
    return Image.Resampling[name.upper()]


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", INPUTS)
@pytest.mark.parametrize("photo", PHOTOS)
def test_squash_is_resize(photo: str, size: tuple[int, int], name: Filter) -> None:
    recipe = Recipe(width=size[0], height=size[1], geometry="squash", smaller="resize", filter=name)
    expected = photos()[photo].resize(size, resampling(name))
    np.testing.assert_array_equal(host.fit(photos()[photo], recipe), np.asarray(expected))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", INPUTS)
@pytest.mark.parametrize("photo", PHOTOS)
def test_letterbox_is_contain_on_the_fill(photo: str, size: tuple[int, int], name: Filter) -> None:
    recipe = Recipe(width=size[0], height=size[1], geometry="letterbox", smaller="resize", filter=name, fill=FILL)
    ours = host.fit(photos()[photo], recipe)
    kept = ImageOps.contain(photos()[photo], size, resampling(name))
    expected = Image.new("RGB", size, FILL)
    expected.paste(kept, ((size[0] - kept.width) // 2, (size[1] - kept.height) // 2))
    np.testing.assert_array_equal(ours, np.asarray(expected))
    if (size[0] - kept.width) % 4 != 3 and (size[1] - kept.height) % 4 != 3:
        # Of an odd number of lines of fill, Pillow's `pad` puts the larger half first where that half is even.
        padded = ImageOps.pad(photos()[photo], size, resampling(name), FILL)
        np.testing.assert_array_equal(ours, np.asarray(padded))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", INPUTS)
@pytest.mark.parametrize("photo", PHOTOS)
def test_pad_is_contain_or_nothing_on_the_fill(photo: str, size: tuple[int, int], name: Filter) -> None:
    image = photos()[photo]
    recipe = Recipe(width=size[0], height=size[1], geometry="pad", filter=name, fill=FILL)
    if image.width > size[0] or image.height > size[1]:
        image = ImageOps.contain(image, size, resampling(name))
    expected = Image.new("RGB", size, FILL)
    expected.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    np.testing.assert_array_equal(host.fit(photos()[photo], recipe), np.asarray(expected))


@pytest.mark.parametrize("size", INPUTS)
@pytest.mark.parametrize("photo", PHOTOS)
def test_pad_reduces_to_the_size_of_a_thumbnail(photo: str, size: tuple[int, int]) -> None:
    thumbnail = photos()[photo].copy()
    thumbnail.thumbnail(size)
    ours = host.resized(photos()[photo].size, Recipe(width=size[0], height=size[1], geometry="pad"))
    # A thumbnail rounds to whichever ratio of sides is nearer.
    assert np.abs(np.subtract(ours, thumbnail.size)).max() <= 1


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("share", [1.0, 0.875])
@pytest.mark.parametrize("size", INPUTS)
@pytest.mark.parametrize("photo", PHOTOS)
def test_crop_is_resize_and_the_centre(photo: str, size: tuple[int, int], share: float, name: Filter) -> None:
    image, (width, height) = photos()[photo], size
    if width * image.height >= height * image.width:  # the image is the narrower one
        wide = int(width / share + 0.5)
        whole = wide, wide * image.height // image.width
    else:
        high = int(height / share + 0.5)
        whole = high * image.width // image.height, high
    left, top = round((whole[0] - width) / 2), round((whole[1] - height) / 2)
    kept = left, top, left + width, top + height
    ours = host.fit(image, Recipe(width=width, height=height, crop_share=share, smaller="resize", filter=name))
    at_once = image.resize(whole, resampling(name)).crop(kept)
    if name == "nearest":
        np.testing.assert_array_equal(ours, np.asarray(at_once))
        return
    # Pillow 13 may begin with the rows, and rounds in between; before, it always began with the columns.
    assert furthest(ours, np.asarray(at_once)) <= 5
    assert share_above(ours, np.asarray(at_once), 1) < 0.01
    columns_first = image.resize((whole[0], image.height), resampling(name)).resize(whole, resampling(name)).crop(kept)
    assert share_above(ours, np.asarray(columns_first), 0) < 0.02


@pytest.mark.parametrize("name", FILTERS)
def test_crop_is_pillow_s_fit_where_no_side_has_a_fraction(name: Filter) -> None:
    image = photos()["coffee 600x400"]
    expected = ImageOps.fit(image, (200, 200), resampling(name))  # it cuts first: 400 x 400
    ours = host.fit(image, Recipe(height=200, width=200, filter=name))
    assert furthest(ours, np.asarray(expected)) == 0


@pytest.mark.parametrize("photo", ["coffee 101x400", "rocket 640x65", "astronaut 97x150"])
def test_a_crop_that_pads_leaves_a_smaller_image_as_large_as_it_is(photo: str) -> None:
    image = photos()[photo]
    canvas = Image.new("RGB", (224, 224), FILL)
    left, top = ((side - 224) // -2 if side < 224 else -((side - 224) // 2) for side in image.size)
    canvas.paste(image, (left, top))
    ours = host.fit(image, Recipe(height=224, width=224, fill=FILL))
    np.testing.assert_array_equal(ours, np.asarray(canvas))
