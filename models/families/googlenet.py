"""GoogLeNet, Inception v1, and SE-Inception, which recalibrates the output of each of its modules.

Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842, table 1.
Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507, figure 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from glimpse.models.inception_spec import Chain, Conv, Pool, v1
from glimpse.models.layouts import TORCH, Layout, renaming
from glimpse.models.spec import Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor

_Widths = tuple[int, tuple[int, int], tuple[int, int], int]  # 1x1, 3x3 with reduction, 5x5 with reduction, pool

# The paper's nine modules. The handbook speaks of "seven inception blocks in five groups" and then of nine, and puts
# the auxiliary classifiers on the fourth and the seventh; these are the paper's, on 4a and 4d, the third and the sixth.
_GROUPS: tuple[dict[str, _Widths], ...] = (
    {"3a": (64, (96, 128), (16, 32), 32), "3b": (128, (128, 192), (32, 96), 64)},
    {"4a": (192, (96, 208), (16, 48), 64)},
    {
        "4b": (160, (112, 224), (24, 64), 64),
        "4c": (128, (128, 256), (24, 64), 64),
        "4d": (112, (144, 288), (32, 64), 64),
    },
    {"4e": (256, (160, 320), (32, 128), 128)},
    {"5a": (256, (160, 320), (32, 128), 128), "5b": (384, (192, 384), (48, 128), 128)},
)
_POOLED = {2: 3, 5: 2}  # before these groups a max pool halves the resolution: side of its window
_AUXILIARY = {2: "auxiliary1", 3: "auxiliary2"}  # behind these groups


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogLeNet(Architecture):
    """A stem, nine inception modules in five groups, and up to three classifiers."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("auxiliary", "dropout", "se_ratio")

    convention: Convention
    large: int  # side of the kernels in the modules' 5x5 branch
    border: Literal["same", "ceil"]  # of the max pools between the groups
    adaptive: bool  # the auxiliary classifiers pool 4x4 regions instead of 5x5 windows
    dropout: float  # before the classifier
    auxiliary: bool = False  # two more classifiers, whose losses help to train the layers below them
    se_ratio: int | None = None  # squeeze: hidden units are channels / ratio; None: no SE block

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the auxiliary classifiers' are logits of their own."""
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.inception import chain, dense_auxiliary, group
        from glimpse.models.blocks.pooling import max_pool

        pool = Pool("max", 2, border=self.border)
        stem: Chain = (Conv(64, 7, 2), pool, Conv(64), Conv(192, 3), pool)
        x = chain(x, stem, convention=self.convention, name="stem")
        yield Stage("stem", "conv7x7+conv3x3"), x
        block = "inception_v1" if self.se_ratio is None else "se_inception_v1"
        for number, modules in enumerate(_GROUPS, start=1):
            if size := _POOLED.get(number):
                x = max_pool(x, size=size, border=self.border, name=f"group{number}_pool")
            tables = (v1(*widths, large=self.large) for widths in modules.values())
            x = group(x, tables, se_ratio=self.se_ratio, convention=self.convention, name=f"group{number}")
            yield Stage(f"group{number}", block, len(modules)), x
            if self.auxiliary and (name := _AUXILIARY.get(number)):
                logits = dense_auxiliary(x, classes, adaptive=self.adaptive, convention=self.convention, name=name)
                yield Stage(name, "pooling+conv1x1+dense+dense", auxiliary=True), logits
        yield (
            Stage("classifier", "global_average_pooling+dense"),
            pooled_classifier(x, classes, dropout=self.dropout, name="classifier"),
        )

    def served(self) -> GoogLeNet:
        """The network without auxiliary classifiers."""
        return replace(self, auxiliary=False)

    def layouts(self) -> Mapping[str, Layout]:
        """torchvision's; its file holds the auxiliary classifiers, which serving has no use for."""
        rename = renaming(
            (r"stem_(\d)_(conv|bn)", lambda match: f"conv{_STEM[match[1]]}.{match[2]}"),
            (r"group(\d)_block(\d)_(1x1|3x3|5x5|pool)(?:_(\d))?_(conv|bn)", _torchvision),
            (r"auxiliary(\d)_(conv|bn)", r"aux\1.conv.\2"),
            (r"auxiliary(\d)_hidden", r"aux\1.fc1"),
            (r"auxiliary(\d)_logits", r"aux\1.fc2"),
            (r"classifier_logits", "fc"),
        )
        return {"torchvision": Layout(naming=TORCH, rename=rename, unused=() if self.auxiliary else (r"aux\d\..*",))}


_STEM = {"1": 1, "3": 2, "4": 3}  # torchvision counts convolutions, our chains count pools, too
_BRANCHES = {"1x1": 1, "3x3": 2, "5x5": 3, "pool": 4}


def _torchvision(match: re.Match[str]) -> str:
    """group1_block2_3x3_1_conv -> inception3b.branch2.0.conv."""
    group, block, branch, step, layer = match.groups()
    module = list(_GROUPS[int(group) - 1])[int(block) - 1]
    place = f"branch{_BRANCHES[branch]}" + (f".{int(step) - 1}" if step else "")
    return f"inception{module}.{place}.{layer}"


_PAPER = "Szegedy et al., arXiv:1409.4842, table 1"

_FROM_PAPER = GoogLeNet(
    name="googlenet",
    variant="paper",
    # Without the paper's two local response normalisations: Simonyan and Zisserman (arXiv:1409.1556, section 4.1)
    # found them to gain nothing, and Keras has none. The handbook gives code for a module of this network only.
    paper=f"{_PAPER}, without local response normalisation",
    input_shape=(224, 224, 3),
    classes=1000,
    convention=Convention(batch_norm=False),
    large=5,
    border="same",
    adaptive=False,
    dropout=0.4,
)

ROWS: tuple[GoogLeNet, ...] = (
    GoogLeNet(
        name="googlenet",
        variant="torchvision",
        paper=f"{_PAPER}; batch normalisation of Ioffe and Szegedy, arXiv:1502.03167",
        input_shape=(224, 224, 3),
        classes=1000,
        convention=Convention(padding="symmetric"),
        # As TensorFlow's, whose weights these are, although the branch is called 5x5.
        large=3,
        border="ceil",
        adaptive=True,
        dropout=0.2,
    ),
    _FROM_PAPER,
    replace(
        _FROM_PAPER,
        name="se_inception",
        paper=f"Hu et al., arXiv:1709.01507, figure 2, on the network of {_PAPER}",
        se_ratio=16,
    ),
)
