"""Real photos for tests that need more than a few: parts of those of scikit-image."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import Image
from skimage import data

from tests.server.repositories import add

_SIDE, _STEP = 160, 60  # pixels


def parts() -> Iterator[bytes]:
    """PNG files of parts of four photos that overlap a little, again and again; the first 123 differ."""
    return itertools.cycle(_parts())


@cache
def _parts() -> list[bytes]:
    found = []
    for photo in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket()):
        height, width, _ = photo.shape
        for y in range(0, height - _SIDE, _STEP):
            for x in range(0, width - _SIDE, _STEP):
                file = io.BytesIO()
                Image.fromarray(photo[y : y + _SIDE, x : x + _SIDE]).save(file, "PNG", compress_level=1)
                found.append(file.getvalue())
    return found


def add_with_wrong_colours(root: Path, version: int, name: str = "cifar") -> Path:
    """A version of the small model whose recipe gives it blue for red; without recorded answers, which would tell."""
    folder = add(root, f".{version}", name)
    described = json.loads((folder / "model.json").read_text())
    described["recipe"]["channels"] = "BGR"
    del described["golden"]
    (folder / "model.json").write_text(json.dumps(described))
    shutil.rmtree(folder / "golden")
    return folder.rename(folder.with_name(str(version)))
