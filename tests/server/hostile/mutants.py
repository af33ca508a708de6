"""A broken file for every number, the same one each time."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem.recipe import Recipe
from tests.server.hostile.bytewise import BYTEWISE, splice
from tests.server.hostile.jpeg_lies import jpeg_lie
from tests.server.hostile.other_lies import bmp_lie, gif_lie, webp_lie
from tests.server.hostile.png_lies import png_lie
from tests.server.hostile.seeds import seeds

# What the server allows; the reduced decoding of JPEG too, so that every way through the decoder is taken.
LIMITS = (
    ImageLimits(max_bytes=12 << 20, max_pixels=25_000_000, max_jpeg_pixels=100_000_000, reducing_gap=2.0),
    ImageLimits(max_bytes=12 << 20, max_pixels=25_000_000),
)
RECIPES = (
    Recipe(height=32, width=32, geometry="crop"),
    Recipe(height=224, width=224, geometry="squash", smaller="resize"),
    Recipe(height=48, width=64, geometry="letterbox", filter="bicubic", fill=(127, 127, 127)),
    Recipe(height=96, width=96, geometry="crop", crop_share=0.875, smaller="resize", filter="lanczos"),
)
_LIES = {"JPEG": jpeg_lie, "PNG": png_lie, "GIF": gif_lie, "WEBP": webp_lie, "BMP": bmp_lie}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken file, and how it is to be decoded."""

    name: str
    data: bytes
    recipe: Recipe
    limits: ImageLimits


def mutant(rng: Random) -> Mutant:
    """One seed, broken; half of the time by lies that know its format, else bytewise or with another seed's help."""
    # By format first: as many files of each, however many forms it has.
    form = rng.choice(sorted(_LIES))
    files = seeds()
    seed = rng.choice([name for name in files if name.startswith(form)])
    data, how = files[seed], rng.random()
    if how < 0.5:
        data, way = _LIES[form](rng, data), "lie"
    elif how < 0.65:
        other = rng.choice(list(files) if rng.random() < 0.5 else [name for name in files if name.startswith(form)])
        data, way = splice(rng, data, files[other]), f"splice with {other}"
    else:
        ways = [rng.choice(BYTEWISE) for _ in range(rng.choice((1, 1, 2, 3)))]
        for break_it in ways:
            data = break_it(rng, data)
        way = " ".join(each.__name__ for each in ways)
    return Mutant(f"{seed}: {way}", data, rng.choice(RECIPES), rng.choice(LIMITS))


def numbered(number: int) -> Mutant:
    """The mutant of that number."""
    return mutant(Random(number))
