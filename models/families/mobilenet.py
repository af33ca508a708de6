"""MobileNet, the first. Howard et al., arXiv:1704.04861; table 1 for the layers, section 3 for the multipliers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from glimpse.models.families import creation
from glimpse.models.layouts import KERAS, TORCH, Layout, Naming, renaming
from glimpse.models.spec import Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor

_STEM_WIDTH = 32
# (stage, channels, blocks): every group but the stem halves the resolution in its first block.
_GROUPS = (("stem", 64, 1), ("group1", 128, 2), ("group2", 256, 2), ("group3", 512, 6), ("group4", 1024, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNet(Architecture):
    """A convolution and thirteen depthwise separable ones, thinned by a width and a resolution multiplier.

    The handbook's variant has ReLU where the paper's implementation has ReLU6, biases in all convolutions, and drops
    half of the last maps in training. Its text attributes the paper's 64.4% and 186 million multiply-adds to a
    resolution multiplier of 0.25; in the paper they belong to 128x128 images, which is 4/7. `rho` is what the
    definition says, so 0.25 makes 56x56 images.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("alpha", "dropout", "rho")

    alpha: float = 1.0  # width multiplier: part of the channels that every layer keeps
    rho: float = 1.0  # resolution multiplier: part of the input's height and width
    dropout: float = 1e-3  # part of the averaged maps that training drops before the classifier
    stem_padding: Literal["same", "symmetric", "after"] = "same"  # the other layers' is the convention's
    convention: Convention

    def __post_init__(self) -> None:
        if int(_STEM_WIDTH * self.alpha) < 1:
            raise ValueError(
                f"alpha must leave at least one of the stem's {_STEM_WIDTH} channels. Received: {self.alpha}"
            )
        if not 0 < self.rho <= 1:
            raise ValueError(f"rho must be above 0 and at most 1. Received: {self.rho}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The input's with height and width times `rho`, rounded."""
        height, width, channels = self.input_shape
        return max(round(height * self.rho), 1), max(round(width * self.rho), 1), channels

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import conv_bn
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.separable import depthwise_separable

        x = conv_bn(
            x,
            int(_STEM_WIDTH * self.alpha),
            kernel=3,
            stride=2,
            padding=self.stem_padding,
            convention=self.convention,
            name="stem",
        )
        for group, width, blocks in _GROUPS:
            for block in range(1, blocks + 1):
                x = depthwise_separable(
                    x,
                    int(width * self.alpha),
                    stride=2 if block == 1 and group != "stem" else 1,
                    convention=self.convention,
                    name=f"{group}_block{block}",
                )
            if group == "stem":
                yield Stage("stem", "conv3x3+depthwise_separable"), x
            else:
                yield Stage(group, "depthwise_separable", blocks), x
        logits = pooled_classifier(x, classes, dropout=self.dropout, name="classifier")
        yield Stage("classifier", "global_average_pooling+dense"), logits

    def layouts(self) -> Mapping[str, Layout]:
        """Checkpoints of Keras and of timm, TensorFlow's as TFLite files, and those of the handbook's program."""
        program = {creation.NAME: creation.layout(classifier="conv2d")} if self.variant == "handbook" else {}
        return {**program, **_LAYOUTS}


def _number(match: re.Match[str]) -> int:
    """Which of the thirteen blocks it is, from 1, of a match whose first two groups are its group and block."""
    before = 0
    for group, _, blocks in _GROUPS:
        if group == match[1]:
            break
        before += blocks
    return before + int(match[2])


_BLOCK = r"(stem|group\d)_block(\d)_"


def _timm_block(match: re.Match[str]) -> str:
    group = 0 if match[1] == "stem" else int(match[1].removeprefix("group"))
    layer = {"dw_depthwise": "conv_dw", "dw_bn": "bn1", "pw_conv": "conv_pw", "pw_bn": "bn2"}[match[3]]
    return f"blocks.{group}.{int(match[2]) - 1}.{layer}"


# The file was written by TensorFlow 1: a variable has the name of its scope, a bias into which batch norm was folded
# that of the operation, where the scope comes twice.
_TFLITE = Naming(
    order="OHWI",
    suffixes={
        "kernel": ("/weights",),
        "depthwise": ("/depthwise_weights",),
        "bias": ("MobilenetV1/{0}/Conv2D_bias", "MobilenetV1/{0}/depthwise_bias", "/Conv2D_bias"),
    },
)

_LAYOUTS = {
    "keras": Layout(
        naming=KERAS,
        rename=renaming(
            (r"stem_conv", "conv1"),
            (r"stem_bn", "conv1_bn"),
            (_BLOCK + r"(dw|pw)_(?:depthwise|conv)", lambda match: f"conv_{match[3]}_{_number(match)}"),
            (_BLOCK + r"(dw|pw)_bn", lambda match: f"conv_{match[3]}_{_number(match)}_bn"),
            (r"classifier_logits", "conv_preds"),
        ),
    ),
    "timm": Layout(
        naming=TORCH,
        rename=renaming(
            (r"stem_conv", "conv_stem"),
            (r"stem_bn", "bn1"),
            (_BLOCK + r"(dw_depthwise|dw_bn|pw_conv|pw_bn)", _timm_block),
            (r"classifier_logits", "classifier"),
        ),
    ),
    "tflite": Layout(
        naming=_TFLITE,
        rename=renaming(
            (r"stem_conv", "MobilenetV1/Conv2d_0"),
            (_BLOCK + r"dw_depthwise", lambda match: f"MobilenetV1/Conv2d_{_number(match)}_depthwise"),
            (_BLOCK + r"pw_conv", lambda match: f"MobilenetV1/Conv2d_{_number(match)}_pointwise"),
            (r"classifier_logits", "MobilenetV1/Logits/Conv2d_1c_1x1"),
        ),
        background=True,
    ),
}

_PAPER = "Howard et al., arXiv:1704.04861, table 1"

ROWS: tuple[MobileNet, ...] = (
    MobileNet(
        name="mobilenet",
        variant="keras",
        paper=_PAPER,
        input_shape=(224, 224, 3),
        classes=1000,
        convention=Convention(activation="relu6", padding="after"),
    ),
    MobileNet(
        name="mobilenet",
        variant="timm",
        paper=_PAPER,
        input_shape=(224, 224, 3),
        classes=1000,
        dropout=0.0,
        stem_padding="symmetric",
        convention=Convention(activation="relu6", epsilon=1e-5, padding="symmetric"),
    ),
    # As TensorFlow's authors of the paper published it: class 0 is the background.
    MobileNet(
        name="mobilenet",
        variant="tensorflow",
        paper=_PAPER,
        input_shape=(224, 224, 3),
        classes=1001,
        convention=Convention(activation="relu6"),
    ),
    MobileNet(
        name="mobilenet",
        variant="handbook",
        paper=f"the handbook's code, after {_PAPER}",
        input_shape=(224, 224, 3),
        classes=1000,
        dropout=0.5,
        stem_padding="after",
        convention=Convention(bias=True, padding="after", initializer="glorot_uniform"),
    ),
)
