"""Temperature scaling, and the calibration error of probabilities. Guo et al., arXiv:1706.04599.

The temperature is fitted against the targets of Platt, "Probabilistic outputs for support vector machines and
comparisons to regularized likelihood methods", 1999, section 2.2: no finite number of images shows that a class is
certain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # the paper's number

_RANGE = (math.log(0.05), math.log(20.0))  # of log temperature
_TOLERANCE = 1e-6
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predictions sorted into equal-width bins of confidence, the data of a reliability diagram.

    Attributes:
        counts: int64 ``[bins]``, predictions in each bin.
        confidence: float64 ``[bins]``, their mean top probability; NaN in an empty bin.
        accuracy: float64 ``[bins]``, the share of them that is right; NaN in an empty bin.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: |accuracy - confidence| averaged over predictions, 0..1."""
        filled = self.counts > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(np.average(gaps, weights=self.counts[filled]))


def check_scores(logits: NDArray[np.floating]) -> None:
    """Refuse scores of which one is infinite or not a number: all that would be made of them would be wrong.

    Args:
        logits: ``[N, classes]``.

    Raises:
        ValueError: the message says of how many images.
    """
    if wrong := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise ValueError(
            f"The network gives scores that are infinite or not a number for {wrong:,} of {len(logits):,} images. Are "
            "its weights whole, and is the scaling of the recipe theirs?"
        )


def log_softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """log(softmax(logits / temperature)): ``[N, classes]`` -> float64 ``[N, classes]``."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def negative_log_likelihood(
    logits: NDArray[np.floating], classes: NDArray[np.int64], temperature: float = 1.0
) -> float:
    """Mean of -log p(true class), in nats."""
    return -float(log_softmax(logits, temperature)[np.arange(len(classes)), classes].mean())


def smoothed_loss(logits: NDArray[np.floating], classes: NDArray[np.int64], temperature: float = 1.0) -> float:
    """Mean cross-entropy with Platt's targets, in nats: what `fit_temperature` makes the least.

    Of N images, the target of the true class is (N + 1) / (N + 2), and the other classes share the rest: Laplace's rule
    of succession, as one number, the temperature, is fitted on all N of them.
    """
    logs = log_softmax(logits, temperature)
    count, others = len(classes), max(logs.shape[1] - 1, 1)
    true = logs[np.arange(count), classes]
    rest = 1 / (count + 2)
    return -float(((1 - rest) * true + rest * (logs.sum(axis=1) - true) / others).mean())


def fit_temperature(logits: NDArray[np.floating], classes: NDArray[np.int64]) -> float:
    """The temperature with the least `smoothed_loss` on held-out images.

    With the plain likelihood, a dozen images that are all classified correctly would ask for the lowest temperature
    there is, and every answer would claim certainty. With thousands of images, the temperatures are nearly equal.

    The loss is convex in 1 / temperature, so it has one minimum along log temperature too, which the golden section
    finds without a derivative.

    Args:
        logits: ``[N, classes]`` of images that the network was not trained on.
        classes: int64 ``[N]``, the true ones.

    Returns:
        A temperature in 0.05..20; an end of the range where the optimum lies beyond it.

    Raises:
        ValueError: no image, or scores that are no numbers.
    """
    if len(classes) == 0:
        raise ValueError("A temperature can only be fitted on held-out images. Received: no images")
    check_scores(logits)
    low, high = _RANGE

    def loss(log_temperature: float) -> float:
        return smoothed_loss(logits, classes, math.exp(log_temperature))

    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > _TOLERANCE:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)


def reliability(probabilities: NDArray[np.floating], classes: NDArray[np.int64], bins: int = BINS) -> Reliability:
    """Sort the top predictions by their probability: ``[N, classes]`` and the true classes ``[N]``."""
    confidence = np.asarray(probabilities.max(axis=1), np.float64)
    right = probabilities.argmax(axis=1) == classes
    # A bin holds its upper edge, as in the paper: (0, 1/15], ..., (14/15, 1].
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            counts,
            np.bincount(index, weights=confidence, minlength=bins) / counts,
            np.bincount(index, weights=right, minlength=bins) / counts,
        )
