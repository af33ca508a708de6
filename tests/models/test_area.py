"""Which part of a photo the network's input shows, by what the pre-stem makes of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from glimpse.models.prestem import host
from glimpse.models.prestem.area import covered
from glimpse.models.prestem.recipe import Recipe

SIDE = 32


@pytest.mark.parametrize(
    ("size", "options", "area"),
    [
        ((400, 200), {"geometry": "crop"}, (0.25, 0, 0.75, 1)),
        ((200, 400), {"geometry": "crop", "crop_share": 0.5}, (0.25, 0.375, 0.75, 0.625)),
        ((400, 200), {"geometry": "squash"}, (0, 0, 1, 1)),
        ((400, 200), {"geometry": "letterbox"}, (0, -0.5, 1, 1.5)),
        ((16, 8), {"geometry": "pad"}, (-0.5, -1.5, 1.5, 2.5)),
    ],
)
def test_the_area_is_the_part_that_the_input_shows(
    size: tuple[int, int], options: dict[str, Any], area: tuple[float, float, float, float]
) -> None:
    recipe = Recipe(height=SIDE, width=SIDE, **options)
    found = covered(size, recipe)
    assert found == pytest.approx(area)
    # A white dot of the photo lies in the input where the area says.
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    x, y = (0.4, 0.6)
    width, height = max(1, size[0] // 20), max(1, size[1] // 20)
    left, top = round(x * size[0]), round(y * size[1])
    pixels[top : top + height, left : left + width] = 255
    seen = host.fit(Image.fromarray(pixels), recipe)[..., 0].astype(float)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    middle = (seen * columns).sum() / seen.sum() / SIDE, (seen * rows).sum() / seen.sum() / SIDE
    expected = (left + width / 2) / size[0], (top + height / 2) / size[1]
    assert found.left + middle[0] * (found.right - found.left) == pytest.approx(expected[0], abs=0.02)
    assert found.top + middle[1] * (found.bottom - found.top) == pytest.approx(expected[1], abs=0.02)
