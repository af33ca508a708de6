"""How publishers name the tensors of residual networks, with and without SE blocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from glimpse.models.families import creation
from glimpse.models.layouts import KERAS, TORCH, Layout, Naming, Replacement, renaming

Publisher = Literal["geron", "handbook", "keras", "keras_resnext", "torchvision", "timm", "timm_legacy"]

_UNIT = r"group(\d)_block(\d+)"
_POSITION = {"a": 1, "b": 2, "c": 3}  # of a convolution in its unit


def _torch_unit(rest: str) -> Callable[[re.Match[str]], str]:
    """A unit's prefix, "layer1.0.", and `rest`, whose braces stand for what else matched; units count from 0."""

    def name(match: re.Match[str]) -> str:
        group, unit, *others = match.groups()
        return f"layer{group}.{int(unit) - 1}." + rest.format(*(_POSITION.get(part, part) for part in others))

    return name


def _keras_unit(match: re.Match[str]) -> str:
    group, unit, convolution, kind = match.groups()
    return f"conv{int(group) + 1}_block{unit}_{_POSITION[convolution]}_{kind}"


def _keras_projection(match: re.Match[str]) -> str:
    group, unit, kind = match.groups()
    return f"conv{int(group) + 1}_block{unit}_0_{kind}"


def _torch_rules(se: str) -> tuple[tuple[str, Replacement], ...]:
    return (
        (rf"{_UNIT}_([abc])_(conv|bn)", _torch_unit("{1}{0}")),
        (rf"{_UNIT}_projection_conv", _torch_unit("downsample.0")),
        (rf"{_UNIT}_projection_bn", _torch_unit("downsample.1")),
        (rf"{_UNIT}_se_reduce", _torch_unit(f"{se}.fc1")),
        (rf"{_UNIT}_se_expand", _torch_unit(f"{se}.fc2")),
    )


_torch = renaming((r"stem_(conv|bn)", r"\g<1>1"), *_torch_rules("se"), ("classifier_logits", "fc"))
_timm_legacy = renaming(
    (r"stem_(conv|bn)", r"layer0.\g<1>1"),
    (r"stem_([abc])_(conv|bn)", lambda match: f"layer0.{match[2]}{_POSITION[match[1]]}"),
    *_torch_rules("se_module"),
    ("classifier_logits", "last_linear"),
)
_keras = renaming(
    (r"stem_(conv|bn)", r"conv1_\1"),
    (rf"{_UNIT}_([abc])_(conv|bn)", _keras_unit),
    (rf"{_UNIT}_projection_(conv|bn)", _keras_projection),
    ("classifier_logits", "predictions"),
)

# The book's network is a list of layers without names. Its units are layers of their own. What is in them has places in
# its file, or, in the older format, numbers in the order in which they are made: a unit's own, then its projection's.
_GERON_BEFORE = {1: 0, 2: 3, 3: 7, 4: 13}  # units in front of a group


def _geron_place(part: str, number: int = 0) -> Callable[[re.Match[str]], str]:
    def name(match: re.Match[str]) -> str:
        unit, kind = _GERON_BEFORE[int(match[1])] + int(match[2]) - 1, _GERON_KINDS[match[3]]
        return f"residual_unit{_counted(unit)}/{part}/{kind}{_counted(number)}"

    return name


def _geron_number(after: int) -> Callable[[re.Match[str]], str]:
    def name(match: re.Match[str]) -> str:
        group, unit = int(match[1]), int(match[2])
        # The stem, two a unit, and one more for the projection of each group but the first that has been begun.
        projections = group - 1 if unit > 1 else max(0, group - 2)
        made = 1 + 2 * (_GERON_BEFORE[group] + unit - 1) + projections
        return f"{_GERON_KINDS[match[3]]}_{made + after}"

    return name


def _counted(number: int) -> str:
    return f"_{number}" if number else ""


_GERON_KINDS = {"conv": "conv2d", "bn": "batch_normalization"}
_GERON_AROUND: tuple[tuple[str, Replacement], ...] = (
    ("stem_conv", "conv2d_1"),
    ("stem_bn", "batch_normalization_1"),
    ("classifier_logits", "dense_1"),
)
_GERON_RECOUNTED = ("conv2d", "batch_normalization", "dense")
_geron_by_place = renaming(
    *_GERON_AROUND,
    (rf"{_UNIT}_a_(conv|bn)", _geron_place("main_layers")),
    (rf"{_UNIT}_b_(conv|bn)", _geron_place("main_layers", 1)),
    (rf"{_UNIT}_projection_(conv|bn)", _geron_place("skip_layers")),
)
_geron_by_number = renaming(
    *_GERON_AROUND,
    (rf"{_UNIT}_a_(conv|bn)", _geron_number(1)),
    (rf"{_UNIT}_b_(conv|bn)", _geron_number(2)),
    (rf"{_UNIT}_projection_(conv|bn)", _geron_number(3)),
)

LAYOUTS: Mapping[Publisher, Mapping[str, Layout]] = {
    "geron": {
        "the book": Layout(naming=KERAS, rename=_geron_by_place, recounted=_GERON_RECOUNTED),
        "the book, .h5": Layout(naming=KERAS, rename=_geron_by_number, recounted=_GERON_RECOUNTED),
    },
    "handbook": {creation.NAME: creation.layout(projection="first")},
    "keras": {"keras": Layout(naming=KERAS, rename=_keras)},
    # A grouped convolution is written as a depthwise one, each channel with as many outputs as its group has, and a
    # fixed 1x1 convolution of zeros and ones, "gconv", that adds up those of a group.
    "keras_resnext": {
        "keras": Layout(
            naming=Naming(
                order="HWIO", suffixes={**KERAS.suffixes, "kernel": (*KERAS.suffixes["kernel"], "/depthwise_kernel")}
            ),
            rename=_keras,
            unused=(r".*_2_gconv/kernel",),
        )
    },
    "torchvision": {"torchvision": Layout(naming=TORCH, rename=_torch)},
    "timm": {"timm": Layout(naming=TORCH, rename=_torch)},
    "timm_legacy": {"timm": Layout(naming=TORCH, rename=_timm_legacy)},
}


def handbook_resnext(groups: int, *, factorized: bool) -> Mapping[str, Layout]:
    """The handbook's program for ResNeXt: so many convolutions of slices for each of our grouped ones."""
    grouped = r".*_(?:b_conv|c_conv|c_bn)" if factorized else r".*_b_conv"
    return {creation.NAME: creation.layout(groups=groups, grouped=grouped)}
