"""Inception-v4.

Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning", arXiv:1602.07261,
figures 3 to 9.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from glimpse.models.inception_spec import (
    AS_PRINTED,
    HANDBOOK_V4_STEM,
    HANDBOOK_V4_STEM_AS_CODED,
    Chain,
    Conv,
    Parallel,
    Pool,
    StemActivation,
)
from glimpse.models.layouts import TORCH, Layout, renaming
from glimpse.models.spec import TENSORFLOW, Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor

_HALVE = Pool("max", 2, border="valid")
_STEMS: dict[str, Chain] = {
    "paper": (
        Conv(32, 3, 2, "valid"),
        Conv(32, 3, 1, "valid"),
        Conv(64, 3),
        {"pool": (_HALVE,), "3x3": (Conv(96, 3, 2, "valid"),)},
        {
            "3x3": (Conv(64), Conv(96, 3, 1, "valid")),
            "7x7": (Conv(64), Conv(64, (1, 7)), Conv(64, (7, 1)), Conv(96, 3, 1, "valid")),
        },
        {"3x3": (Conv(192, 3, 2, "valid"),), "pool": (_HALVE,)},
    ),
    # These two pad every layer, so their maps are 38x38 where the paper's are 35x35.
    "handbook": HANDBOOK_V4_STEM,
    "handbook_as_coded": HANDBOOK_V4_STEM_AS_CODED,
}

_A: Parallel = {
    "1x1": (Conv(96),),
    "3x3": (Conv(64), Conv(96, 3)),
    "double3x3": (Conv(64), Conv(96, 3), Conv(96, 3)),
    "pool": (Pool("average"), Conv(96)),
}
_REDUCTION_A: Parallel = {
    "3x3": (Conv(384, 3, 2, "valid"),),
    "double3x3": (Conv(192), Conv(224, 3), Conv(256, 3, 2, "valid")),
    "pool": (_HALVE,),
}
_B: Parallel = {
    "1x1": (Conv(384),),
    "7x7": (Conv(192), Conv(224, (1, 7)), Conv(256, (7, 1))),
    "double7x7": (Conv(192), Conv(192, (7, 1)), Conv(224, (1, 7)), Conv(224, (7, 1)), Conv(256, (1, 7))),
    "pool": (Pool("average"), Conv(128)),
}
_REDUCTION_B: Parallel = {
    "3x3": (Conv(192), Conv(192, 3, 2, "valid")),
    "7x7": (Conv(256), Conv(256, (1, 7)), Conv(320, (7, 1)), Conv(320, 3, 2, "valid")),
    "pool": (_HALVE,),
}
_FORK: Parallel = {"1x3": (Conv(256, (1, 3)),), "3x1": (Conv(256, (3, 1)),)}
_C: Parallel = {
    "1x1": (Conv(256),),
    "3x3": (Conv(384), _FORK),
    "double3x3": (Conv(384), Conv(448, (3, 1)), Conv(512, (1, 3)), _FORK),
    "pool": (Pool("average"), Conv(256)),
}
_STAGES: dict[str, tuple[Parallel, ...]] = {
    "group1": (_A,) * 4,
    "reduction1": (_REDUCTION_A,),
    "group2": (_B,) * 7,
    "reduction2": (_REDUCTION_B,),
    "group3": (_C,) * 3,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InceptionV4(Architecture):
    """A stem that branches, sixteen inception modules, two of which halve the resolution, and a classifier."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("dropout", "se_ratio", "stem", "stem_activation")

    convention: Convention = TENSORFLOW
    dropout: float = 0.2  # before the classifier: the paper keeps 0.8
    se_ratio: int | None = None  # squeeze: hidden units are channels / ratio; None: no SE block
    # The handbook describes a stem of 604,864 parameters; its code loses a branch of it and has 426,400.
    stem: Literal["paper", "handbook", "handbook_as_coded"] = "paper"
    # Behind each convolution of the stem: the paper's ReLU, or none ("linear"), as the handbook's listing has it.
    stem_activation: StemActivation = "relu"

    def __post_init__(self) -> None:
        if self.stem not in _STEMS:
            raise ValueError(f"The stem of {self.name} is one of {', '.join(_STEMS)}. Received: {self.stem!r}")
        if self.stem_activation not in get_args(StemActivation):
            raise ValueError(
                f"The activation of {self.name}'s stem is one of {get_args(StemActivation)}. "
                f"Received: {self.stem_activation!r}"
            )

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.head import pooled_classifier
        from glimpse.models.blocks.inception import chain, group

        # The handbook's listings, of nothing of this network but the stem, have biases and no normalisation.
        convention = self.convention if self.stem == "paper" else AS_PRINTED
        convention = replace(convention, activation=self.stem_activation)
        x = chain(x, _STEMS[self.stem], convention=convention, name="stem")
        yield Stage("stem", "conv3x3+branches"), x
        block = "inception_v4" if self.se_ratio is None else "se_inception_v4"
        for name, modules in _STAGES.items():
            x = group(x, modules, se_ratio=self.se_ratio, convention=self.convention, name=name)
            yield Stage(name, block, len(modules)), x
        yield (
            Stage("classifier", "global_average_pooling+dense"),
            pooled_classifier(x, classes, dropout=self.dropout, name="classifier"),
        )

    def layouts(self) -> Mapping[str, Layout]:
        """timm's, for the paper's stem."""
        if self.stem != "paper":
            return {}
        rename = renaming(
            (r"stem_([1-3])_(conv|bn)", lambda match: f"features.{int(match[1]) - 1}.{match[2]}"),
            (r"stem_4_3x3_(conv|bn)", r"features.3.conv.\1"),
            (r"stem_5_(3x3|7x7)_(\d)_(conv|bn)", _timm_stem),
            (r"stem_6_3x3_(conv|bn)", r"features.5.conv.\1"),
            (r"(group\d|reduction\d)_block(\d)_(.+)_(conv|bn)", _timm),
            (r"classifier_logits", "last_linear"),
        )
        return {"timm": Layout(naming=TORCH, rename=rename)}


