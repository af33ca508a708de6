"""What the file of a graph says of itself, in one form for all formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glimpse.models.errors import BundleError
from glimpse.models.labels import ClassLabel

Shape = tuple[int | None, ...]  # None: any size

MAX_TENSORS = 1_000  # inputs and outputs of a graph; a classifier has one of each
MAX_AXES = 16  # of an input or output
MAX_TEXT = 1 << 20  # bytes of a text in a graph, such as a list of labels; labels of 22,000 classes take half of it
MAX_NAMED = 20  # custom operators that are named


class GraphError(BundleError):
    """Expected: the file is damaged, or its graph cannot be served as it is; the message says why and what to do."""


class DamagedGraphError(ValueError):
    """A file is not what its format says; the message is the rest of a sentence that begins "it"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """What the whole numbers of a tensor stand for: scale * (number - zero point)."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise DamagedGraphError(f"has a quantisation with the scale {self.scale}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """An input or output of a graph."""

    name: str
    shape: Shape | None  # None: not even the number of axes is known
    dtype: str  # "float32", "uint8", ...; as the format calls it where it is none of NumPy's
    quantisation: Quantisation | None = None

    def __str__(self) -> str:
        sides = "?" if self.shape is None else ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name[:80]!r} {self.dtype} [{sides}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What is needed of a graph before it is converted."""

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    producer: str = ""  # which program wrote the file, where it says so
    custom: tuple[str, ...] = ()  # operators that are in no standard, sorted
    labels: tuple[ClassLabel, ...] = ()  # of its classes, where the file has them
    # What the file says of preprocessing, as fields of a recipe, without the size; empty: nothing.
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """How the input of a graph takes images."""

    height: int | None  # pixels; None: any
    width: int | None
    channels: int | None
    channels_first: bool  # [N, C, H, W]; else [N, H, W, C], or [N, H, W] of grey images
    flat: bool = False  # it has no axis for the channels: grey images

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, where both are fixed."""
        return None if self.height is None or self.width is None else (self.height, self.width)


_CHANNELS = frozenset({1, 3})


def image_input(facts: GraphFacts, path: Path, *, channels_first: bool) -> ImageInput:
    """How a graph takes images.

    Args:
        facts: of the graph.
        path: of its file, for messages.
        channels_first: what its format has where the shape does not tell.

    Raises:
        GraphError: it has several inputs, or its input is no batch of images.
    """
    if len(facts.inputs) != 1:
        named = "; ".join(map(str, facts.inputs[:4])) or "none"
        raise GraphError(
            f"{path} must have one input, a batch of images. Received: {len(facts.inputs)} inputs: {named}. Export the "
            "classifier alone, with the image as its only input."
        )
    (given,) = facts.inputs
    if given.shape is None:
        return ImageInput(height=None, width=None, channels=None, channels_first=channels_first)
    if len(given.shape) == 3 and given.shape[0] in {None, 1} and given.shape[2] not in _CHANNELS:
        _, height, width = given.shape
        return ImageInput(height=height, width=width, channels=1, channels_first=False, flat=True)
    if len(given.shape) != 4:
        raise GraphError(
            f"{path} must take a batch of images, [N, height, width, channels] or [N, channels, height, width]. "
            f"Received: {given}. Export a classifier of images, with an axis for the batch."
        )
    _, second, third, fourth = given.shape
    first, last = second in _CHANNELS, fourth in _CHANNELS
    if not first and not last and second is not None and fourth is not None:
        raise GraphError(
            f"{path} must take images of 3 channels, or of 1. Received: {given}. Export the network for RGB images."
        )
    if first != last:
        channels_first = first
    elif not first:  # one of the two is not known, and the other is a side
        channels_first = second is None if fourth is not None else (channels_first if second is None else False)
    if channels_first:
        return ImageInput(height=third, width=fourth, channels=second, channels_first=True)
    return ImageInput(height=second, width=third, channels=fourth, channels_first=False)


def classes_of(shape: Shape | None) -> int | None:
    """The classes of an output ``[N, classes]``, also with further axes of size 1; None: not known, or none such."""
    if shape is None or len(shape) < 2:
        return None
    sides = [side for side in shape[1:] if side != 1]
    if not sides:
        return 1
    return sides[0] if len(sides) == 1 else None


def refuse_custom(facts: GraphFacts, path: Path) -> None:
    """Refuse a graph with operators that are in no standard.

    Raises:
        GraphError: it has some; the message names them.
    """
    if facts.custom:
        named = ", ".join(facts.custom[:MAX_NAMED]) + (", ..." if len(facts.custom) > MAX_NAMED else "")
        raise GraphError(
            f"{path} has custom operators, which only the program that made it can compute: {named}. Export the "
            "network with the standard operators of its format alone."
        )


def refuse_outside(path: Path, name: str) -> None:
    """Refuse a file that belongs to a graph and is a link that leads out of the graph's folder.

    Args:
        path: of the graph's file.
        name: of the other file, relative to its folder.

    Raises:
        GraphError: it is, or the link cannot be followed.
    """
    folder = path.parent.resolve()
    try:
        contained = (path.parent / name).resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # links in a circle
        contained = False
    if not contained:
        raise GraphError(
            f"{path} needs {name} in its folder, and that is a link which leads out of it. Copy the folder with the "
            "files themselves in place of links, for example by cp -rL."
        )
