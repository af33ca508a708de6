"""The names of layers in programs that give none: Keras' name of the class, and a number in the order of creation.

What the handbook's programs save has names such as ``conv2d_17/kernel``. Ours say where a layer is, so the order in
which a program makes its layers, and with it each number, follows from our names and a few habits of the program.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal

from glimpse.models.layouts import KERAS, Layout, renaming

# The words of our names, in the order in which the layers of one number are made.
_WORDS = (
    *("stem", "group", "transition", "block", "layer", "fire", "a", "b", "c", "concatenated"),
    *("dw", "pw", "squeeze", "expand1x1", "expand3x3", "sep"),
)
NAME = "the handbook's program"  # of the layout
_KINDS = {"conv": "conv2d", "bn": "batch_normalization", "depthwise": "depthwise_conv2d"}
_ALL_KINDS = (*_KINDS.values(), "separable_conv2d", "dense")
_KIND = re.compile(r"_(conv|bn|depthwise)$")

_Key = tuple[tuple[float, int], ...]  # sorts layers by their creation


def layout(
    *,
    projection: Literal["first", "last"] = "last",
    classifier: Literal["dense", "conv2d"] = "dense",
    separable: bool = False,
    groups: int = 1,
    grouped: str = "",
) -> Layout:
    """The layout of a program that makes its layers in the order in which ours follow one another.

    Args:
        projection: whether the program makes a unit's projection before or behind the rest of the unit.
        classifier: what its last layer with weights is, where ours is a dense one; a 1x1 convolution is the same.
        separable: it has one layer with both kernels of a separable convolution, where we have two layers.
        groups: so many layers of the program are one grouped layer of ours.
        grouped: pattern of the names of those layers of ours. The program makes all those of the first group in a
            unit, then all of the second.
    """
    order = {"projection": -1 if projection == "first" else math.inf, "classifier": math.inf, "logits": math.inf}

    def key(name: str) -> _Key:
        return tuple(_rank(part, order) for part in _KIND.sub("", name).split("_"))

    def kind(name: str) -> str:
        if separable and re.search(r"_sep\d_(conv|depthwise)$", name):
            return "separable_conv2d"
        if match := _KIND.search(name):
            return _KINDS[match[1]]
        return classifier if name == "classifier_logits" else "dense"

    def names(layers: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        made: dict[str, list[tuple[str, _Key]]] = {}  # by our layer, the program's: their class and place
        for name in layers:
            place = key(name)
            if groups > 1 and re.fullmatch(grouped, name):
                unit, last = place[:-1], place[-1]
                first = _rank("b", order)
                made[name] = [(kind(name), (*unit, first, (number, last[1]))) for number in range(groups)]
            else:
                made[name] = [(kind(name), place)]
        places: dict[str, set[_Key]] = {}
        for parts in made.values():
            for which, place in parts:
                places.setdefault(which, set()).add(place)
        numbers = {
            (which, place): number for which, all_ in places.items() for number, place in enumerate(sorted(all_), 1)
        }
        return {name: tuple(f"{part[0]}_{numbers[part]}" for part in parts) for name, parts in made.items()}

    return Layout(naming=KERAS, rename=renaming(), names=names, recounted=_ALL_KINDS)


def _rank(part: str, order: Mapping[str, float]) -> tuple[float, int]:
    """Where a part of a name comes among others at its place: "block2" behind "block1", "projection" as told."""
    if part in order:
        return order[part], 0
    if part in _WORDS:
        return 0, _WORDS.index(part)
    match = re.fullmatch(r"([a-z]*)(\d+)", part)
    if match is None:
        return 0, len(_WORDS)
    word = match[1]
    return int(match[2]), _WORDS.index(word) if word in _WORDS else 0
