"""Xception. Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", arXiv:1610.02357, figure 5."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from glimpse.models.families import creation
from glimpse.models.layouts import KERAS, TORCH, Layout, renaming
from glimpse.models.spec import TENSORFLOW, Architecture, Convention, Stage
from glimpse.models.spec import TORCH as TORCH_CONVENTION

if TYPE_CHECKING:
    from keras import KerasTensor

    from glimpse.models.blocks.pooling import Border
    from glimpse.models.blocks.separable import Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Xception(Architecture):
    """Entry flow (group1), middle flow (group2) and exit flow (group3).

    The handbook's variant departs from the paper: ReLU follows the separable convolutions instead of standing before
    them, convolutions have biases, and the exit flow's third separable convolution has 1556 channels where paper and
    checkpoints have 1536. Its printed 22,999,464 parameters are those of 1556 (1536 would give 22,937,744), so text
    and code agree with one another and 1556 is built.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("exit_width", "middle")

    middle: int = 8  # blocks of the middle flow
    preactivation: bool = True  # ReLU before each separable convolution of a block instead of behind it
    exit_width: int = 1536  # channels of the exit flow's third separable convolution
    border: Border = "same"  # of max pooling
    convention: Convention

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import conv_bn
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.separable import separable_bn, xception_block

        convention = self.convention
        x = conv_bn(x, 32, kernel=3, stride=2, padding="valid", convention=convention, name="stem_a")
        x = conv_bn(x, 64, kernel=3, padding="valid", convention=convention, name="stem_b")
        yield Stage("stem", "conv3x3", 2), x

        usual: Where = "before" if self.preactivation else "after"
        for block, width in enumerate((128, 256, 728), start=1):
            # The stem ends with a ReLU: a second one would change nothing.
            first: Where = "nowhere" if block == 1 and self.preactivation else usual
            x = xception_block(
                x,
                (width, width),
                (first, usual),
                stride=2,
                border=self.border,
                convention=convention,
                name=f"group1_block{block}",
            )
        yield Stage("group1", "xception_entry", 3), x
        for block in range(1, self.middle + 1):
            x = xception_block(x, (728,) * 3, (usual,) * 3, convention=convention, name=f"group2_block{block}")
        yield Stage("group2", "xception_middle", self.middle), x
        x = xception_block(
            x,
            (728, 1024),
            ("before" if self.preactivation else "nowhere", usual),
            stride=2,
            border=self.border,
            convention=convention,
            name="group3_block1",
        )
        x = separable_bn(x, self.exit_width, convention=convention, name="group3_sep1")
        x = separable_bn(x, 2048, convention=convention, name="group3_sep2")
        yield Stage("group3", "xception_exit"), x
        yield Stage("classifier", "global_average_pooling+dense"), pooled_classifier(x, classes, name="classifier")

    def layouts(self) -> Mapping[str, Layout]:
        """Checkpoints of Keras, also by the names that the published file has from Keras 1, and of timm; handbook's."""
        if not self.preactivation:
            return {creation.NAME: creation.layout(separable=True)}
        return _LAYOUTS if self.middle == 8 else {}


# How many blocks come before a group's first where the stem's is the first of all: Keras' numbers.
_BEFORE = {"1": 1, "2": 4, "3": 12}


def _number(match: re.Match[str]) -> int:
    return _BEFORE[match[1]] + int(match[2])


def _projection(match: re.Match[str]) -> int:
    return 4 if match[1] == "3" else int(match[2])


_KERAS_RULES = (
    (r"stem_([ab])_(conv|bn)", lambda match: f"block1_conv{_letter(match)}{'_bn' * (match[2] == 'bn')}"),
    (r"group(\d)_block(\d)_sep(\d)_bn", lambda match: f"block{_number(match)}_sepconv{match[3]}_bn"),
    (r"group(\d)_block(\d)_sep(\d)_(?:conv|depthwise)", lambda match: f"block{_number(match)}_sepconv{match[3]}"),
    (r"group3_sep(\d)_bn", r"block14_sepconv\1_bn"),
    (r"group3_sep(\d)_(?:conv|depthwise)", r"block14_sepconv\1"),
    (r"group(\d)_block(\d)_projection_conv", lambda match: f"conv2d_{_projection(match)}"),
    (r"group(\d)_block(\d)_projection_bn", lambda match: f"batch_normalization_{_projection(match)}"),
    (r"classifier_logits", "predictions"),
)


