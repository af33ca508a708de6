"""Make pictures that show nothing a classifier of objects knows: `python -m tools.foreign_pictures FOLDER`.

Textures, drawings and noise, and pieces of the photographs that come with scikit-image, each kind in a folder of its
own, for `python -m glimpse.models calibrate --foreign`. The pictures are the same each time, so that the shares of
foreign images in the model cards can be measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 256
PHOTOGRAPHS = (
    *("astronaut", "camera", "coffee", "coins", "hubble_deep_field", "logo", "moon", "page", "rocket", "text"),
    *("cell", "clock", "colorwheel", "immunohistochemistry", "retina"),
)
PIECES = 12  # of each photograph, the whole of it counted
_PHOTOGRAPHED = ("brick", "grass", "gravel")  # textures of scikit-image

Rng = np.random.Generator
_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE]


def texture(rng: Rng, number: int) -> Image.Image:
    """A tinted piece of bricks, grass or gravel; or waves, clouds or cells."""
    kind = number % 6
    if kind < len(_PHOTOGRAPHED):
        photo = getattr(skimage.data, _PHOTOGRAPHED[kind])()
        side = int(rng.integers(160, 320))
        top, left = rng.integers(0, 512 - side, 2)
        piece = Image.fromarray(photo[top : top + side, left : left + side]).resize((SIZE, SIZE))
        return _picture(np.asarray(piece)[..., np.newaxis] * rng.uniform(0.6, 1, 3))
    if kind == 3:
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(0.05, 0.6)
        wave = 0.5 + 0.5 * np.sin(frequency * (np.cos(angle) * _COLUMNS + np.sin(angle) * _ROWS))[..., np.newaxis]
        one, other = rng.uniform(0, 255, (2, 3))
        return _picture(wave * one + (1 - wave) * other)
    if kind == 4:
        spectrum = np.fft.fft2(rng.normal(size=(SIZE, SIZE, 3)), axes=(0, 1))
        frequencies = np.hypot(np.fft.fftfreq(SIZE)[:, np.newaxis], np.fft.fftfreq(SIZE))
        frequencies[0, 0] = 1
        clouds = np.fft.ifft2(spectrum / frequencies[..., np.newaxis] ** rng.uniform(0.6, 1.6), axes=(0, 1)).real
        return _picture(255 * (clouds - clouds.min((0, 1))) / np.ptp(clouds, axis=(0, 1)))
    centres = rng.uniform(0, SIZE, (int(rng.integers(20, 90)), 2))
    colours = rng.integers(0, 256, (len(centres), 3))
    distances = (_ROWS[..., np.newaxis] - centres[:, 0]) ** 2 + (_COLUMNS[..., np.newaxis] - centres[:, 1]) ** 2
    return _picture(colours[distances.argmin(-1)])


def drawing(rng: Rng, number: int) -> Image.Image:
    """Lines, outlines and scribbles on white; every other one in black."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 14))):
        (x1, y1), (x2, y2) = rng.uniform(10, SIZE - 10, (2, 2)).tolist()
        width = int(rng.integers(1, 5))
        red, green, blue = (0, 0, 0) if number % 2 else rng.integers(0, 200, 3).tolist()
        colour = (red, green, blue)
        box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        kind = int(rng.integers(0, 5))
        if kind == 0:
            draw.line((x1, y1, x2, y2), fill=colour, width=width)
        elif kind == 1:
            draw.ellipse(box, outline=colour, width=width)
        elif kind == 2:
            draw.rectangle(box, outline=colour, width=width)
        elif kind == 3:
            corners = rng.uniform(10, SIZE - 10, (int(rng.integers(3, 7)), 2))
            draw.polygon([(x, y) for x, y in corners.tolist()], outline=colour, width=width)
        else:
            way = np.cumsum(rng.normal(0, 14, (40, 2)), 0) + rng.uniform(60, 190, 2)
            draw.line([(x, y) for x, y in way.tolist()], fill=colour, width=width)
    return image


def noise(rng: Rng, number: int) -> Image.Image:
    """Of independent pixels, even or normal, or of squares."""
    if number % 3 == 0:
        return _picture(rng.integers(0, 256, (SIZE, SIZE, 3)))
    if number % 3 == 1:
        return _picture(rng.normal(rng.uniform(60, 200), rng.uniform(10, 70), (SIZE, SIZE, 3)))
    side = int(rng.integers(4, 32))
    few = rng.integers(0, 256, (SIZE // side + 1, SIZE // side + 1, 3))
    return _picture(np.kron(few, np.ones((side, side, 1)))[:SIZE, :SIZE])


def piece(rng: Rng, number: int) -> Image.Image:
    """A whole photograph, or a square of it."""
    pixels = np.asarray(getattr(skimage.data, PHOTOGRAPHS[number // PIECES])())
    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else (255 * pixels).astype(np.uint8)).convert("RGB")
    if number % PIECES == 0:
        return image
    side = int(rng.uniform(0.45, 0.95) * min(image.size))
    left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
    return image.crop((left, top, left + side, top + side))


KINDS: dict[str, Callable[[Rng, int], Image.Image]] = {
    "textures": texture,
    "drawings": drawing,
    "noise": noise,
    "photos": piece,
}


def make(folder: Path, number: int) -> None:
    """Write so many JPEG files of each kind; of photographs, `PIECES` of each."""
    for kind, made in KINDS.items():
        rng = np.random.default_rng(0)
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index in range(number if made is not piece else min(number, len(PHOTOGRAPHS) * PIECES)):
            made(rng, index).save(folder / kind / f"{index:04}.jpg", quality=92)


def _picture(values: NDArray[np.floating] | NDArray[np.integer]) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tools.foreign_pictures", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path, help="into which a folder of each kind is written")
    parser.add_argument("--number", type=int, default=300, metavar="N", help="pictures of each kind (default: 300)")
    options = parser.parse_args()
    make(options.folder, options.number)


if __name__ == "__main__":
    main()
