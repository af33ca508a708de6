"""BN-Inception, Inception v2: GoogLeNet with batch normalisation and two 3x3 convolutions for each 5x5.

Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
arXiv:1502.03167, figure 5.
Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507, table 2 (SE-BN-Inception).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from glimpse.models.inception_spec import Chain, Conv, Parallel, Pool, v2
from glimpse.models.spec import TENSORFLOW, Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor


def _reduction(three: tuple[int, int], double: tuple[int, int]) -> Parallel:
    """A module that halves the resolution; its pool passes all channels on."""
    return {
        "3x3": (Conv(three[0]), Conv(three[1], 3, 2)),
        "double3x3": (Conv(double[0]), Conv(double[1], 3), Conv(double[1], 3, 2)),
        "pool": (Pool("max", 2),),
    }


# The paper's modules 3a to 5b. A reduction ends the group whose maps it sees, as in the paper's names 3c and 4e.
_GROUPS: tuple[tuple[Parallel, ...], ...] = (
    (
        v2(64, (64, 64), (64, 96), 32, pooling="average"),
        v2(64, (64, 96), (64, 96), 64, pooling="average"),
        _reduction((128, 160), (64, 96)),
    ),
    (
        v2(224, (64, 96), (96, 128), 128, pooling="average"),
        v2(192, (96, 128), (96, 128), 128, pooling="average"),
        # 96 filters behind the pools of these two make the 576 channels that the paper's table states.
        v2(160, (128, 160), (128, 160), 96, pooling="average"),
        v2(96, (128, 192), (160, 192), 96, pooling="average"),
        _reduction((128, 192), (192, 256)),
    ),
    (
        v2(352, (192, 320), (160, 224), 128, pooling="average"),
        v2(352, (192, 320), (192, 224), 128, pooling="max"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InceptionV2(Architecture):
    """A stem, ten inception modules in three groups, and a classifier."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("se_ratio",)

    convention: Convention = TENSORFLOW
    # The first layer convolves every colour with so many 7x7 kernels of its own before a 1x1 convolution mixes them.
    stem_multiplier: int = 8
    se_ratio: int | None = None  # squeeze: hidden units are channels / ratio; None: no SE block

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.inception import chain, group, multiplied

        x = multiplied(x, kernel=7, stride=2, multiplier=self.stem_multiplier, name="stem")
        stem: Chain = (Conv(64), Pool("max", 2), Conv(64), Conv(192, 3), Pool("max", 2))
        x = chain(x, stem, convention=self.convention, name="stem")
        yield Stage("stem", "separable7x7+conv3x3"), x
        block = "inception_v2" if self.se_ratio is None else "se_inception_v2"
        for number, modules in enumerate(_GROUPS, start=1):
            x = group(x, modules, se_ratio=self.se_ratio, convention=self.convention, name=f"group{number}")
            yield Stage(f"group{number}", block, len(modules)), x
        yield Stage("classifier", "global_average_pooling+dense"), pooled_classifier(x, classes, name="classifier")


_PAPER = "Ioffe and Szegedy, arXiv:1502.03167, figure 5"

_INCEPTION_V2 = InceptionV2(name="inception_v2", variant="paper", paper=_PAPER, input_shape=(224, 224, 3), classes=1000)

ROWS: tuple[InceptionV2, ...] = (
    _INCEPTION_V2,
    replace(
        _INCEPTION_V2,
        name="se_inception_v2",
        paper=f"Hu et al., arXiv:1709.01507, table 2, on the network of {_PAPER}",
        se_ratio=16,
    ),
)
