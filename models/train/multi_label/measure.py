"""The metrics of a multi-label network on labelled images. Keras is not imported here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glimpse.models.heads import Head, sigmoid
from glimpse.models.train.calibrate import check_scores

_LEAST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMeasurement:
    """A multi-label network on one labelled set. Shares are 0..1; a label that no image shows has NaN."""

    images: int
    shown: NDArray[np.int64]  # images that show each label
    average_precision: NDArray[np.float64]  # of each label, over all thresholds
    precision: NDArray[np.float64]  # of each label at its threshold: share of the told that is right
    recall: NDArray[np.float64]  # and the share of what is shown that is told
    f1: NDArray[np.float64]  # and the harmonic mean of both
    f1_micro: float  # at the thresholds, of all labels of all images together
    subset_accuracy: float  # share of images all of whose labels are right
    loss: float  # mean binary cross-entropy, nats, calibrated
    loss_uncalibrated: float  # the same without temperatures and offsets

    @property
    def mean_average_precision(self) -> float:
        """The mean over the labels that any image shows."""
        return _mean(self.average_precision)

    @property
    def f1_macro(self) -> float:
        """The mean of F1 over the labels that any image shows."""
        return _mean(self.f1)

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as a bundle's ``model.json`` holds them."""
        return {
            "images": float(self.images),
            "mean_average_precision": self.mean_average_precision,
            "f1_micro": self.f1_micro,
            "f1_macro": self.f1_macro,
            "subset_accuracy": self.subset_accuracy,
            "bce": self.loss,
            "bce_uncalibrated": self.loss_uncalibrated,
        }

    @property
    def summary(self) -> str:
        """The main figures, for people."""
        return (
            f"mean average precision {self.mean_average_precision:.1%}, F1 {self.f1_micro:.1%}, all labels right "
            f"{self.subset_accuracy:.1%}"
        )


def measure(logits: NDArray[np.floating], targets: NDArray[np.int64], head: Head) -> LabelMeasurement:
    """Measure logits ``[N, labels]`` against targets ``[N, labels]`` of 1 and 0.

    Raises:
        ValueError: no image, or scores that are no numbers.
    """
    if len(targets) == 0:
        raise ValueError("There is nothing to measure without images.")
    check_scores(logits)
    probabilities = head.probabilities(logits)
    told, shown = probabilities.astype(np.float32) >= head.limits, targets == 1
    right = (told & shown).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = right / told.sum(axis=0)
        recall = right / shown.sum(axis=0)
        f1 = np.where(shown.any(axis=0), 2 * right / (told.sum(axis=0) + shown.sum(axis=0)), np.nan)
    both = int(told.sum() + shown.sum())
    return LabelMeasurement(
        images=len(targets),
        shown=shown.sum(axis=0),
        average_precision=np.array(
            [average_precision(logits[:, label], targets[:, label]) for label in range(targets.shape[1])]
        ),
        precision=precision,
        recall=recall,
        f1=f1,
        f1_micro=2 * int(right.sum()) / both if both else 1.0,
        subset_accuracy=float((told == shown).all(axis=1).mean()),
        loss=_cross_entropy(probabilities, targets),
        loss_uncalibrated=_cross_entropy(sigmoid(logits), targets),
    )


def average_precision(scores: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """The precision at each threshold, weighted by the recall that it adds; NaN where no image shows the label.

    Args:
        scores: ``[N]``, higher where the label is more probable; images of equal scores are told together.
        targets: ``[N]`` of 1 and 0.
    """
    shown = int(targets.sum())
    if not shown:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked, right = scores[order], np.cumsum(targets[order])
    last = np.append(ranked[1:] < ranked[:-1], True)
    precision = right[last] / np.arange(1, len(order) + 1)[last]
    return float((np.diff(right[last], prepend=0) * precision).sum() / shown)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _cross_entropy(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    told = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return float(-(targets * np.log(told) + (1 - targets) * np.log(1 - told)).mean())