def _letter(match: re.Match[str]) -> int:
    return "ab".index(match[1]) + 1


def _keras1_norm(match: re.Match[str]) -> str:
    """Three to a block, the projection's first where there is one, so a block's first has the number 3 (block - 1)."""
    block, separable = _number(match), int(match[3] or 0)
    middle = block > 4
    return f"batchnormalization_{3 * (block - 1) + separable - (middle and block < 13)}"


def _keras1_separable(match: re.Match[str]) -> str:
    block, separable = _number(match), int(match[3])
    before = 2 * (block - 2) if block < 5 else 6 + 3 * (block - 5)
    return f"separableconvolution2d_{before + separable}"


_KERAS1_RULES = (
    (r"stem_([ab])_conv", lambda match: f"convolution2d_{_letter(match)}"),
    (r"stem_([ab])_bn", lambda match: f"batchnormalization_{_letter(match)}"),
    (r"group(\d)_block(\d)_(?:projection|sep(\d))_bn", _keras1_norm),
    (r"group(\d)_block(\d)_projection_conv", lambda match: f"convolution2d_{_projection(match) + 2}"),
    (r"group(\d)_block(\d)_sep(\d)_(?:conv|depthwise)", _keras1_separable),
    (r"group3_sep(\d)_bn", lambda match: f"batchnormalization_{int(match[1]) + 38}"),
    (r"group3_sep(\d)_(?:conv|depthwise)", lambda match: f"separableconvolution2d_{int(match[1]) + 32}"),
    (r"classifier_logits", "dense_1"),
)


def _timm_separable(match: re.Match[str]) -> str:
    """`rep` lists ReLU, separable convolution and batch norm in turn; the first block begins without the ReLU."""
    block = _number(match) - 1
    place = 3 * (int(match[3]) - 1) + (block > 1)
    inner = {"bn": f"{place + 1}", "depthwise": f"{place}.conv1", "conv": f"{place}.pointwise"}
    return f"block{block}.rep.{inner[match[4]]}"


_TIMM_RULES = (
    (r"stem_([ab])_(conv|bn)", lambda match: f"{match[2]}{_letter(match)}"),
    (r"group(\d)_block(\d)_sep(\d)_(conv|depthwise|bn)", _timm_separable),
    (r"group(\d)_block(\d)_projection_conv", lambda match: f"block{_number(match) - 1}.skip"),
    (r"group(\d)_block(\d)_projection_bn", lambda match: f"block{_number(match) - 1}.skipbn"),
    (r"group3_sep(\d)_depthwise", lambda match: f"conv{int(match[1]) + 2}.conv1"),
    (r"group3_sep(\d)_conv", lambda match: f"conv{int(match[1]) + 2}.pointwise"),
    (r"group3_sep(\d)_bn", lambda match: f"bn{int(match[1]) + 2}"),
    (r"classifier_logits", "fc"),
)

_LAYOUTS = {
    # Its four projections have no names of their own.
    "keras": Layout(naming=KERAS, rename=renaming(*_KERAS_RULES), recounted=("conv2d", "batch_normalization")),
    "keras_1": Layout(naming=KERAS, rename=renaming(*_KERAS1_RULES), recounted=("dense",)),
    "timm": Layout(naming=TORCH, rename=renaming(*_TIMM_RULES)),
}

_PAPER = "Chollet, arXiv:1610.02357, figure 5"

ROWS: tuple[Xception, ...] = (
    Xception(
        name="xception",
        variant="keras",
        paper=_PAPER,
        input_shape=(299, 299, 3),
        classes=1000,
        convention=TENSORFLOW,
    ),
    Xception(
        name="xception",
        variant="timm",
        paper=_PAPER,
        input_shape=(299, 299, 3),
        classes=1000,
        border="centred",
        convention=TORCH_CONVENTION,
    ),
    Xception(
        name="xception",
        variant="handbook",
        paper=f"the handbook's code, after {_PAPER}",
        input_shape=(299, 299, 3),
        classes=1000,
        preactivation=False,
        exit_width=1556,
        convention=Convention(bias=True, initializer="glorot_uniform"),
    ),
)
