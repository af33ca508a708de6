"""One process that decodes and does nothing else: a worker (`python -m tools.bench.decoder`) without a framework."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.published import recipes
from glimpse.server.decoding.prepare import prepare
from glimpse.server.domain import EncodedImage
from tools.bench import photos
from tools.bench.worker import serve

_LARGEST = 64 << 20  # bytes and pixels: no limit is met here


def _jobs() -> dict[str, Callable[..., Any]]:
    images = [EncodedImage(data) for data in photos.jpegs()]
    recipe, limits = recipes.torch(224, 256), ImageLimits(_LARGEST, _LARGEST, _LARGEST, reducing_gap=2.0)

    def decode(seconds: float) -> dict[str, float]:
        """The benchmark's JPEG files to a network's 224 x 224 pixels, one after the other."""
        done, begun = 0, time.monotonic()
        for image in cycle(images):
            prepare(image, recipe, limits)
            done += 1
            if time.monotonic() >= begun + seconds:
                break
        return {"images": done, "wall": time.monotonic() - begun}

    return {"ready": lambda: True, "decode": decode}


if __name__ == "__main__":
    serve(_jobs)
