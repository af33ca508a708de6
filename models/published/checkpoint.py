"""The description of a published checkpoint, as plain data."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from glimpse.models.bundle import ClassLabel, read_labels
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.prestem.recipe import Recipe

Publisher = Literal["keras", "torchvision", "timm", "pypi"]
LabelSet = Literal["imagenet1000", "imagenet1001"]

_LABELS = Path(__file__).parent / "labels"


@dataclass(frozen=True, slots=True)
class Checksum:
    """The hash of a file, or its first digits, as its publisher states it."""

    algorithm: Literal["md5", "sha256"]
    digits: str  # hexadecimal and lower case; of a sha256 perhaps only the first, as PyTorch's file names have them

    def matches(self, hexdigest: str) -> bool:
        """Whether a file with this hash is the published one."""
        return hexdigest.startswith(self.digits)

    @property
    def whole(self) -> bool:
        """Whether the publisher states all digits, not the first ones only."""
        return len(self.digits) == hashlib.new(self.algorithm, usedforsecurity=False).digest_size * 2

    def __str__(self) -> str:
        return f"{self.algorithm} {self.digits}{'' if self.whole else '...'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Published weights for a network of the library, with all that is needed to serve them.

    The network is ``models.build(architecture, variant=variant, input_shape=(recipe.height, recipe.width, 3),
    **options)``.
    """

    architecture: str
    variant: str
    tag: str  # by which users select it; "imagenet" is the variant's default
    alias: str = ""  # the publisher's own tag of the default, accepted as well
    publisher: Publisher
    upstream: str  # the publisher's name of it
    url: str
    package: str = ""  # of PyPI, in which the file is once it is installed; empty: it is downloaded from `url`
    file: str  # its name in the cache or the package, unique among all checkpoints
    checksum: Checksum | None  # None: the publisher does not state one
    label_set: LabelSet = "imagenet1000"
    recipe: Recipe  # the publisher's own preprocessing
    top1: float  # percent of ImageNet's validation images, as published for this recipe's size
    top5: float | None  # None: the publisher states none
    source: str  # where top1 and top5 are published
    licence: str  # of the weights, by its SPDX name, as the publisher states it
    temperature: float = 1.0  # divides the logits before the softmax, where it has been fitted; 1 is uncalibrated
    novelty: NoveltyThreshold | None = None  # from when on an image is unknown, where that has been fitted
    golden: str = ""  # file of recorded answers in `models/published/golden`; empty: there are none
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of the architecture, for `models.build`

    @property
    def labels(self) -> tuple[ClassLabel, ...]:
        """The classes in the order of the network's output."""
        return labels(self.label_set)


@functools.cache
def labels(label_set: LabelSet) -> tuple[ClassLabel, ...]:
    """ImageNet's 1000 classes, or 1001 with the background first, each with its WordNet id."""
    return read_labels(_LABELS / f"{label_set}.txt")
