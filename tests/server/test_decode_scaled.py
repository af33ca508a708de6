"""A large JPEG decoded at a fraction of its size: the same picture, in a fraction of the time and memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.decoding.decode import decode
from glimpse.server.decoding.prepare import prepare
from glimpse.server.domain import EncodedImage
from glimpse.server.errors import InvalidImageError, Reason
from tests.server.files import encoded, turned

WHOLE = ImageLimits(max_bytes=10**7, max_pixels=10**6)
REDUCED = ImageLimits(max_bytes=10**7, max_pixels=10**6, max_jpeg_pixels=4 * 10**6, reducing_gap=1.0)
RECIPE = Recipe(height=32, width=32, crop_share=0.875)
TARGET = partial(host.resized, recipe=RECIPE)


def scene(height: int, width: int) -> NDArray[np.uint8]:
    """Waves that the input's size can show, another colour in each corner, so that a turn or a shift is seen."""
    corners = np.array([[[250, 20, 20], [20, 230, 20]], [[20, 20, 240], [240, 230, 30]]], np.uint8)
    smooth = np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)).astype(float)
    y, x = np.mgrid[:height, :width]
    waves = 25 * np.sin(x * 18 / width + y * 11 / height)
    pixels: NDArray[np.uint8] = np.clip(smooth + waves[..., None], 0, 255).astype(np.uint8)
    return pixels


@cache  # a large one takes half a second
def jpeg(height: int, width: int, **options: object) -> bytes:
    return encoded("JPEG", Image.fromarray(scene(height, width)), quality=95, **options)


def difference(data: bytes, limits: ImageLimits, recipe: Recipe = RECIPE) -> float:
    """Between the input from a reduced picture and that from the whole one: the mean over all pixels, in levels."""
    whole = prepare(EncodedImage(data), recipe, WHOLE).pixels.astype(int)
    return float(np.abs(prepare(EncodedImage(data), recipe, limits).pixels - whole).mean())


@pytest.mark.parametrize(
    ("gap", "held"),
    [(0.0, (803, 605)), (1.0, (101, 76)), (2.0, (101, 76)), (2.1, (201, 152)), (4.2, (402, 303)), (8.3, (803, 605))],
)
def test_a_scale_is_chosen_that_leaves_the_gap(gap: float, held: tuple[int, int]) -> None:
    limits = ImageLimits(10**7, 10**6, reducing_gap=gap)
    # 803 x 605 becomes 49 x 37: at 1/8, the short side is still 2.04 times as long.
    picture = decode(EncodedImage(jpeg(605, 803)), limits, TARGET)
    assert picture.image.size == held
    assert picture.size == (803, 605)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_box_follows_the_picture_as_it_is_turned(orientation: int) -> None:
    """The last column and row hold a part of a pixel: at the right and bottom of the file, anywhere once upright."""
    data = turned("JPEG", scene(605, 803), orientation, quality=95)
    picture = decode(EncodedImage(data), REDUCED, TARGET)
    left, top, right, bottom = picture.box
    assert picture.size == (803, 605)
    assert picture.image.size == (101, 76)
    assert (right - left, bottom - top) == (803 / 8, 605 / 8)
    # What lies at the right or the bottom of the file, as a camera held that way stores it.
    assert (left > 0) == (orientation in {2, 3, 6, 7})
    assert (top > 0) == (orientation in {3, 4, 7, 8})
    assert (right < 101) == (left == 0)
    assert (bottom < 76) == (top == 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_photo_comes_out_upright_and_in_place(orientation: int) -> None:
    data = turned("JPEG", scene(605, 803), orientation, quality=95)
    upright = prepare(EncodedImage(jpeg(605, 803)), RECIPE, WHOLE).pixels.astype(int)
    reduced = prepare(EncodedImage(data), RECIPE, REDUCED).pixels
    assert np.abs(reduced - upright).mean() < 0.8
    assert np.abs(reduced - upright).max() <= 6


@pytest.mark.parametrize("shape", [(601, 801), (607, 799), (600, 800), (999, 333), (331, 998)])
@pytest.mark.parametrize("geometry", ["crop", "squash", "letterbox"])
def test_a_partial_pixel_shifts_nothing(shape: tuple[int, int], geometry: str) -> None:
    recipe = Recipe.from_dict({"height": 32, "width": 32, "geometry": geometry})
    assert difference(jpeg(*shape), REDUCED, recipe) < 0.8


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"restart_marker_rows": 1}],
)
def test_every_kind_of_jpeg_is_reduced(options: dict[str, object]) -> None:
    data = jpeg(600, 800, **options)
    assert decode(EncodedImage(data), REDUCED, TARGET).image.size == (100, 75)
    assert difference(data, REDUCED) < 0.8


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_inks_are_reduced_as_well(mode: str) -> None:
    data = encoded("JPEG", Image.fromarray(scene(600, 800)).convert(mode), quality=95)
    assert decode(EncodedImage(data), REDUCED, TARGET).image.size == (100, 75)
    assert difference(data, REDUCED) < 0.8


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF"])
def test_no_other_format_is_reduced(form: str) -> None:
    data = encoded(form, Image.fromarray(scene(600, 800)))
    assert decode(EncodedImage(data), REDUCED, TARGET).image.size == (800, 600)


