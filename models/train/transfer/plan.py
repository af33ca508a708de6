"""The plan of a transfer: all values that determine its result but the images and the weights of the base."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from glimpse.models.prestem.recipe import Recipe

HEAD_CHECKPOINT = "head.weights.h5"  # which every transfer has after its first epoch

ClassWeights = Literal["balanced", "none"]

# The phases are trained with the rest of a plan; these say only how long, so that a run may go on with others.
MAY_CHANGE = frozenset({"plan.epochs", "plan.thaw_epochs", "plan.patience"})
_MIN_BATCH, _MIN_STEPS = 8, 16
_LARGEST_SEED = 2**32 - 1  # that NumPy and Keras take
THAW = "plan.thaw"  # as well, as long as nothing has been thawed


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPlan:
    """All values that determine the result of a transfer, except the images."""

    base: str  # as the user named it, with its tag
    base_digest: str  # of its weights
    architecture: str  # empty: the base is a whole Keras model
    variant: str
    options: Mapping[str, Any] = field(default_factory=dict)  # of the architecture
    epochs: int = 60  # of the head, at most
    thaw: int = 0  # stages before the classifier that are trained after the head; 0: the head alone
    thaw_epochs: int = 12  # with them, at most
    patience: int = 4  # epochs in which the calibrated held-out loss gets no better before a phase ends
    batch_size: int = 32  # of the command by default less for few images, see `batch_size`
    learning_rate: float = 1e-3  # of the head alone
    thawed_rate: float = 0.1  # share of it for the thawed stages and the head together
    class_weights: ClassWeights = "balanced"  # the loss counts every class the same, however many images it has
    label_smoothing: float = 0.0  # share of every target that goes to all classes alike (arXiv:1512.00567, section 7)
    weight_decay: float = 1e-2  # decoupled (AdamW, arXiv:1711.05101), of kernels only
    seed: int = 20
    head: Literal["softmax", "multi-label"] = "softmax"  # what the scores mean; of a table of labels: multi-label

    def __post_init__(self) -> None:
        check_numbers(self, "learning_rate", "weight_decay")
        for name in ("epochs", "thaw_epochs", "patience", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0. Received: {getattr(self, name)}")
        for name in ("thaw", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0. Received: {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and less than 1. Received: {self.label_smoothing}")
        if self.class_weights not in get_args(ClassWeights):
            raise ValueError(
                f"class_weights must be one of {', '.join(get_args(ClassWeights))}. Received: {self.class_weights!r}"
            )


def check_numbers(plan: Any, *finite: str) -> None:
    """Refuse what no training can compute with: a seed that is too large, and infinite values of these names.

    Raises:
        ValueError: the message names the value.
    """
    for name in finite:
        if not math.isfinite(getattr(plan, name)):
            raise ValueError(f"{name} must be a finite number. Received: {getattr(plan, name)}")
    if plan.seed > _LARGEST_SEED:
        raise ValueError(f"seed must be at most {_LARGEST_SEED}. Received: {plan.seed}")


def batch_size(images: int) -> int:
    """Images in a batch by default: 32, or less where an epoch would have fewer than 16 steps; at least 8."""
    size = 32
    while size > _MIN_BATCH and images < size * _MIN_STEPS:
        size //= 2
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRun:
    """A plan together with the images that it is for."""

    plan: TransferPlan
    recipe: Recipe
    images: int  # all of them, the held-out ones included
    hold_out: int  # how many of them are kept out of the training
    labels: tuple[str, ...]
    contents: str = ""  # a digest of the images, see `models.train.contents`; empty: not known

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON gives it back: lists for tuples."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.plan.head == "softmax":
            del values["plan"]["head"]  # it came later, and runs of before are to be resumed
        if not self.contents:
            del values["contents"]
        return values
