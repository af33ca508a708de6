"""What the table of decoding libraries rests on: the same pixels, ratios within a turn, and honest gaps."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glimpse.models.prestem.recipe import Recipe
from glimpse.server.decoding.prepare import prepare
from glimpse.server.domain import EncodedImage
from tools.bench import decoding, photos
from tools.bench.decoders import __main__ as program
from tools.bench.decoders import ways
from tools.bench.decoders.libraries import LIBRARIES
from tools.bench.decoders.ways import PLANES, SERVICE

_SMALL = Recipe(height=32, width=32)
_LARGE = Recipe(height=224, width=224, crop_share=0.875, filter="bicubic")


@pytest.mark.parametrize("recipe", [_SMALL, _LARGE])
def test_a_library_that_decodes_as_pillow_does_gives_the_same_input(recipe: Recipe) -> None:
    data = photos.jpegs(1)[0]

    def pillow(file: bytes, scale: int) -> ways.Pixels:
        with Image.open(io.BytesIO(file)) as image:
            image.draft(None, (image.width // scale, image.height // scale))
            return np.asarray(image.convert("RGB"))

    expected = prepare(EncodedImage(data), recipe, ways._LIMITS).pixels
    assert np.array_equal(ways._decoded(data, recipe, pillow), expected)


@pytest.mark.parametrize("recipe", [_SMALL, _LARGE])
def test_colours_that_are_converted_last_differ_little(recipe: Recipe) -> None:
    data = photos.jpegs(1)[0]
    made = ways._pillow()
    difference = np.abs(made[SERVICE](data, recipe).astype(int) - made[PLANES](data, recipe))
    assert made[PLANES](data, recipe).shape == recipe.shape
    assert 0 < difference.mean() < 2


def test_each_library_has_its_ways() -> None:
    assert {library.name for library in LIBRARIES} == ways.LIBRARIES.keys()


class _Worker:
    """Ways whose turns take a known time, in a process that becomes half as fast after each turn."""

    def __init__(self, costs: dict[str, float]) -> None:
        self._costs = costs
        self._turns = 0

    def do(self, job: str, **told: Any) -> Any:
        if job == "ways":
            return list(self._costs)
        if job == "turn":
            self._turns += 1
            return self._costs[told["way"]] * 2 ** ((self._turns - 1) // len(self._costs))
        np.save(told["to"], np.full((1, 2, 2, 3), 7 if told["way"] == SERVICE else 9, np.uint8))
        return True


def test_ratios_are_of_the_same_turn_and_pixels_are_compared(tmp_path: Path) -> None:
    workers: dict[str, Any] = {
        "pillow": _Worker({SERVICE: 2.0}),
        "pillow-simd": _Worker({SERVICE: 1.0}),
        "simplejpeg": _Worker({SERVICE: 4.0, "decoded": 1.0}),
    }
    rows = program.measured(workers, {"JPEG": ["photo.jpg"]}, {"imagenet": _SMALL}, 3, tmp_path)
    told = [(row["library"], row["ratio"], row["mean_difference"], row["largest_difference"]) for row in rows]
    assert told == [("pillow", 1, 0, 0), ("pillow-simd", 2, 0, 0), ("simplejpeg", 4, 2, 2)]
    table = program.markdown({"rows": rows, "missing": {"opencv": "not installed"}})
    assert "| simplejpeg | decoded | 4.00x | 2.00, 2 |" in table
    assert "opencv is missing: not installed" in table


def test_the_worker_reads_prepares_and_saves(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(photos.jpegs(1)[0])
    jobs = ways.jobs("pillow")
    told: dict[str, Any] = {"recipe": asdict(_SMALL), "paths": [str(file)]}
    assert jobs["ways"]() == [SERVICE, PLANES]
    assert jobs["turn"](way=SERVICE, **told) > 0
    jobs["pixels"](way=SERVICE, to=str(tmp_path / "pixels.npy"), **told)
    assert np.array_equal(np.load(tmp_path / "pixels.npy")[0], decoding._prepared(file.read_bytes(), _SMALL, 2.0))