@pytest.mark.parametrize("recipe", [{"filter": "nearest"}, {"antialias": False}])
def test_a_recipe_about_single_pixels_gets_the_whole_picture(recipe: dict[str, object]) -> None:
    assert difference(jpeg(600, 800), REDUCED, Recipe.from_dict({"height": 32, "width": 32, **recipe})) == 0


def test_a_photo_above_the_limit_is_taken_if_it_can_be_reduced() -> None:
    data = jpeg(1500, 2000)
    assert decode(EncodedImage(data), REDUCED, TARGET).image.size == (250, 188)
    with pytest.raises(InvalidImageError) as refused:
        decode(EncodedImage(data), WHOLE, TARGET)
    assert refused.value.reason is Reason.IMAGE_PIXELS_EXCEEDED


@pytest.mark.parametrize(
    ("photo", "limits", "target"),
    [
        pytest.param(
            partial(jpeg, 1500, 2000, progressive=True), REDUCED, TARGET, id="progressive: all of it is kept in memory"
        ),
        pytest.param(partial(jpeg, 1500, 2000), REDUCED, None, id="nobody says what it is for"),
        pytest.param(partial(jpeg, 1500, 2000), REDUCED, lambda size: size, id="it is wanted whole"),
        pytest.param(partial(jpeg, 2100, 2000), REDUCED, TARGET, id="more than even reduced ones may have"),
        pytest.param(
            partial(jpeg, 1500, 2000), ImageLimits(10**7, 10**4, 10**7, 1.0), TARGET, id="too large even at an eighth"
        ),
    ],
)
def test_a_photo_above_the_limit_is_refused_otherwise(
    photo: Callable[[], bytes], limits: ImageLimits, target: Callable[[tuple[int, int]], tuple[int, int]] | None
) -> None:
    data = photo()
    with pytest.raises(InvalidImageError) as refused:
        decode(EncodedImage(data), limits, target)
    assert refused.value.reason is Reason.IMAGE_PIXELS_EXCEEDED


def test_a_jpeg_in_several_scans_counts_as_kept_in_memory() -> None:
    data = bytearray(jpeg(1500, 2000))
    at = data.index(b"\xff\xda")
    data[at + 4] = 1  # says that the first scan holds one component of three
    with pytest.raises(InvalidImageError) as refused:
        decode(EncodedImage(bytes(data)), REDUCED, TARGET)
    assert refused.value.reason is Reason.IMAGE_PIXELS_EXCEEDED
