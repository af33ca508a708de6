"""Make photographs that show none of CIFAR-10's classes: `python -m tools.foreign_photographs IMAGES LABELS FOLDER`.

IMAGES is a zip file of photographs of ImageNet, LABELS a text file with a line for each: its name and its class, by its
index. Into FOLDER go pieces of those that show neither a class of CIFAR-10, nor something much like one, nor a plant,
for `python -m glimpse.models calibrate --foreign`, and others to measure with. The pictures are the same each time.

    pieces   of three photographs in four: squares of them, many of each
    whole    every fourth photograph, to measure with
    plants   photographs of plants, fruits, mushrooms and insects on flowers, to measure with
    known    photographs of CIFAR-10's classes, which have to stay known

The pictures of CIFAR-10 were shrunk to 32 pixels and are kept as JPEG files. So that a score learns what is shown and
not how a picture was made, some of the pieces are shrunk in the same way, and some are shrunk and enlarged again.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

PIECES: Final = 16  # of each photograph
_WAYS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)
_QUALITIES = (75, 75, 85, 92)  # of JPEG


def _classes(*parts: int | tuple[int, int]) -> frozenset[int]:
    """Indices of ImageNet's classes: single ones, and first and last of several."""
    spans = (part if isinstance(part, tuple) else (part, part) for part in parts)
    return frozenset(index for first, last in spans for index in range(first, last + 1))


KNOWN: Final = {
    "airplane": _classes(404, 895),
    "automobile": _classes(407, 436, 468, 511, 609, 627, 656, 661, 734, 751, 817),
    "bird": _classes((7, 24), (80, 100), (127, 146)),
    "cat": _classes((281, 285)),
    "deer": _classes(351, 352),
    "dog": _classes((151, 268)),
    "frog": _classes((30, 32)),
    "horse": _classes(339),
    "ship": _classes(403, 472, 484, 510, 554, 625, 628, 724, 780, 814, 833, 871, 914),
    "truck": _classes(555, 569, 675, 717, 864, 867),
}
# Wolves and foxes, large cats, hoofed animals, vehicles and what ships are moored at: much like a class, or beside one.
LIKE_KNOWN: Final = _classes(
    *((269, 280), (286, 293), 340, (346, 350), 353),
    *(405, 408, 425, 536, 573, 603, 665, 670, 694, 718, 779, 803, 870),
)
# Plants, fruits and mushrooms, insects on flowers, vases and pots, and sea anemones.
PLANTS: Final = _classes(108, 300, 303, 304, 308, 309, (322, 326), 738, 883, (936, 957), 973, (984, 998))


def piece(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A square of a photograph, mirrored or not, as it is, as one of CIFAR-10, or shrunk and enlarged again."""
    shorter = min(photo.size)
    side = int(rng.uniform(0.3, 1) * shorter)
    left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
    square = photo.crop((left, top, left + side, top + side))
    if rng.random() < 0.5:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    way, chance = _WAYS[rng.integers(len(_WAYS))], rng.random()
    if chance < 0.4:
        return square.resize((32, 32), way)
    if chance < 0.65:
        small = int(rng.integers(32, 49))
        shrunk = Image.open(io.BytesIO(_jpeg(square.resize((small, small), way), 75)))
        large = int(rng.integers(64, 230))
        return shrunk.resize((large, large), _WAYS[rng.integers(3)])
    return square


def kind(index: int) -> str:
    """Where a photograph of a class of ImageNet belongs: ``known/CLASS``, ``plants``, ``foreign``, or nowhere."""
    for name, indices in KNOWN.items():
        if index in indices:
            return f"known/{name}"
    return "" if index in LIKE_KNOWN else "plants" if index in PLANTS else "foreign"


def make(images: Path, labels: Path, folder: Path) -> None:
    """Write the folders; see the top of the file."""
    listed = [line.split() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    foreign = 0
    with zipfile.ZipFile(images) as archive:
        for number, (name, index) in enumerate(listed):
            found, data = kind(int(index)), archive.read(name)
            if found == "foreign":
                foreign += 1
                found = "whole"
                if foreign % 4:
                    photo = Image.open(io.BytesIO(data)).convert("RGB")
                    rng = np.random.default_rng(number)
                    for part in range(PIECES):
                        file = _jpeg(piece(photo, rng), int(rng.choice(_QUALITIES)))
                        _write(folder / "pieces" / f"{number:04}_{part:02}.jpg", file)
                    continue
            if found:
                _write(folder / found / Path(name).with_suffix(".jpg").name, data)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.foreign_photographs", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("images", type=Path, help="zip file of photographs")
    parser.add_argument(
        "labels", type=Path, help="text file: a line for each, with its name and the index of its class"
    )
    parser.add_argument("folder", type=Path, help="into which the folders are written")
    options = parser.parse_args()
    make(options.images, options.labels, options.folder)


if __name__ == "__main__":
    main()
