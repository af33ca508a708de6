"""A picture between decoding and the pre-stem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from PIL import Image


@dataclass(frozen=True, slots=True)
class Picture:
    """An upright RGB or grey picture. A decoder may have reduced it; the pre-stem's geometry goes by its whole size."""

    image: Image.Image
    size: tuple[int, int]  # width and height of the whole picture
    # Left, top, right and bottom of the picture in `image`: a decoder that reduces rounds sides up, so that the picture
    # can end within the last pixel, or, turned upright, begin within the first.
    box: tuple[float, float, float, float]

    @classmethod
    def whole(cls, image: Image.Image) -> Self:
        """A picture that has not been reduced."""
        return cls(image, image.size, (0, 0, *image.size))
