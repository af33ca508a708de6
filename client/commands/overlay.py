"""A photo with the map of an explanation over it, as a PNG file. Needs Pillow, which the client does not install."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glimpse.client.results import Explanation

if TYPE_CHECKING:
    from PIL.Image import Image

MISSING = "Pillow is missing, which draws the photos. Install it: pip install pillow"
_LONGEST, _SHORTEST = 1024, 256  # pixels of the longer side of what is drawn
_UNSEEN = 0.35  # brightness of what the network did not see
_STRONGEST = 0.65  # opacity of the highest number
# Colours from the lowest number to the highest, red, green and blue: dark blue, violet, red, orange, yellow.
_COLOURS = ((20, 20, 120), (110, 20, 140), (200, 40, 80), (245, 130, 30), (255, 240, 60))


def available() -> bool:
    """Whether Pillow is installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        return False
    return True


def draw(photo: str | os.PathLike[str], found: Explanation) -> Image:
    """The photo with the map over it; what the network did not see is dark.

    Raises:
        OSError, ValueError: the photo cannot be read; also Pillow's `DecompressionBombError`.
    """
    from PIL import Image, ImageChops, ImageEnhance, ImageOps

    with Image.open(photo) as file:
        file.draft("RGB", (_LONGEST, _LONGEST))  # a large JPEG is read at half its size, or less
        picture = ImageOps.exif_transpose(file).convert("RGB")
    picture.thumbnail((_LONGEST, _LONGEST))
    if (longer := max(picture.size)) < _SHORTEST:
        times = -(-_SHORTEST // longer)
        picture = picture.resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)
    left, top, right, bottom = _box(found, picture.size)
    size = max(1, right - left), max(1, bottom - top)
    grid = Image.frombytes("L", (found.columns, found.rows), found.values).resize(size, Image.Resampling.BICUBIC)
    heat = Image.merge("RGB", [grid.point(_ramp(channel)) for channel in range(3)])
    opacity = grid.point([round(_STRONGEST * value**2 / 255) for value in range(256)])  # what is low shows the photo
    seen = Image.new("L", picture.size, 0)
    seen.paste(255, (left, top, right, bottom))
    drawn = Image.composite(picture, ImageEnhance.Brightness(picture).enhance(_UNSEEN), seen)
    mask = Image.new("L", picture.size, 0)
    mask.paste(opacity, (left, top))
    colours = Image.new("RGB", picture.size)
    colours.paste(heat, (left, top))
    return Image.composite(colours, drawn, ImageChops.darker(mask, seen))


def _box(found: Explanation, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where the map lies among the pixels of a picture of that width and height, which it may reach beyond."""
    area, (width, height) = found.area, size
    return round(area.left * width), round(area.top * height), round(area.right * width), round(area.bottom * height)


def _ramp(channel: int) -> list[int]:
    """The colour of each of the 256 numbers."""
    steps = len(_COLOURS) - 1
    made = []
    for value in range(256):
        place, within = divmod(value * steps, 255) if value < 255 else (steps - 1, 255)
        low, high = _COLOURS[place][channel], _COLOURS[place + 1][channel]
        made.append(round(low + (high - low) * within / 255))
    return made


class Overlays:
    """Writes the overlays of a run into a folder, a file for each photo."""

    def __init__(self, folder: Path, *, keep: bool = False) -> None:
        """Make the folder where it is not there. `keep`: overwrite nothing, because this run goes on with another one.

        Raises:
            OSError: it cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._keep = folder, keep
        self._names: dict[str, int] = {}  # that have been given, and how often

    def write(self, photo: str, found: Explanation) -> str:
        """Write the overlay of a photo; returns what kept it from being written, or nothing.

        A photo ``cat.jpg`` becomes ``cat.jpg.png``; another one of that name ``cat.jpg-2.png``.
        """
        name = Path(photo).name
        number = self._names.get(name, 0) + 1
        while self._keep and self._path(name, number).exists():
            number += 1
        self._names[name] = number
        from PIL.Image import DecompressionBombError

        try:
            draw(photo, found).save(self._path(name, number))
        except (OSError, ValueError, DecompressionBombError) as error:
            return str(error)
        return ""

    def _path(self, name: str, number: int) -> Path:
        return self._folder / (f"{name}.png" if number == 1 else f"{name}-{number}.png")


def record(found: Explanation) -> dict[str, Any]:
    """An explanation for JSON: its values as a list for each row."""
    return {
        "index": found.index,
        "label": found.label,
        "class_id": found.class_id,
        "method": found.method,
        "values": [list(found.values[at : at + found.columns]) for at in range(0, len(found.values), found.columns)],
        "lowest": found.lowest,
        "highest": found.highest,
        "area": {side: getattr(found.area, side) for side in ("left", "top", "right", "bottom")},
    }
