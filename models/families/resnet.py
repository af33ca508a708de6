"""Residual networks: any row of them, with squeeze-and-excitation on every unit where the row asks for it.

He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385; section 4.2 for the CIFAR form.
Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", arXiv:1611.05431 (rows in resnext.py).
Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507 (rows in senet.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from glimpse.models.families.residual_layouts import LAYOUTS, Publisher, handbook_resnext
from glimpse.models.spec import TENSORFLOW, TORCH, Activated, Activation, Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor

    from glimpse.models.blocks.pooling import Border
    from glimpse.models.layouts import Layout

Shortcut = Literal["shape", "forced"]
StrideOn = Literal["1x1", "3x3"]
Transition = Literal["unit", "conv", "pair", "strided_pair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNet(Architecture):
    """A stem, groups of residual units of one width each, and a dense layer on the mean over positions."""

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "activated",
        "activation",
        "batch_norm",
        "cardinality",
        "depths",
        "dropout",
        "factorized",
        "projection",
        "se_ratio",
        "stride_on",
        "transition",
        "widths",
    )

    depths: tuple[int, ...]  # units in each group
    widths: tuple[int, ...]  # channels that each group puts out
    stem: tuple[int, ...] = (64,)  # channels of its convolutions: one 7x7 or three 3x3, the first with stride 2
    pool: Border | None = "symmetric"  # border of the stem's max pooling; None: for small images, one 3x3 and no stride
    unit: Literal["basic", "bottleneck"] = "basic"
    divisors: tuple[int, int] = (4, 4)  # of a group's width: what a bottleneck's first 1x1 and its 3x3 have of it
    cardinality: int = 1  # groups of a bottleneck's 3x3
    projection_kernel: int = 1  # of the shortcuts that take strides
    dropout: float = 0.0  # share of the classifier's inputs that training leaves out
    convention: Convention = TORCH  # except its batch_norm and activation, which are options
    publisher: Publisher | None = None  # whose checkpoints fit

    activated: Activated = "sum"  # what a unit's last activation applies to: the sum, the transform, or each of them
    activation: Activation = "relu"
    batch_norm: bool = True  # behind every convolution
    factorized: bool = False  # the last 1x1 of a bottleneck is split among the groups as its 3x3 is
    projection: Shortcut = "shape"  # of shortcuts: where the shapes differ, or in every unit
    se_ratio: int | None = None  # squeeze: hidden units are channels / ratio; None: no SE block
    stride_on: StrideOn = "3x3"  # which convolution of a bottleneck takes the stride
    # How a group but the first halves the resolution: in its first unit; in front of it by a 1x1 convolution alone; by
    # two 3x3 convolutions without a shortcut, the first with stride 2; or by two that both have it, which quarters it.
    transition: Transition = "unit"

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths):
            raise ValueError(
                f"{self.name}: depths and widths must name the same groups. "
                f"Received: depths={self.depths}, widths={self.widths}"
            )
        choices = {
            "activated": Activated,
            "activation": Activation,
            "projection": Shortcut,
            "stride_on": StrideOn,
            "transition": Transition,
        }
        for option, known in choices.items():
            if (value := getattr(self, option)) not in get_args(known):
                raise ValueError(f"{self.name}: {option} must be one of {get_args(known)}. Received: {value!r}")
        if self.stride_on == "1x1" and self.unit != "bottleneck":
            raise ValueError(f"{self.name} has no 1x1 convolution that could take the stride. Leave stride_on='3x3'.")
        if self.cardinality > 1 and self.unit != "bottleneck":
            raise ValueError(f"{self.name} has no bottlenecks to split into groups. Leave cardinality=1.")
        if any(width // self.divisors[1] % self.cardinality for width in self.widths if self.unit == "bottleneck"):
            raise ValueError(
                f"{self.name}: cardinality must divide the channels of every 3x3 convolution, "
                f"{[width // self.divisors[1] for width in self.widths]}. Received: {self.cardinality}"
            )
        if self.factorized and self.cardinality == 1:
            raise ValueError(f"{self.name} has no groups among which to split a 1x1. Leave factorized=False.")

    @property
    def layers(self) -> int:
        """Weight layers as the papers count them: stem, two or three a unit, classifier; projections do not count."""
        between = 2 * (len(self.depths) - 1) if self.transition.endswith("pair") else 0
        return len(self.stem) + (2 if self.unit == "basic" else 3) * sum(self.depths) + between + 1

    @property
    def block(self) -> str:
        """What the units are called in a description."""
        kind = "factorized_" if self.factorized else "grouped_" if self.cardinality > 1 else ""
        return f"{'' if self.se_ratio is None else 'se_'}{kind}{self.unit}"

    def layouts(self) -> Mapping[str, Layout]:
        """The names of the publisher whose checkpoints fit."""
        if self.publisher == "handbook" and self.cardinality > 1:
            return handbook_resnext(self.cardinality, factorized=self.factorized)
        return LAYOUTS[self.publisher] if self.publisher else {}

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.head import pooled_classifier

        convention = replace(self.convention, batch_norm=self.batch_norm, activation=self.activation)
        kernels = "conv3x3" if self.pool is None else "conv7x7" if len(self.stem) == 1 else "3*conv3x3"
        x = self._stem(x, convention)
        yield Stage("stem", kernels if self.pool is None else f"{kernels}+max_pooling"), x
        for group, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
            halve = group > 1
            if halve and self.transition != "unit":
                x = self._between(x, width, convention, f"group{group}_transition")
                halve = False
            for unit in range(1, depth + 1):
                stride = 2 if halve and unit == 1 else 1
                x = self._unit(x, width, stride, convention, f"group{group}_block{unit}")
            yield Stage(f"group{group}", self.block, depth), x
        logits = pooled_classifier(x, classes, dropout=self.dropout, name="classifier")
        yield Stage("classifier", "global_average_pooling+dense"), logits

    def _stem(self, x: KerasTensor, convention: Convention) -> KerasTensor:
        from glimpse.models.blocks.convolution import conv_bn
        from glimpse.models.blocks.pooling import max_pool

        if self.pool is None:
            return conv_bn(x, self.stem[0], kernel=3, convention=convention, name="stem")
        if len(self.stem) == 1:
            x = conv_bn(x, self.stem[0], kernel=7, stride=2, convention=convention, name="stem")
        else:
            for part, width, stride in zip("abc", self.stem, (2, 1, 1), strict=True):
                x = conv_bn(x, width, kernel=3, stride=stride, convention=convention, name=f"stem_{part}")
        return max_pool(x, border=self.pool, name="stem_pool")

    def _between(self, x: KerasTensor, width: int, convention: Convention, name: str) -> KerasTensor:
        from glimpse.models.blocks.convolution import conv_bn

        if self.transition == "conv":
            alone = replace(convention, batch_norm=False)
            return conv_bn(x, width, kernel=1, stride=2, activation=False, convention=alone, name=name)
        x = conv_bn(x, width, kernel=3, stride=2, convention=convention, name=f"{name}_a")
        stride = 2 if self.transition == "strided_pair" else 1
        return conv_bn(x, width, kernel=3, stride=stride, convention=convention, name=f"{name}_b")

    def _unit(self, x: KerasTensor, width: int, stride: int, convention: Convention, name: str) -> KerasTensor:
        from glimpse.models.blocks.residual import Projection, basic_block, bottleneck_block

        common: dict[str, Any] = {
            "se_ratio": self.se_ratio,
            "activated": self.activated,
            "projection": Projection(forced=self.projection == "forced", kernel=self.projection_kernel),
            "convention": convention,
            "name": name,
        }
        if self.unit == "basic":
            return basic_block(x, width, stride=stride, **common)
        return bottleneck_block(
            x,
            width,
            widths=(width // self.divisors[0], width // self.divisors[1]),
            strides=(stride, 1) if self.stride_on == "1x1" else (1, stride),
            groups=self.cardinality,
            factorized=self.factorized,
            **common,
        )


_HE = "He et al., arXiv:1512.03385"
_CIFAR = f"{_HE}, section 4.2"
_HU = f"Hu et al., arXiv:1709.01507, on the CIFAR network of {_HE}, section 4.2"

_RESNET20 = ResNet(
    name="resnet20",
    variant="cifar",
    paper=_CIFAR,
    input_shape=(32, 32, 3),
    classes=10,
    depths=(3, 3, 3),
    widths=(16, 32, 64),
    stem=(16,),
    pool=None,
    convention=TENSORFLOW,
)
_SE_RESNET20 = replace(
    _RESNET20,
    name="se_resnet20",
    paper=_HU,
    # The papers' 16 would leave one hidden unit for 16 channels; 8 leaves two.
    se_ratio=8,
)

RESNET34 = ResNet(
    name="resnet34",
    variant="torchvision",
    paper=_HE,
    input_shape=(224, 224, 3),
    classes=1000,
    depths=(3, 4, 6, 3),
    widths=(64, 128, 256, 512),
    publisher="torchvision",
)
# torchvision's bottlenecks take the stride in the 3x3 ("ResNet v1.5").
RESNET50 = replace(RESNET34, name="resnet50", widths=(256, 512, 1024, 2048), unit="bottleneck")
# Keras Applications take it in the 1x1 as the paper does, and give every convolution a bias.
KERAS_RESNET50 = replace(
    RESNET50,
    variant="keras",
    stride_on="1x1",
    convention=Convention(bias=True, epsilon=1.001e-5, padding="symmetric"),
    publisher="keras",
)
# The book's network: Keras' default epsilon and borders. Its printed code has 10 classes.
GERON_RESNET34 = replace(
    RESNET34,
    variant="geron",
    paper=f"{_HE}, as in Geron, Hands-On Machine Learning, chapter 14",
    pool="same",
    convention=Convention(initializer="glorot_uniform"),
    publisher="geron",
)
# Keras Applications' network but for the epsilon, which is Keras' default.
HANDBOOK_RESNET50 = replace(
    KERAS_RESNET50,
    variant="handbook",
    paper=f"{_HE}, as in the Keras handbook of CNN architectures",
    convention=Convention(bias=True, padding="symmetric", initializer="glorot_uniform"),
    publisher="handbook",
)
# Text and code disagree. The text wants a convolutional block between groups that reduces the maps by 75%; in the
# code, which the published parameter counts and shapes are of and which is built here, both of its convolutions have
# stride 2, so that the groups see maps of 56, 14, 4 and 1 pixels a side; transition="pair" builds what the text says,
# 56, 28, 14 and 7, with the same weights. Such a block has no shortcut over it, nothing is normalised, and each unit
# is activated before the addition and not behind it. One unit of the first group is left out against the paper, so
# that the network called 34 has 32 layers.
_HANDBOOK_RESNET34 = replace(
    GERON_RESNET34,
    variant="handbook",
    paper=f"{_HE}, as in the Keras handbook of CNN architectures",
    depths=(2, 3, 5, 2),
    activated="transform",
    transition="strided_pair",
    batch_norm=False,
    publisher="handbook",
)

ROWS: tuple[ResNet, ...] = (
    _RESNET20,
    _SE_RESNET20,
    replace(
        _SE_RESNET20,
        variant="cifar_wide",
        paper=f"{_HU}; widened as in Zagoruyko and Komodakis, arXiv:1605.07146",
        # Wide where the images are small already: three times the parameters for 1.6 times the time of a training step.
        widths=(16, 64, 112),
    ),
    replace(RESNET34, name="resnet18", depths=(2, 2, 2, 2)),
    RESNET34,
    GERON_RESNET34,
    _HANDBOOK_RESNET34,
    KERAS_RESNET50,
    RESNET50,
    HANDBOOK_RESNET50,
    replace(KERAS_RESNET50, name="resnet101", depths=(3, 4, 23, 3)),
    replace(RESNET50, name="resnet101", depths=(3, 4, 23, 3)),
    replace(KERAS_RESNET50, name="resnet152", depths=(3, 8, 36, 3)),
    replace(RESNET50, name="resnet152", depths=(3, 8, 36, 3)),
)
