"""What the numbers at the end of a network mean: one class of several, any number of labels, or yes and no.

- ``softmax``: the classes exclude each other; probabilities are softmax(logits / temperature).
- ``multi-label``: each label is there or not, whatever the others are; its probability is a sigmoid of its own logit,
  sigmoid((logit - offset) / temperature), which is Platt scaling (Platt, 1999) with a pair of numbers a label. A label
  is told of an image where its probability is at least its threshold.
- ``binary``: two classes and one number z, the logit of the second class. It is served as two logits, -z/2 and z/2,
  whose softmax is exactly 1 - sigmoid(z) and sigmoid(z), so that everything behind it is that of any two classes.

No framework is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

HeadKind = Literal["softmax", "multi-label", "binary"]
KINDS: Final[tuple[HeadKind, ...]] = get_args(HeadKind)
DEFAULT_THRESHOLD: Final = 0.5
MULTI_LABEL: Final = "multi-label"
BINARY: Final = "binary"
BINARY_CLASSES: Final = 2

_FIELDS = ("temperatures", "offsets", "thresholds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a network. The three lists have a number a label where it is multi-label, and are empty elsewhere."""

    kind: HeadKind = "softmax"
    temperatures: tuple[float, ...] = ()  # by which a logit less its offset is divided; 1 is uncalibrated
    offsets: tuple[float, ...] = ()  # logits at which a label is as probable as not; 0 is uncalibrated
    thresholds: tuple[float, ...] = ()  # probabilities from which on a label is told, 0 to 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"head must be one of {', '.join(KINDS)}. Received: {self.kind!r}")
        lengths = {len(getattr(self, name)) for name in _FIELDS}
        if len(lengths) != 1 or (lengths == {0}) == (self.kind == MULTI_LABEL):
            raise ValueError(
                f"A head has temperatures, offsets and thresholds, one a label, where it is {MULTI_LABEL}, and none "
                f"elsewhere. Received: {self.kind}, {sorted(lengths)} numbers"
            )
        if not all(math.isfinite(each) and each > 0 for each in self.temperatures):
            raise ValueError("temperatures must be positive numbers")
        if not all(math.isfinite(each) for each in self.offsets):
            raise ValueError("offsets must be finite numbers")
        if not all(0 <= each <= 1 for each in self.thresholds):
            raise ValueError("thresholds must be from 0 to 1")

    @property
    def exclusive(self) -> bool:
        """Whether an image shows exactly one of the classes, so that their probabilities add up to 1."""
        return self.kind != MULTI_LABEL

    @property
    def limits(self) -> NDArray[np.float32]:
        """The thresholds as probabilities are: float32 ``[labels]``."""
        return np.array(self.thresholds, np.float32)

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities of a multi-label head, each for itself: ``[N, labels]`` -> float64 ``[N, labels]``."""
        scaled = (np.asarray(logits, np.float64) - np.array(self.offsets)) / np.array(self.temperatures)
        return sigmoid(scaled)

    def passed(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which labels of a multi-label head are told: ``[..., labels]`` of the same shape."""
        return np.asarray(probabilities >= self.limits)

    def to_dict(self) -> dict[str, Any]:
        """The head as JSON-ready values."""
        numbers = {name: list(getattr(self, name)) for name in _FIELDS if getattr(self, name)}
        return {"kind": self.kind, **numbers}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: int) -> Self:
        """Create a head from the values of `to_dict`, for a network of so many classes.

        Raises:
            ValueError: a value is missing or not valid.
        """
        unknown = sorted(set(values) - {"kind", *_FIELDS})
        if unknown or "kind" not in values:
            raise ValueError(
                f"head must have kind and, if multi-label, {', '.join(_FIELDS)}. Received: {str(sorted(values))[:80]}"
            )
        numbers = {name: _numbers(values[name], f"head.{name}") for name in _FIELDS if name in values}
        made = cls(kind=values["kind"], **numbers)
        check_classes(made, classes)
        return made


SOFTMAX: Final = Head()


def check_classes(head: Head, classes: int) -> None:
    """Refuse a head that does not fit so many classes.

    Raises:
        ValueError: it has other numbers, or is binary and the classes are not two.
    """
    if head.kind == MULTI_LABEL and len(head.thresholds) != classes:
        raise ValueError(f"head must have a number for each of the {classes} labels. Received: {len(head.thresholds)}")
    if head.kind == BINARY and classes != BINARY_CLASSES:
        raise ValueError(f"A binary head has two labels, the second of which its score is of. Received: {classes}")


def multi_label(classes: int, thresholds: Sequence[float] | float = DEFAULT_THRESHOLD) -> Head:
    """An uncalibrated multi-label head of so many labels; one threshold holds for all of them.

    Raises:
        ValueError: a threshold is not from 0 to 1, or there are not as many as labels.
    """
    limits = (float(thresholds),) * classes if isinstance(thresholds, (int, float)) else tuple(map(float, thresholds))
    if len(limits) != classes:
        raise ValueError(
            f"thresholds must be one number, or one for each of the {classes} labels. Received: {len(limits)}"
        )
    return Head(kind=MULTI_LABEL, temperatures=(1.0,) * classes, offsets=(0.0,) * classes, thresholds=limits)


def stated(values: Mapping[str, Any], classes: int) -> Head:
    """The head that a recipe's file states with ``head`` and, for several labels, ``thresholds``.

    Raises:
        ValueError: a value is not valid, or does not fit so many classes.
    """
    kind, thresholds = values.get("head", "softmax"), values.get("thresholds")
    if kind not in KINDS:
        raise ValueError(f"head must be one of {', '.join(KINDS)}. Received: {kind!r}")
    if kind == MULTI_LABEL:
        if thresholds is None:
            return multi_label(classes)
        single = isinstance(thresholds, (int, float)) and not isinstance(thresholds, bool)
        return multi_label(classes, float(thresholds) if single else _numbers(thresholds, "thresholds"))
    if thresholds is not None:
        raise ValueError(f'thresholds are those of a head = "{MULTI_LABEL}". Received: head {kind!r}')
    made = Head(kind=kind)
    check_classes(made, classes)
    return made


def sigmoid(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow."""
    values = np.asarray(values, np.float64)
    raised = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, raised) / (1.0 + raised)


def _numbers(values: object, what: str) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or not all(
        isinstance(each, (int, float)) and not isinstance(each, bool) for each in values
    ):
        raise ValueError(f"{what} must be a list of numbers. Received: {str(values)[:80]}")
    return tuple(float(each) for each in values)
