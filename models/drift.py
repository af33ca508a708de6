"""What is seen of images and of a model's answers to them, and how far it is from what was seen before: drift.

A `Reference` is a count of each figure over labelled images, made by training and by ``python -m glimpse.models
calibrate``, and travels in the bundle. A server counts the same of what it answers, and the population stability index
tells how far the two are apart. Neither Keras nor gRPC is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Of images, from the network's input; `size` is width x height of the image as it came.
OF_IMAGES: Final = ("brightness", "sharpness", "colour", "size")
OF_ANSWERS: Final = ("top_probability", "margin", "entropy", "novelty")
CLASS: Final = "class"  # the first answer
FEATURES: Final = (*OF_IMAGES, *OF_ANSWERS, CLASS)

MOST_CLASSES: Final = 50  # that are counted apart, those of the reference's images that come most often
FEWEST_IMAGES: Final = 100  # of a reference
_QUANTILES = np.linspace(0, 1, 11)
_MOST_BINS = 32
# Of an image of some size, every which row is looked at, and for brightness and colour every which pixel of those.
_LARGE, _ROWS, _COLUMNS = 64, 8, 4


class ImageFigures(NamedTuple):
    """Figures of one image as the network sees it.

    Attributes:
        brightness: mean of all channels, 0..255.
        sharpness: mean difference of green, or grey, between neighbours in a row, 0..255.
        colour: mean red minus mean blue, -255..255; 0 of a grey model.
    """

    brightness: float
    sharpness: float
    colour: float


def image_figures(pixels: NDArray[np.uint8], depth: int) -> ImageFigures:
    """The figures of one image, from some of its pixels: about 40 microseconds of a core for 224 x 224.

    Args:
        pixels: ``[H, W, C]``, the network's input before the recipe's scaling.
        depth: channels of colour, 3 or 1; what is behind them is a mask.
    """
    some = pixels[::_ROWS] if len(pixels) >= _LARGE else pixels
    points = some[:, :: _COLUMNS if pixels.shape[1] >= _LARGE else 1, :depth].reshape(-1, depth).astype(np.float32)
    means = (np.ones(len(points), np.float32) @ points / len(points)).tolist()
    green = some[:, :, min(1, depth - 1)].astype(np.int16)
    return ImageFigures(
        brightness=sum(means) / depth,
        sharpness=float(np.abs(green[:, 1:] - green[:, :-1]).mean()) if green.shape[1] > 1 else 0.0,
        colour=means[0] - means[2] if depth >= 3 else 0.0,
    )


class AnswerFigures(NamedTuple):
    """Figures of the answers to N images.

    Attributes:
        first: int64 ``[N]``, the most probable class.
        top_probability: float64 ``[N]``, its probability.
        margin: ``[N]``, by which it is more probable than the second.
        entropy: ``[N]``, of all probabilities, as a share of the highest there can be, 0..1.
    """

    first: NDArray[np.int64]
    top_probability: NDArray[np.float64]
    margin: NDArray[np.float64]
    entropy: NDArray[np.float64]


def answer_figures(probabilities: NDArray[np.floating]) -> AnswerFigures:
    """The figures of answers, from probabilities ``[N, classes]``."""
    count = probabilities.shape[1]
    first = probabilities.argmax(axis=1)
    rows = np.arange(len(first))
    # Not by `numpy.partition`, which takes twenty times as long among equals: a network that is sure has many zeros.
    others = probabilities.copy()
    others[rows, first] = 0
    top, second = probabilities[rows, first].astype(np.float64), others.max(axis=1)
    positive = np.maximum(probabilities, np.finfo(np.float32).tiny)
    entropy = -(positive * np.log(positive)).sum(axis=1, dtype=np.float64) / max(math.log(count), 1e-9)
    return AnswerFigures(first, top, top - second, entropy)


@dataclass(frozen=True, slots=True)
class Bins:
    """Counts of one figure.

    Attributes:
        edges: rising; a bin holds what is above the edge before it and at most its own, the last one what is above all.
        counts: one more than edges.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Bins:
        """Bins between the tenths of the values, and one each below and above them all."""
        edges = np.unique(np.quantile(values, _QUANTILES))
        # What equals the lowest value is within; what is below it is not.
        below = float(np.nextafter(np.float32(edges[0]), np.float32(-np.inf)))
        edges = np.array([below, *(edges[1:] if len(edges) > 1 else edges)])
        return cls(tuple(map(float, edges)), tuple(_counted(values, edges).tolist()))

    def count(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """How many of the values are in each bin: int64 ``[bins]``."""
        return _counted(values, np.asarray(self.edges))


def _counted(values: NDArray[np.floating], edges: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


@dataclass(frozen=True, slots=True)
class Reference:
    """What was seen of images of a kind that a model is for, and of its answers to them.

    Attributes:
        images: how many.
        classes: how many of the first answers were of each of the most frequent classes, by index; at most
            `MOST_CLASSES`. All others are counted together.
        bins: by the name of each figure; a figure that was not measured is absent.
    """

    images: int
    classes: Mapping[int, int]
    bins: Mapping[str, Bins]

    @classmethod
    def of(cls, first: NDArray[np.int64], figures: Mapping[str, NDArray[np.floating]]) -> Reference:
        """The reference of N images.

        Args:
            first: ``[N]``, the most probable class of each.
            figures: ``[N]``, by the name of each figure.

        Raises:
            ValueError: there are fewer than `FEWEST_IMAGES`.
        """
        if len(first) < FEWEST_IMAGES:
            raise ValueError(f"A reference of drift needs at least {FEWEST_IMAGES} images. Received: {len(first)}")
        found, counts = np.unique(first, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
        return cls(
            images=len(first),
            classes={int(found[at]): int(counts[at]) for at in order},
            bins={name: Bins.of(values) for name, values in figures.items()},
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: int) -> Reference:
        """From what a description has; `classes` are those of the model.

        Raises:
            ValueError, TypeError, KeyError: a value is missing or not valid.
        """
        images = _whole(values["images"])
        counts = {_class(name, classes): _whole(count) for name, count in values["classes"].items()}
        if len(counts) > MOST_CLASSES or sum(counts.values()) > images or not images:
            raise ValueError(f"drift must count at most {MOST_CLASSES} classes, and no more answers than images")
        bins: dict[str, Bins] = {}
        for name, found in values["figures"].items():
            if name not in FEATURES or name == CLASS:
                continue  # of a newer version
            edges, of_bins = found["edges"], found["counts"]
            if not (isinstance(edges, list) and isinstance(of_bins, list) and 0 < len(edges) < _MOST_BINS):
                raise ValueError("drift must have edges and counts of each figure")
            if not all(isinstance(edge, (int, float)) and math.isfinite(edge) for edge in edges) or any(
                edges[at] >= edges[at + 1] for at in range(len(edges) - 1)
            ):
                raise ValueError("the edges of a figure of drift must be rising numbers")
            whole = tuple(_whole(count) for count in of_bins)
            if len(whole) != len(edges) + 1 or sum(whole) != images:
                raise ValueError("the counts of a figure of drift must be one more than its edges, and of all images")
            bins[name] = Bins(tuple(map(float, edges)), whole)
        return cls(images, counts, bins)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads."""
        return {
            "images": self.images,
            "classes": {str(index): count for index, count in self.classes.items()},
            "figures": {
                name: {"edges": list(found.edges), "counts": list(found.counts)} for name, found in self.bins.items()
            },
        }

    def class_counts(self) -> NDArray[np.int64]:
        """Of each class of the reference, and of all others together: int64 ``[classes + 1]``."""
        counts = list(self.classes.values())
        return np.array([*counts, self.images - sum(counts)])


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError("drift must count in whole numbers")
    return value


def _class(name: str, classes: int) -> int:
    if not (name.isascii() and name.isdecimal() and len(name) < 9 and int(name) < classes):
        raise ValueError("drift must name classes by their index")
    return int(name)


def stability_index(reference: Sequence[int] | NDArray[np.int64], found: Sequence[int] | NDArray[np.int64]) -> float:
    """The population stability index of two counts over the same bins, less what chance alone makes of it; at least 0.

    It is sum((p - q) * log(p / q)) of the shares p and q. By a rule of long standing, below 0.1 little has changed,
    above 0.25 much has. Of samples of one population it is (bins - 1) * (1/n + 1/m) on average (Yurdakul, "Statistical
    properties of population stability index", 2018, chapter 3), which is taken off, so that few images are no alarm.

    Args:
        reference: ``[bins]``.
        found: ``[bins]``.
    """
    before, now = np.asarray(reference, np.float64) + 0.5, np.asarray(found, np.float64) + 0.5
    p, q = now / now.sum(), before / before.sum()
    index = float(((p - q) * np.log(p / q)).sum())
    return max(0.0, index - (len(p) - 1) * (1 / now.sum() + 1 / before.sum()))
