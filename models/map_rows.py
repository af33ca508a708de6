"""Maps of an image as a runtime gives them: a row for each of the most probable classes, [class, map].

A map for each of 1000 classes would be as large as the image's pixels. So of each image the maps of its ten most
probable classes are kept, each with the index of its class in front, which float32 holds exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_MAPS = 10  # of an image
_MOST_POSITIONS = 32 * 32  # of a map; larger ones are maps of small networks for large images


def number_of_maps(classes: int, rows: int, columns: int) -> int:
    """How many maps an image has; 0: they would be too large."""
    return min(MOST_MAPS, classes) if rows * columns <= _MOST_POSITIONS else 0


def shape(classes: int, grid: tuple[int, int]) -> tuple[int, int]:
    """The shape of what `packed` gives for an image."""
    return number_of_maps(classes, *grid), 1 + grid[0] * grid[1]


def packed(
    logits: NDArray[np.float32],
    grid: tuple[int, int],
    maps: Callable[[int, NDArray[np.intp]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """The maps of the most probable classes of each image, float32 ``[N, maps, 1 + rows * columns]``.

    Args:
        logits: float32 ``[N, classes]``.
        grid: rows and columns of a map.
        maps: of the image of that number, the maps of these classes, float32 ``[rows, columns, maps]``.
    """
    number, length = shape(logits.shape[1], grid)
    found = np.empty((len(logits), number, length), np.float32)
    for image, scores in enumerate(logits):
        classes = np.argsort(-scores, kind="stable")[:number]
        found[image, :, 0] = classes
        found[image, :, 1:] = np.moveaxis(maps(image, classes), -1, 0).reshape(number, -1)
    return found


def of_class(rows: NDArray[np.float32], index: int, grid: tuple[int, int]) -> NDArray[np.float32] | None:
    """The map of a class, float32 ``[rows, columns]``; None: it is not among the most probable.

    Args:
        rows: of an image, as `packed` makes them.
        index: of the class.
        grid: rows and columns of a map.
    """
    (places,) = np.nonzero(rows[:, 0] == index)
    return rows[places[0], 1:].reshape(grid) if len(places) else None


@dataclass(frozen=True, slots=True)
class Head:
    """The numbers of the layer that makes maps of features, see `models.class_maps`."""

    kernel: NDArray[np.float32] | None  # [C, classes]; None: the features are the maps
    bias: NDArray[np.float32] | None  # [classes]

    def rows(self, features: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps of the most probable classes of each image, see `packed`.

        Args:
            features: float32 ``[N, H, W, C]``.
            logits: float32 ``[N, classes]``.
        """
        kernel, bias = self.kernel, self.bias
        if kernel is None:
            return packed(logits, features.shape[1:3], lambda image, classes: features[image][..., classes])

        def of_image(image: int, classes: NDArray[np.intp]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = features[image] @ kernel[:, classes]
            return found if bias is None else found + bias[classes]

        return packed(logits, features.shape[1:3], of_image)
