"""Residual networks, with squeeze-and-excitation on every unit where the row asks for it.

He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385; section 4.2 for the CIFAR form.
Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.spec import Architecture, Stage

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNet(Architecture):
    """A residual network of basic (two 3x3) units behind a single 3x3 stem, the form for small images."""

    depths: tuple[int, ...]  # units in each group
    widths: tuple[int, ...]  # channels of each group; the stem has the first group's
    se_ratio: int | None = None  # squeeze: hidden units are channels / ratio; None: no SE block

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths):
            raise ValueError(
                f"{self.name}: depths and widths must name the same groups. "
                f"Received: depths={self.depths}, widths={self.widths}"
            )

    @property
    def layers(self) -> int:
        """Weight layers as the papers count them: stem, two a unit, classifier; projections are not counted."""
        return 2 * sum(self.depths) + 2

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from models.blocks.convolution import conv_bn
        from models.blocks.head import pooled_classifier
        from models.blocks.residual import basic_block

        x = conv_bn(x, self.widths[0], kernel=3, activation="relu", name="stem")
        yield Stage("stem", "conv3x3"), x
        block = "basic" if self.se_ratio is None else "se_basic"
        for group, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
            for unit in range(1, depth + 1):
                x = basic_block(
                    x,
                    width,
                    # Every group but the first halves the resolution in its first unit.
                    stride=2 if group > 1 and unit == 1 else 1,
                    se_ratio=self.se_ratio,
                    name=f"group{group}_block{unit}",
                )
            yield Stage(f"group{group}", block, depth), x
        yield Stage("classifier", "global_average_pooling+dense"), pooled_classifier(x, classes, name="classifier")


_HE = "He et al., arXiv:1512.03385, section 4.2"
_HU = "Hu et al., arXiv:1709.01507, on the CIFAR network of He et al., arXiv:1512.03385, section 4.2"

ROWS: tuple[ResNet, ...] = (
    ResNet(
        name="resnet20",
        variant="cifar",
        paper=_HE,
        input_shape=(32, 32, 3),
        classes=10,
        depths=(3, 3, 3),
        widths=(16, 32, 64),
    ),
    ResNet(
        name="se_resnet20",
        variant="cifar",
        paper=_HU,
        input_shape=(32, 32, 3),
        classes=10,
        depths=(3, 3, 3),
        widths=(16, 32, 64),
        # The papers' 16 would leave one hidden unit for 16 channels; 8 leaves two.
        se_ratio=8,
    ),
)
