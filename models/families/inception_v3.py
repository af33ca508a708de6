"""Inception-v3.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567, table 1 and figures 5 to
7 and 10, with the widths of the network that the authors published.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from glimpse.models.inception_spec import AS_PRINTED, HANDBOOK_V3_STEM, Chain, Conv, Parallel, Pool, StemActivation
from glimpse.models.layouts import KERAS, TORCH, Layout, renaming
from glimpse.models.spec import TENSORFLOW, Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor

_STEM: Chain = (
    Conv(32, 3, 2, "valid"),
    Conv(32, 3, 1, "valid"),
    Conv(64, 3),
    Pool("max", 2, border="valid"),
    Conv(80),
    Conv(192, 3, 1, "valid"),
    Pool("max", 2, border="valid"),
)
_AUXILIARY: Chain = (Pool("average", 3, 5, "valid"), Conv(128), Conv(768, 5, 1, "valid"))


def _a(pool: int) -> Parallel:
    """On 35x35 maps: a 5x5 and two 3x3."""
    return {
        "1x1": (Conv(64),),
        "5x5": (Conv(48), Conv(64, 5)),
        "double3x3": (Conv(64), Conv(96, 3), Conv(96, 3)),
        "pool": (Pool("average"), Conv(pool)),
    }


def _c(width: int) -> Parallel:
    """On 17x17 maps: 7x7 in two factors, and twice."""
    return {
        "1x1": (Conv(192),),
        "7x7": (Conv(width), Conv(width, (1, 7)), Conv(192, (7, 1))),
        "double7x7": (
            Conv(width),
            Conv(width, (7, 1)),
            Conv(width, (1, 7)),
            Conv(width, (7, 1)),
            Conv(192, (1, 7)),
        ),
        "pool": (Pool("average"), Conv(192)),
    }


_FORK: Parallel = {"1x3": (Conv(384, (1, 3)),), "3x1": (Conv(384, (3, 1)),)}

_REDUCTION_B: Parallel = {
    "3x3": (Conv(384, 3, 2, "valid"),),
    "double3x3": (Conv(64), Conv(96, 3), Conv(96, 3, 2, "valid")),
    "pool": (Pool("max", 2, border="valid"),),
}
_REDUCTION_D: Parallel = {
    "3x3": (Conv(192), Conv(320, 3, 2, "valid")),
    "7x7": (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, 3, 2, "valid")),
    "pool": (Pool("max", 2, border="valid"),),
}
# On 8x8 maps: the 3x3 in two factors side by side.
_E: Parallel = {
    "1x1": (Conv(320),),
    "3x3": (Conv(384), _FORK),
    "double3x3": (Conv(448), Conv(384, 3), _FORK),
    "pool": (Pool("average"), Conv(192)),
}
_STAGES: dict[str, tuple[Parallel, ...]] = {
    "group1": (_a(32), _a(64), _a(64)),
    "reduction1": (_REDUCTION_B,),
    "group2": (_c(128), _c(160), _c(160), _c(192)),
    "reduction2": (_REDUCTION_D,),
    "group3": (_E, _E),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InceptionV3(Architecture):
    """A stem, eleven inception modules, two of which halve the resolution, and up to two classifiers."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("auxiliary", "dropout", "se_ratio", "stem", "stem_activation")

    convention: Convention = TENSORFLOW
    average: Literal["same", "symmetric"] = "same"  # whether average pools leave the border out or count its zeros
    dropout: float = 0.0  # before the classifier
    auxiliary: bool = False  # a second classifier behind the 17x17 maps, for training
    se_ratio: int | None = None  # squeeze: hidden units are channels / ratio; None: no SE block
    stem: Literal["paper", "handbook"] = "paper"
    # Behind each convolution of the stem: the paper's ReLU, or none ("linear"), as the handbook's listing has it.
    stem_activation: StemActivation = "relu"

    def __post_init__(self) -> None:
        if self.stem not in ("paper", "handbook"):
            raise ValueError(f"The stem of {self.name} is paper or handbook. Received: {self.stem!r}")
        if self.stem_activation not in get_args(StemActivation):
            raise ValueError(
                f"The activation of {self.name}'s stem is one of {get_args(StemActivation)}. "
                f"Received: {self.stem_activation!r}"
            )

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the auxiliary classifier's are logits of their own."""
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.inception import chain, group

        # The handbook's listing, of nothing of this network but the stem, has biases and no normalisation.
        table, convention = (_STEM, self.convention) if self.stem == "paper" else (HANDBOOK_V3_STEM, AS_PRINTED)
        x = chain(x, table, convention=replace(convention, activation=self.stem_activation), name="stem")
        yield Stage("stem", "conv3x3"), x
        block = "inception_v3" if self.se_ratio is None else "se_inception_v3"
        for name, modules in _STAGES.items():
            x = group(x, modules, se_ratio=self.se_ratio, convention=self.convention, average=self.average, name=name)
            yield Stage(name, block, len(modules)), x
            if self.auxiliary and name == "group2":
                side = chain(x, _AUXILIARY, convention=self.convention, name="auxiliary")
                logits = pooled_classifier(side, classes, name="auxiliary")
                yield Stage("auxiliary", "pooling+conv5x5+dense", auxiliary=True), logits
        yield (
            Stage("classifier", "global_average_pooling+dense"),
            pooled_classifier(x, classes, dropout=self.dropout, name="classifier"),
        )

    def served(self) -> InceptionV3:
        """The network without auxiliary classifiers."""
        return replace(self, auxiliary=False)

    def layouts(self) -> Mapping[str, Layout]:
        """Keras' and torchvision's, whose names timm has, too.

        Keras numbers the layers: from 1 in the published file, which Keras 2 wrote; a file that Keras 3 wrote after
        building nothing else begins without a number. torchvision's file holds the auxiliary classifier.
        """
        if self.stem != "paper":
            return {}
        torch = renaming(
            (r"((?:stem|auxiliary)_\d)_(conv|bn)", lambda match: f"{_TORCHVISION_CONVS[match[1]]}.{match[2]}"),
            (r"(group\d|reduction\d)_block(\d)_(.+)_(conv|bn)", _torchvision),
            (r"auxiliary_logits", "AuxLogits.fc"),
            (r"classifier_logits", "fc"),
        )
        return {
            "keras": Layout(naming=KERAS, rename=_keras(1)),
            "keras3": Layout(naming=KERAS, rename=_keras(0)),
            "torchvision": Layout(naming=TORCH, rename=torch, unused=() if self.auxiliary else (r"AuxLogits\..*",)),
        }