# timm numbers a module's branches, by stage and branch here, and their steps, from 0.
_TIMM_FIRST = {"group1": 6, "reduction1": 10, "group2": 11, "reduction2": 18, "group3": 19}
_TIMM_BRANCHES = {
    "group1": ("1x1", "3x3", "double3x3", "pool"),
    "reduction1": ("3x3", "double3x3"),
    "group2": ("1x1", "7x7", "double7x7", "pool"),
    "reduction2": ("3x3", "7x7"),
    "group3": ("1x1", "3x3", "double3x3", "pool"),
}
_TIMM_FORKED = {"1x3": "a", "3x1": "b"}


def _timm_stem(match: re.Match[str]) -> str:
    """stem_5_7x7_2_conv -> features.4.branch1.1.conv."""
    branch, step, layer = match.groups()
    return f"features.4.branch{('3x3', '7x7').index(branch)}.{int(step) - 1}.{layer}"


def _timm(match: re.Match[str]) -> str:
    """group1_block2_3x3_1_conv -> features.7.branch1.0.conv; group3_block1_3x3_2_1x3_conv -> ....branch1_1a.conv."""
    stage, block, role, layer = match.groups()
    branch, *place = role.split("_")
    theirs = f"features.{_TIMM_FIRST[stage] + int(block) - 1}.branch{_TIMM_BRANCHES[stage].index(branch)}"
    if not place:
        return f"{theirs}.{layer}"
    step = int(place[0]) - 1
    if stage == "group3" and branch != "pool":
        return f"{theirs}_{step}{''.join(_TIMM_FORKED[fork] for fork in place[1:])}.{layer}"
    return f"{theirs}.{step}.{layer}"


_PAPER = "Szegedy et al., arXiv:1602.07261, figures 3 to 9"

_TIMM = InceptionV4(name="inception_v4", variant="timm", paper=_PAPER, input_shape=(299, 299, 3), classes=1000)

ROWS: tuple[InceptionV4, ...] = (
    _TIMM,
    replace(
        _TIMM,
        variant="handbook",
        paper=f"the stem of the handbook, part 3, on the modules of {_PAPER}",
        stem="handbook",
    ),
)
