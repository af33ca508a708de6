"""The metrics of a network on labelled images, for the model card and for `models.evaluate`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glimpse.models.train.calibrate import (
    Reliability,
    check_scores,
    log_softmax,
    negative_log_likelihood,
    reliability,
)

_TOP = 5
_Z = 1.959964  # two-sided 95% of the normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A network on one labelled set. Shares are 0..1."""

    images: int
    top1: float  # share of images whose first answer is right
    top1_interval: tuple[float, float]  # 95% (Wilson): where the share over all such images lies
    top5: float | None  # share whose first five answers hold the right one; None for five classes or fewer
    nll: float  # mean negative log likelihood, nats, calibrated
    nll_uncalibrated: float  # the same at temperature 1
    reliability: Reliability  # calibrated
    reliability_uncalibrated: Reliability  # at temperature 1
    confusion: NDArray[np.int64]  # [true class, answer]

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of each class's images that is recognised: float64 ``[classes]``, NaN for a class without images."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.confusion.diagonal() / self.confusion.sum(axis=1))

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as a bundle's ``model.json`` holds them."""
        values = {
            "images": float(self.images),
            "top1": self.top1,
            "top1_low": self.top1_interval[0],
            "top1_high": self.top1_interval[1],
            "nll": self.nll,
            "nll_uncalibrated": self.nll_uncalibrated,
            "ece": self.reliability.error,
            "ece_uncalibrated": self.reliability_uncalibrated.error,
        }
        if self.top5 is not None:
            values["top5"] = self.top5
        return values


def measure(logits: NDArray[np.floating], classes: NDArray[np.int64], temperature: float) -> Measurement:
    """Measure logits ``[N, classes]`` against the true classes int64 ``[N]``.

    Raises:
        ValueError: no image, or scores that are no numbers.
    """
    if len(classes) == 0:
        raise ValueError("There is nothing to measure without images.")
    check_scores(logits)
    count = logits.shape[1]
    answers = logits.argmax(axis=1)
    top5 = None
    if count > _TOP:
        top5 = float((np.argpartition(-logits, _TOP, axis=1)[:, :_TOP] == classes[:, None]).any(axis=1).mean())
    right = int((answers == classes).sum())
    return Measurement(
        images=len(classes),
        top1=right / len(classes),
        top1_interval=wilson(right, len(classes)),
        top5=top5,
        nll=negative_log_likelihood(logits, classes, temperature),
        nll_uncalibrated=negative_log_likelihood(logits, classes),
        reliability=reliability(np.exp(log_softmax(logits, temperature)), classes),
        reliability_uncalibrated=reliability(np.exp(log_softmax(logits)), classes),
        confusion=np.bincount(classes * count + answers, minlength=count * count).reshape(count, count),
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, 1927): unlike the normal one it stays within 0..1."""
    share, z2 = successes / trials, _Z * _Z
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    # Rounding must not put an end on the wrong side of the share itself.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))
