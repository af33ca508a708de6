"""SqueezeNet: fire modules, late pooling, and a convolution instead of a dense layer for the classes.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", arXiv:1602.07360.
Version 1.1, which its authors published with their code, needs 2.4 times fewer operations: it has a smaller stem and
pools sooner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from glimpse.models.families import creation
from glimpse.models.layouts import TORCH, Layout, Naming, renaming
from glimpse.models.spec import PLAIN, Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor

# Caffe's own names of the layers, as its converter to ONNX writes them: "fire2/squeeze1x1_w_0".
_CAFFE = Naming(order="OIHW", suffixes={"kernel": ("_w_0",), "bias": ("_b_0",)})


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezeNet(Architecture):
    """A SqueezeNet: a stem, fire modules in groups with max pooling between them, a classifying 1x1 convolution."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("bypass", "dropout")

    stem_width: int  # channels of the first convolution
    stem_kernel: int  # its size
    stem_border: Literal["same", "valid"] = "valid"
    pool_border: Literal["ceil", "valid"] = "ceil"  # "ceil": a last, partial window counts
    groups: tuple[tuple[int, ...], ...]  # squeeze channels of every fire module; max pooling before each group
    classifier_border: int = 0  # zeros around the maps before the last convolution
    dropout: float = 0.5  # part of the last maps that training drops
    # Identity links, the paper's simple bypass: fire modules 3, 5, 7 and 9 add their input to their output. It has no
    # weights; the paper measures 2.9 points of top-1 accuracy more.
    bypass: bool = False
    convention: Convention = PLAIN

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import conv_bn
        from glimpse.models.blocks.fire import fire
        from glimpse.models.blocks.pooling import max_pool

        x = conv_bn(
            x,
            self.stem_width,
            kernel=self.stem_kernel,
            stride=2,
            padding=self.stem_border,
            convention=self.convention,
            name="stem",
        )
        yield Stage("stem", f"conv{self.stem_kernel}x{self.stem_kernel}"), x
        number = 2  # The paper counts the stem as the first.
        for group, widths in enumerate(self.groups, start=1):
            x = max_pool(x, border=self.pool_border, name=f"group{group}_pool")
            for width in widths:
                name = f"group{group}_fire{number}"
                x = fire(x, width, bypass=self.bypass, convention=self.convention, name=name)
                number += 1
            yield Stage(f"group{group}", "fire_bypass" if self.bypass else "fire", len(widths)), x
        yield Stage("classifier", "conv1x1+global_average_pooling"), self._classifier(x, classes)

    def _classifier(self, x: KerasTensor, classes: int) -> KerasTensor:
        """mean(relu(conv1x1(x))), as published: no logit is negative."""
        from keras import layers

        from glimpse.models.blocks.convolution import conv_bn

        if self.dropout:
            x = layers.Dropout(self.dropout, name="classifier_dropout")(x)
        if self.classifier_border:
            x = layers.ZeroPadding2D(self.classifier_border, name="classifier_pad")(x)
        x = conv_bn(x, classes, kernel=1, convention=self.convention, name="classifier_logits")
        # float32 under every precision policy: a softmax over rounded logits would not be calibrated.
        return layers.GlobalAveragePooling2D(dtype="float32", name="classifier_pool")(x)

    def layouts(self) -> Mapping[str, Layout]:
        """torchvision, which numbers the layers, and Caffe's names, which the authors gave them; the handbook's."""
        parts = {"squeeze": "squeeze1x1"}
        return {
            **({creation.NAME: creation.layout()} if self.variant == "handbook" else {}),
            "torchvision": Layout(
                naming=TORCH,
                rename=renaming(
                    ("stem_conv", "features.0"),
                    (
                        r"group(\d)_fire(\d)_(\w+)_conv",
                        # The stem and its ReLU are before the first pooling, and one pooling before each group.
                        lambda match: f"features.{int(match[2]) + int(match[1])}.{match[3]}",
                    ),
                    ("classifier_logits_conv", "classifier.1"),
                ),
            ),
            "caffe": Layout(
                naming=_CAFFE,
                rename=renaming(
                    ("stem_conv", "conv1"),
                    (
                        r"group\d_fire(\d)_(\w+)_conv",
                        lambda match: f"fire{match[1]}/{parts.get(match[2], match[2])}",
                    ),
                    ("classifier_logits_conv", "conv10"),
                ),
            ),
        }


_PAPER = "Iandola et al., arXiv:1602.07360, table 1"
_SQUEEZENET1_0 = SqueezeNet(
    name="squeezenet1_0",
    variant="torchvision",
    paper=_PAPER,
    input_shape=(224, 224, 3),
    classes=1000,
    stem_width=96,
    stem_kernel=7,
    groups=((16, 16, 32), (32, 48, 48, 64), (64,)),
)

ROWS: tuple[SqueezeNet, ...] = (
    _SQUEEZENET1_0,
    replace(
        _SQUEEZENET1_0,
        variant="caffe",
        paper=f"{_PAPER}; as the authors' own network description for Caffe has it",
        input_shape=(227, 227, 3),
        # A border around maps for a 1x1 convolution: every logit becomes 169/225 of itself and a little bias. The
        # answers are the same, less certain; the temperature of a calibration would differ.
        classifier_border=1,
    ),
    replace(
        _SQUEEZENET1_0,
        variant="handbook",
        # Its text speaks of two 1x1 filters for every 3x3 one; its code, as the paper, has as many of both.
        paper=f"{_PAPER}; as the handbook builds it, with a padded stem and pooling without partial windows",
        stem_border="same",
        pool_border="valid",
        convention=replace(PLAIN, initializer="glorot_uniform"),
    ),
    SqueezeNet(
        name="squeezenet1_1",
        variant="torchvision",
        paper="Iandola et al., SqueezeNet v1.1, https://github.com/forresti/SqueezeNet",
        input_shape=(224, 224, 3),
        classes=1000,
        stem_width=64,
        stem_kernel=3,
        groups=((16, 16), (32, 32), (48, 48, 64, 64)),
    ),
)