# Keras Applications name no convolution but number all in the order in which their code creates them. By stage, the
# number of its first module's first convolution, and the roles in a module in the order of their numbers.
_KERAS_NUMBERS: dict[str, tuple[int, tuple[str, ...]]] = {
    "group1": (6, ("1x1", "5x5_1", "5x5_2", "double3x3_1", "double3x3_2", "double3x3_3", "pool_2")),
    "reduction1": (27, ("3x3", "double3x3_1", "double3x3_2", "double3x3_3")),
    "group2": (
        31,
        (
            *("1x1", "7x7_1", "7x7_2", "7x7_3"),
            *("double7x7_1", "double7x7_2", "double7x7_3", "double7x7_4", "double7x7_5", "pool_2"),
        ),
    ),
    "reduction2": (71, ("3x3_1", "3x3_2", "7x7_1", "7x7_2", "7x7_3", "7x7_4")),
    "group3": (
        77,
        (
            *("1x1", "3x3_1", "3x3_2_1x3", "3x3_2_3x1"),
            *("double3x3_1", "double3x3_2", "double3x3_3_1x3", "double3x3_3_3x1", "pool_2"),
        ),
    ),
}
_KERAS_STEM = {"1": 1, "2": 2, "3": 3, "5": 4, "6": 5}  # steps 4 and 7 are pools
_KERAS_LAYERS = {"conv": "conv2d", "bn": "batch_normalization"}


def _keras(first: int) -> Callable[[str], str]:
    """group1_block2_5x5_1_conv -> conv2d_14; with `first` 0 the numbers are one less, and 0 is not written."""

    def numbered(layer: str, number: int) -> str:
        number += first - 1
        return f"{_KERAS_LAYERS[layer]}_{number}" if number else _KERAS_LAYERS[layer]

    def in_module(match: re.Match[str]) -> str:
        stage, block, role, layer = match.groups()
        start, roles = _KERAS_NUMBERS[stage]
        return numbered(layer, start + (int(block) - 1) * len(roles) + roles.index(role))

    return renaming(
        (r"stem_(\d)_(conv|bn)", lambda match: numbered(match[2], _KERAS_STEM[match[1]])),
        (r"(group\d|reduction\d)_block(\d)_(.+)_(conv|bn)", in_module),
        (r"classifier_logits", "predictions"),
    )


_TORCHVISION_CONVS = {
    "stem_1": "Conv2d_1a_3x3",
    "stem_2": "Conv2d_2a_3x3",
    "stem_3": "Conv2d_2b_3x3",
    "stem_5": "Conv2d_3b_1x1",
    "stem_6": "Conv2d_4a_3x3",
    "auxiliary_2": "AuxLogits.conv0",
    "auxiliary_3": "AuxLogits.conv1",
}
# The resolution's number, then the modules' letters.
_TORCHVISION_MODULES = {"group1": "5bcd", "reduction1": "6a", "group2": "6bcde", "reduction2": "7a", "group3": "7bc"}
_FORKED = {"1x3": "a", "3x1": "b"}


def _torchvision(match: re.Match[str]) -> str:
    """group3_block2_double3x3_3_1x3_conv -> Mixed_7c.branch3x3dbl_3a.conv."""
    stage, block, role, layer = match.groups()
    modules = _TORCHVISION_MODULES[stage]
    branch, *place = role.split("_")
    if branch == "pool":
        theirs = "_pool"
    elif branch.startswith("double"):
        theirs = f"{branch.removeprefix('double')}dbl"
    else:
        theirs = "7x7x3" if (stage, branch) == ("reduction2", "7x7") else branch
    step = f"_{place[0]}" if place and branch != "pool" else ""
    fork = _FORKED[place[1]] if len(place) > 1 else ""
    return f"Mixed_{modules[0]}{modules[int(block)]}.branch{theirs}{step}{fork}.{layer}"


_PAPER = "Szegedy et al., arXiv:1512.00567, table 1"

ROWS: tuple[InceptionV3, ...] = (
    InceptionV3(
        name="inception_v3",
        variant="keras",
        paper=_PAPER,
        input_shape=(299, 299, 3),
        classes=1000,
        convention=Convention(scale=False),
    ),
    InceptionV3(
        name="inception_v3",
        variant="torchvision",
        paper=_PAPER,
        input_shape=(299, 299, 3),
        classes=1000,
        average="symmetric",
        dropout=0.5,
    ),
    InceptionV3(
        name="inception_v3",
        variant="handbook",
        paper=f"the stem of the handbook, part 3, on the modules of {_PAPER}",
        input_shape=(299, 299, 3),
        classes=1000,
        stem="handbook",
    ),
)
