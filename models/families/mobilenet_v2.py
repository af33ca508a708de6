"""MobileNetV2. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381; table 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from glimpse.models.layouts import KERAS, TORCH, Layout, renaming
from glimpse.models.spec import Architecture, Convention, Stage
from glimpse.models.widths import eighths

if TYPE_CHECKING:
    from keras import KerasTensor

# (expansion, channels, blocks, stride of the first block)
_GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNetV2(Architecture):
    """Inverted residuals: wide inside, where the convolutions are depthwise, and narrow between, without ReLU."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("alpha", "dropout")

    alpha: float = 1.0  # width multiplier; the last convolution is only ever widened
    dropout: float = 0.2  # part of the averaged maps that training drops before the classifier
    convention: Convention

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive. Received: {self.alpha}")

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import conv_bn
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.inverted_residual import inverted_residual

        x = conv_bn(x, eighths(32 * self.alpha), kernel=3, stride=2, convention=self.convention, name="stem")
        yield Stage("stem", "conv3x3"), x
        for group, (expansion, width, blocks, stride) in enumerate(_GROUPS, start=1):
            for block in range(1, blocks + 1):
                step, name = stride if block == 1 else 1, f"group{group}_block{block}"
                x = inverted_residual(
                    x,
                    eighths(width * self.alpha),
                    expansion=expansion,
                    stride=step,
                    convention=self.convention,
                    name=name,
                )
            yield Stage(f"group{group}", "inverted_residual", blocks), x
        x = conv_bn(x, eighths(1280 * max(self.alpha, 1.0)), kernel=1, convention=self.convention, name="group8")
        yield Stage("group8", "conv1x1"), x
        logits = pooled_classifier(x, classes, dropout=self.dropout, name="classifier")
        yield Stage("classifier", "global_average_pooling+dense"), logits

    def layouts(self) -> Mapping[str, Layout]:
        """Checkpoints of Keras and torchvision."""
        return _LAYOUTS


_BLOCK = r"group(\d)_block(\d)_(expand|dw|project)_(conv|depthwise|bn)"
_BEFORE = (0, *accumulate(blocks for _, _, blocks, _ in _GROUPS))  # so many blocks are before those of a group
_KERAS_ENDS = {"stem_conv": "Conv1", "stem_bn": "bn_Conv1", "group8_conv": "Conv_1", "group8_bn": "Conv_1_bn"}


def _keras_block(match: re.Match[str]) -> str:
    block = f"block_{number}" if (number := _BEFORE[int(match[1]) - 1] + int(match[2]) - 1) else "expanded_conv"
    return f"{block}_{match[3].replace('dw', 'depthwise')}{'_BN' * (match[4] == 'bn')}"


def _torch_block(match: re.Match[str]) -> str:
    norm, number = match[4] == "bn", _BEFORE[int(match[1]) - 1] + int(match[2])
    place = ("expand", "dw", "project").index(match[3]) - (match[1] == "1")  # nothing is expanded there
    return f"features.{number}.conv.{place + norm if match[3] == 'project' else f'{place}.{norm:d}'}"


def _keras(classifier: str) -> Layout:
    ends = (r"(?:stem|group8)_(?:conv|bn)", lambda match: _KERAS_ENDS[match[0]])
    return Layout(naming=KERAS, rename=renaming(ends, (_BLOCK, _keras_block), ("classifier_logits", classifier)))


_TORCH_ENDS = (r"(stem|group8)_(conv|bn)", lambda m: f"features.{18 * (m[1] == 'group8')}.{int(m[2] == 'bn')}")
_LAYOUTS = {
    "keras": _keras("predictions"),
    "keras_2018": _keras("Logits"),  # as the library called it when the files were saved that it still publishes
    "torchvision": Layout(
        naming=TORCH, rename=renaming(_TORCH_ENDS, (_BLOCK, _torch_block), ("classifier_logits", "classifier.1"))
    ),
}

ROWS: tuple[MobileNetV2, ...] = tuple(
    MobileNetV2(
        name="mobilenet_v2",
        variant=variant,
        paper="Sandler et al., arXiv:1801.04381, table 2",
        input_shape=(224, 224, 3),
        classes=1000,
        convention=convention,
    )
    for variant, convention in (
        ("keras", Convention(activation="relu6")),
        ("torchvision", Convention(activation="relu6", epsilon=1e-5, padding="symmetric")),
    )
)
