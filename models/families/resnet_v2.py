"""Residual networks with pre-activation, called version 2.

He et al., "Identity Mappings in Deep Residual Networks", arXiv:1603.05027. Publishers disagree about where the
resolution is halved: in timm the first unit of a group does it, in Keras the last unit of the group before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from glimpse.models.layouts import KERAS, TORCH, Layout, renaming
from glimpse.models.spec import TORCH as TORCH_CONVENTION
from glimpse.models.spec import Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor

    from glimpse.models.blocks.pooling import Border

_STEM_WIDTH = 64
_WIDTHS = (256, 512, 1024, 2048)  # channels that the groups put out; their units work on a quarter


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetV2(Architecture):
    """A stem that nothing normalises, four groups of units, and batch norm and ReLU in front of the classifier."""

    depths: tuple[int, int, int, int]  # units in each group
    halving: Literal["first", "last"]  # unit of a group that takes the stride: of all but the first or the last group
    # Of the stem's max pooling, whose input may be negative: with "symmetric" the border's zeros count, as in Keras.
    pool: Border
    convention: Convention

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import convolved, norm_act
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.pooling import max_pool
        from glimpse.models.blocks.preactivation import preactivation_bottleneck

        convention = self.convention
        x = convolved(x, _STEM_WIDTH, kernel=7, stride=2, bias=convention.bias, convention=convention, name="stem")
        x = max_pool(x, border=self.pool, name="stem_pool")
        yield Stage("stem", "conv7x7+max_pooling"), x
        for group, (depth, width) in enumerate(zip(self.depths, _WIDTHS, strict=True), start=1):
            halves = group > 1 if self.halving == "first" else group < len(self.depths)
            strided = (1 if self.halving == "first" else depth) if halves else 0
            for unit in range(1, depth + 1):
                x = preactivation_bottleneck(
                    x,
                    width,
                    width=width // 4,
                    stride=2 if unit == strided else 1,
                    projected=unit == 1,
                    convention=convention,
                    name=f"group{group}_block{unit}",
                )
            yield Stage(f"group{group}", "preactivation_bottleneck", depth), x
        x = norm_act(x, convention=convention, name="classifier")
        yield Stage("classifier", "global_average_pooling+dense"), pooled_classifier(x, classes, name="classifier")

    def layouts(self) -> Mapping[str, Layout]:
        """Checkpoints of Keras and of timm."""
        return _LAYOUTS


_PART = r"group(\d)_block(\d+)_([abc])_(conv|bn)"
_PROJECTION = r"group(\d)_block(\d+)_projection_conv"


def _keras_part(match: re.Match[str]) -> str:
    """A normalisation has the number of the convolution before it, the first a name of its own."""
    group, unit, part, kind = match.groups()
    number = "abc".index(part) + (kind == "conv")
    return f"conv{int(group) + 1}_block{unit}_" + (f"{number}_{kind}" if number else "preact_bn")


def _timm_part(match: re.Match[str]) -> str:
    group, unit, part, kind = match.groups()
    kinds = {"conv": "conv", "bn": "norm"}
    return f"stages.{int(group) - 1}.blocks.{int(unit) - 1}.{kinds[kind]}{'abc'.index(part) + 1}"


_LAYOUTS = {
    "keras": Layout(
        naming=KERAS,
        rename=renaming(
            ("stem_conv", "conv1_conv"),
            (_PART, _keras_part),
            (_PROJECTION, lambda match: f"conv{int(match[1]) + 1}_block{match[2]}_0_conv"),
            ("classifier_bn", "post_bn"),
            ("classifier_logits", "predictions"),
        ),
    ),
    "timm": Layout(
        naming=TORCH,
        rename=renaming(
            ("stem_conv", "stem.conv"),
            (_PART, _timm_part),
            (_PROJECTION, lambda match: f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}.downsample.conv"),
            ("classifier_bn", "norm"),
            ("classifier_logits", "head.fc"),
        ),
    ),
}

_PAPER = "He et al., arXiv:1603.05027"
_DEPTHS: dict[str, tuple[int, int, int, int]] = {
    "resnet50_v2": (3, 4, 6, 3),
    "resnet101_v2": (3, 4, 23, 3),
    "resnet152_v2": (3, 8, 36, 3),
}


def _rows(name: str, depths: tuple[int, int, int, int]) -> tuple[ResNetV2, ...]:
    return (
        ResNetV2(
            name=name,
            variant="keras",
            paper=_PAPER,
            input_shape=(224, 224, 3),
            classes=1000,
            depths=depths,
            halving="last",
            pool="symmetric",
            convention=Convention(bias=True, epsilon=1.001e-5, padding="symmetric"),
        ),
        # As timm builds it, whose layout fits; it publishes no weights of the deepest one.
        ResNetV2(
            name=name,
            variant="paper",
            paper=_PAPER,
            input_shape=(224, 224, 3),
            classes=1000,
            depths=depths,
            halving="first",
            pool="centred",
            convention=TORCH_CONVENTION,
        ),
    )


ROWS: tuple[ResNetV2, ...] = tuple(row for name, depths in _DEPTHS.items() for row in _rows(name, depths))
