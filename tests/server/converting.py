"""Graphs of other frameworks as they would be served, and pictures for them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glimpse.models import score_kinds
from glimpse.models.bundle import Bundle
from glimpse.models.outputs import PROBABILITIES
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.sources import ModelSource, resolve
from glimpse.models.spec import NetworkSummary
from glimpse.server.runtime.graph_conversion import convert_graph
from glimpse.server.runtime.openvino_graphs import compiled
from tests.models.graph_makers import SIZE

Array = NDArray[np.float32]
PLAIN = {"height": SIZE, "width": SIZE}
PROBABILITY = 1e-5  # largest difference in float32


class Converted:
    """A graph as it would be served."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.bundle: Bundle = resolve(ModelSource(weights=str(path)))
        folder.mkdir()
        self.summary: NetworkSummary = convert_graph(self.bundle, folder)
        self.file = folder / "network.xml"
        self.answer = compiled(self.file)

    def pictures(self) -> NDArray[np.uint8]:
        """As many as a probe takes."""
        return score_kinds.pictures(self.bundle.recipe)

    def probabilities(self) -> Array:
        """Of the pictures, one at a time."""
        each = [self.answer(picture[np.newaxis])[PROBABILITIES] for picture in self.pictures()]
        return np.concatenate(each)


def scaled(pixels: NDArray[np.uint8], recipe: Recipe, *, channels_first: bool = True) -> Array:
    """What the recipe makes of pixels, ``[N, C, H, W]`` or ``[N, H, W, C]``."""
    images = pixels[..., : recipe.depth]
    if recipe.channels == "BGR":
        images = images[..., ::-1]
    found = (images.astype(np.float64) - recipe.mean) / recipe.std
    return (found.transpose(0, 3, 1, 2) if channels_first else found).astype(np.float32)


def colours() -> list[NDArray[np.uint8]]:
    """Pictures of one colour each."""
    return [np.full((SIZE, SIZE, 3), colour, np.uint8) for colour in ((250, 10, 10), (10, 250, 10), (10, 10, 250))]


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
