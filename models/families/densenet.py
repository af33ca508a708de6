"""DenseNet. Huang et al., "Densely Connected Convolutional Networks", arXiv:1608.06993; table 1 for ImageNet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from glimpse.models.families import creation
from glimpse.models.layouts import KERAS, TORCH, Layout, renaming
from glimpse.models.spec import TORCH as TORCH_CONVENTION
from glimpse.models.spec import Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseNet(Architecture):
    """DenseNet-BC: bottlenecks before the 3x3 convolutions, compression between the groups.

    The handbook's variant departs from the paper. Batch norm and ReLU follow the convolutions, none stand before the
    classifier, all convolutions have biases, and the 7x7 stem pads nothing but takes 230x230 images. As printed it
    does not build the network that it describes: `dense_block` loops over a global variable instead of its parameter,
    which gives the last group 24 layers (9,666,984 parameters). Built here is what its text and its printed
    7,946,408 say: groups of 6, 12, 24 and 16.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("compression", "depths", "growth")

    depths: tuple[int, ...]  # dense layers of each group
    growth: int = 32  # channels that each of them adds
    compression: float = 0.5  # part of the channels that is kept between groups; the handbook's `reduce_by`
    stem_width: int = 64  # channels of the stem
    stem_padding: Literal["symmetric", "valid"] = "symmetric"  # of its 7x7 convolution
    preactivation: bool = True  # batch norm and ReLU before each convolution instead of behind it
    convention: Convention

    def __post_init__(self) -> None:
        if not 0 < self.compression <= 1:
            raise ValueError(f"compression must be above 0 and at most 1. Received: {self.compression}")

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import conv_bn, norm_act
        from glimpse.models.blocks.dense_block import dense_layer, transition
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.pooling import max_pool

        x = conv_bn(
            x,
            self.stem_width,
            kernel=7,
            stride=2,
            padding=self.stem_padding,
            convention=self.convention,
            name="stem",
        )
        x = max_pool(x, border="symmetric", name="stem_pool")
        yield Stage("stem", "conv7x7+max_pool"), x
        for group, depth in enumerate(self.depths, start=1):
            if group > 1:
                name = f"transition{group - 1}"
                x = transition(
                    x,
                    compression=self.compression,
                    preactivation=self.preactivation,
                    convention=self.convention,
                    name=name,
                )
                yield Stage(name, "conv1x1+average_pool"), x
            for layer in range(1, depth + 1):
                x = dense_layer(
                    x,
                    self.growth,
                    preactivation=self.preactivation,
                    convention=self.convention,
                    name=f"group{group}_layer{layer}",
                )
            yield Stage(f"group{group}", "dense", depth), x
        if self.preactivation:
            x = norm_act(x, convention=self.convention, name="classifier")
        yield Stage("classifier", "global_average_pooling+dense"), pooled_classifier(x, classes, name="classifier")

    def layouts(self) -> Mapping[str, Layout]:
        """Checkpoints of Keras, with the names of 2018 too, and of torchvision (timm's are the same); handbook's."""
        return _LAYOUTS if self.preactivation else {creation.NAME: creation.layout()}


def _keras_layer(match: re.Match[str]) -> str:
    group, layer, half, kind = match.groups()
    # The first batch norm is the block's 0th layer, the convolutions are its 1st and 2nd.
    position = "ab".index(half) + (kind == "conv")
    return f"conv{int(group) + 1}_block{layer}_{position}_{kind}"


def _keras(*, stem: str, classifier: str) -> Layout:
    return Layout(
        naming=KERAS,
        rename=renaming(
            (r"stem_(conv|bn)", stem),
            (r"group(\d+)_layer(\d+)_([ab])_(conv|bn)", _keras_layer),
            (r"transition(\d+)_(conv|bn)", lambda match: f"pool{int(match[1]) + 1}_{match[2]}"),
            (r"classifier_bn", "bn"),
            (r"classifier_logits", classifier),
        ),
    )


def _torchvision(separator: str) -> Layout:
    kinds = {"conv": "conv", "bn": "norm"}
    return Layout(
        naming=TORCH,
        rename=renaming(
            (r"stem_(conv|bn)", lambda match: f"features.{kinds[match[1]]}0"),
            (
                r"group(\d+)_layer(\d+)_([ab])_(conv|bn)",
                lambda match: (
                    f"features.denseblock{match[1]}.denselayer{match[2]}."
                    f"{kinds[match[4]]}{separator}{'ab'.index(match[3]) + 1}"
                ),
            ),
            (r"transition(\d+)_(conv|bn)", lambda match: f"features.transition{match[1]}.{kinds[match[2]]}"),
            (r"classifier_bn", "features.norm5"),
            (r"classifier_logits", "classifier"),
        ),
    )


_LAYOUTS = {
    "keras": _keras(stem=r"conv1_\1", classifier="predictions"),
    # The library called them this when the files were saved that it still publishes.
    "keras_2018": _keras(stem=r"conv1/\1", classifier="fc1000"),
    "torchvision": _torchvision(""),
    # torchvision's own files are older than its code, too.
    "torchvision_2017": _torchvision("."),
}

_PAPER = "Huang et al., arXiv:1608.06993, table 1"
_DEPTHS = {
    "densenet121": (6, 12, 24, 16),
    "densenet169": (6, 12, 32, 32),
    "densenet201": (6, 12, 48, 32),
}
_PUBLISHERS = {
    "keras": Convention(epsilon=1.001e-5, padding="symmetric"),
    "torchvision": TORCH_CONVENTION,
}

ROWS: tuple[DenseNet, ...] = (
    *(
        DenseNet(
            name=name,
            variant=variant,
            paper=_PAPER,
            input_shape=(224, 224, 3),
            classes=1000,
            depths=depths,
            convention=convention,
        )
        for name, depths in _DEPTHS.items()
        for variant, convention in _PUBLISHERS.items()
    ),
    DenseNet(
        name="densenet121",
        variant="handbook",
        paper=f"the handbook's code, after {_PAPER}",
        input_shape=(230, 230, 3),
        classes=1000,
        depths=_DEPTHS["densenet121"],
        stem_padding="valid",
        preactivation=False,
        convention=Convention(bias=True, initializer="glorot_uniform"),
    ),
)
