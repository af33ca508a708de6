"""Inception-ResNet-v2: inception modules as the transforms of residual units, scaled down before they are added.

Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning", arXiv:1602.07261,
sections 3.2 and 3.3, with the stem and the widths of the network that the authors published: the stem is that of
Inception-v3 and one more module, where figure 15 has Inception-v4's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glimpse.models.inception_spec import Chain, Conv, Parallel, Pool, convolutions
from glimpse.models.layouts import KERAS, TORCH, Layout, renaming
from glimpse.models.spec import Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor

_HALVE = Pool("max", 2, border="valid")
_STEM_MODULE: Parallel = {
    "1x1": (Conv(96),),
    "5x5": (Conv(48), Conv(64, 5)),
    "double3x3": (Conv(64), Conv(96, 3), Conv(96, 3)),
    "pool": (Pool("average"), Conv(64)),
}
_STEM: Chain = (
    Conv(32, 3, 2, "valid"),
    Conv(32, 3, 1, "valid"),
    Conv(64, 3),
    _HALVE,
    Conv(80),
    Conv(192, 3, 1, "valid"),
    _HALVE,
    _STEM_MODULE,
)
_A: Parallel = {
    "1x1": (Conv(32),),
    "3x3": (Conv(32), Conv(32, 3)),
    "double3x3": (Conv(32), Conv(48, 3), Conv(64, 3)),
}
_REDUCTION_A: Parallel = {
    "3x3": (Conv(384, 3, 2, "valid"),),
    "double3x3": (Conv(256), Conv(256, 3), Conv(384, 3, 2, "valid")),
    "pool": (_HALVE,),
}
_B: Parallel = {"1x1": (Conv(192),), "7x7": (Conv(128), Conv(160, (1, 7)), Conv(192, (7, 1)))}
_REDUCTION_B: Parallel = {
    "3x3a": (Conv(256), Conv(384, 3, 2, "valid")),
    "3x3b": (Conv(256), Conv(288, 3, 2, "valid")),
    "double3x3": (Conv(256), Conv(288, 3), Conv(320, 3, 2, "valid")),
    "pool": (_HALVE,),
}
_C: Parallel = {"1x1": (Conv(192),), "3x3": (Conv(192), Conv(224, (1, 3)), Conv(256, (3, 1)))}


@dataclass(frozen=True, slots=True)
class _Units:
    """A group of residual units of one module."""

    module: Parallel
    count: int
    scale: float  # of the transform
    keras: str  # what Keras calls them
    timm: str


_GROUPS = (
    _Units(_A, 10, 0.17, "block35", "repeat"),
    _Units(_B, 20, 0.1, "block17", "repeat_1"),
    _Units(_C, 10, 0.2, "block8", "repeat_2"),  # the last one neither scaled nor activated
)
_REDUCTIONS = (_REDUCTION_A, _REDUCTION_B)
_LAST_WIDTH = 1536


@dataclass(frozen=True, slots=True, kw_only=True)
class InceptionResNetV2(Architecture):
    """A stem, three groups of residual inception modules, two reductions between them, a 1x1 convolution."""

    convention: Convention

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import conv_bn
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.inception import chain, group, residual_inception

        convention = self.convention
        x = chain(x, _STEM, convention=convention, name="stem")
        yield Stage("stem", "conv3x3+inception"), x
        for number, units in enumerate(_GROUPS, start=1):
            for unit in range(1, units.count + 1):
                last = number == len(_GROUPS) and unit == units.count
                x = residual_inception(
                    x,
                    units.module,
                    scale=1.0 if last else units.scale,
                    activation=not last,
                    convention=convention,
                    name=f"group{number}_block{unit}",
                )
            yield Stage(f"group{number}", "residual_inception", units.count), x
            if number <= len(_REDUCTIONS):
                x = group(x, _REDUCTIONS[number - 1 : number], convention=convention, name=f"reduction{number}")
                yield Stage(f"reduction{number}", "inception_reduction"), x
        x = conv_bn(x, _LAST_WIDTH, kernel=1, convention=convention, name="group4")
        yield Stage("group4", "conv1x1"), x
        yield Stage("classifier", "global_average_pooling+dense"), pooled_classifier(x, classes, name="classifier")

    def layouts(self) -> Mapping[str, Layout]:
        """Checkpoints of Keras and of timm."""
        return _LAYOUTS


def _in_order() -> Iterator[str]:
    """Our names of the convolutions to which Keras gives numbers, in the order in which it makes them."""
    yield from convolutions(_STEM, "stem")
    for number, units in enumerate(_GROUPS, start=1):
        for unit in range(1, units.count + 1):
            yield from convolutions((units.module,), f"group{number}_block{unit}")
        if number <= len(_REDUCTIONS):
            yield from convolutions((_REDUCTIONS[number - 1],), f"reduction{number}_block1")


_NUMBERS = {name: number for number, name in enumerate(_in_order(), start=1)}
_KERAS_KINDS = {"conv": "conv2d", "bn": "batch_normalization"}
_TIMM_STEM = {"1": "1a", "2": "2a", "3": "2b", "5": "3b", "6": "4a"}
_TIMM_REDUCTIONS = {"1": "mixed_6a", "2": "mixed_7a"}
_UP = r"group(\d)_block(\d+)_up_conv"
_BRANCH = r"(1x1|3x3[ab]?|5x5|7x7|double3x3|pool)(?:_(\d))?_(conv|bn)"


def _keras_up(match: re.Match[str]) -> str:
    return f"{_GROUPS[int(match[1]) - 1].keras}_{match[2]}_conv"


def _timm_unit(group: str, unit: str) -> str:
    units = _GROUPS[int(group) - 1]
    return "block8" if (group, int(unit)) == ("3", units.count) else f"{units.timm}.{int(unit) - 1}"


def _timm_branch(place: str, table: Parallel, branch: str, step: str | None, kind: str) -> str:
    """timm counts branches and the steps of a branch from 0; the average pool in front of a step counts there, too."""
    within = f".{int(step) - 1}" if step else ""
    return f"{place}.branch{list(table).index(branch)}{within}.{kind}"


_LAYOUTS = {
    "keras": Layout(
        naming=KERAS,
        rename=renaming(
            (_UP, _keras_up),
            (r"group4_conv", "conv_7b"),
            (r"group4_bn", "conv_7b_bn"),
            (r"classifier_logits", "predictions"),
            (r"(.+)_(conv|bn)", lambda match: f"{_KERAS_KINDS[match[2]]}_{_NUMBERS[match[1]]}"),
        ),
        recounted=tuple(_KERAS_KINDS.values()),
    ),
    "timm": Layout(
        naming=TORCH,
        rename=renaming(
            (r"stem_(\d)_(conv|bn)", lambda match: f"conv2d_{_TIMM_STEM[match[1]]}.{match[2]}"),
            (
                r"stem_8_" + _BRANCH,
                lambda match: _timm_branch("mixed_5b", _STEM_MODULE, match[1], match[2], match[3]),
            ),
            (_UP, lambda match: f"{_timm_unit(match[1], match[2])}.conv2d"),
            (
                r"group(\d)_block(\d+)_" + _BRANCH,
                lambda match: _timm_branch(
                    _timm_unit(match[1], match[2]),
                    _GROUPS[int(match[1]) - 1].module,
                    match[3],
                    match[4],
                    match[5],
                ),
            ),
            (
                r"reduction(\d)_block1_" + _BRANCH,
                lambda match: _timm_branch(
                    _TIMM_REDUCTIONS[match[1]],
                    _REDUCTIONS[int(match[1]) - 1],
                    match[2],
                    match[3],
                    match[4],
                ),
            ),
            (r"group4_(conv|bn)", r"conv2d_7b.\1"),
            (r"classifier_logits", "classif"),
        ),
    ),
}

_PAPER = "Szegedy et al., arXiv:1602.07261, section 3.2"

ROWS: tuple[InceptionResNetV2, ...] = tuple(
    InceptionResNetV2(
        name="inception_resnet_v2",
        variant=variant,
        paper=_PAPER,
        input_shape=(299, 299, 3),
        classes=1000,
        convention=convention,
    )
    for variant, convention in (("keras", Convention(scale=False)), ("timm", Convention()))
)
