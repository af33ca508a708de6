"""What a published checkpoint is, as plain data."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from glimpse.models.bundle import ClassLabel, read_labels
from glimpse.models.prestem.recipe import Recipe

Publisher = Literal["keras", "torchvision", "timm"]
LabelSet = Literal["imagenet1000", "imagenet1001"]

_LABELS = Path(__file__).parent / "labels"


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a publisher says of a file's hash."""

    algorithm: Literal["md5", "sha256"]
    digits: str  # hexadecimal and lower case; of a sha256 perhaps only the first, as PyTorch's file names have them

    def matches(self, hexdigest: str) -> bool:
        """Whether a file of that hash is the one that was published."""
        return hexdigest.startswith(self.digits)

    def __str__(self) -> str:
        size = hashlib.new(self.algorithm, usedforsecurity=False).digest_size * 2
        return f"{self.algorithm} {self.digits}{'...' if len(self.digits) < size else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights that somebody has published for a network of the library, and all that is needed to serve them.

    The network is ``models.build(architecture, variant=variant, input_shape=(recipe.height, recipe.width, 3),
    **options)``.
    """

    architecture: str
    variant: str
    tag: str  # what a user asks for; "imagenet" is the variant's default
    alias: str = ""  # the publisher's own tag of the default, which is understood too
    publisher: Publisher
    upstream: str  # what the publisher calls it
    url: str
    file: str  # its name in the cache, where every checkpoint has another one
    checksum: Checksum | None  # None: the publisher states none
    label_set: LabelSet = "imagenet1000"
    recipe: Recipe  # the publisher's own preprocessing
    top1: float  # percent of ImageNet's validation images, as published for this recipe's size
    top5: float
    source: str  # where top1 and top5 are published
    licence: str  # of the weights, by its SPDX name, as the publisher states it
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of the architecture, for `models.build`

    @property
    def labels(self) -> tuple[ClassLabel, ...]:
        """The classes in the order of the network's output."""
        return labels(self.label_set)


@functools.cache
def labels(label_set: LabelSet) -> tuple[ClassLabel, ...]:
    """ImageNet's 1000 classes, or 1001 with the background first, each with its WordNet id."""
    return read_labels(_LABELS / f"{label_set}.txt")
