"""What a multi-label network is trained towards: a sigmoid of each logit, by binary cross-entropy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

MOST_WEIGHT = 20.0  # of an image that shows a rare label


def weights_of(targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """By label, how many times an image that shows it counts as much as one that does not: float64 ``[labels]``.

    It is the square root of how many times more images do not show it, 1 to `MOST_WEIGHT`: with the whole ratio, a
    label that one image in a thousand shows would decide what the features are. What the weights add to the logits, the
    offsets of the calibration take away again.
    """
    shown = np.maximum(targets.sum(axis=0), 1)
    return np.clip(np.sqrt((len(targets) - shown) / shown), 1.0, MOST_WEIGHT)


class LabelCrossEntropy(keras.losses.Loss):
    """Mean binary cross-entropy of the labels of an image, from logits."""

    def __init__(self, weights: NDArray[np.float64], smoothing: float = 0.0) -> None:
        """Count what is shown `weights` times, and spread a share of `smoothing` of every target over yes and no."""
        super().__init__(name="label_cross_entropy")
        self._weights, self._smoothing = np.asarray(weights, np.float32), smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each image: 1 and 0, and logits, ``[N, labels]`` each -> ``[N]``."""
        targets = keras.ops.cast(y_true, y_pred.dtype)
        targets = targets * (1 - self._smoothing) + self._smoothing / 2
        yes = keras.ops.softplus(-y_pred) * keras.ops.cast(self._weights, y_pred.dtype)
        return keras.ops.mean(targets * yes + (1 - targets) * keras.ops.softplus(y_pred), axis=-1)


def accuracy() -> keras.metrics.Metric:
    """The share of labels that are on the right side of one half, over all images."""

    def of_labels(y_true: Any, y_pred: Any) -> Any:
        right = keras.ops.equal(keras.ops.cast(y_true, "bool"), y_pred > 0)
        return keras.ops.mean(keras.ops.cast(right, "float32"), axis=-1)

    return keras.metrics.MeanMetricWrapper(of_labels, name="accuracy")


def guessing(targets: NDArray[np.int64], smoothing: float = 0.0) -> float:
    """The loss of a network that has learned how frequent each label is and nothing else."""
    weights = weights_of(targets)
    shares = targets.mean(axis=0) * (1 - smoothing) + smoothing / 2
    told = weights * shares / (weights * shares + 1 - shares)
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = -weights * shares * np.log(told) - (1 - shares) * np.log(1 - told)
    return float(np.nan_to_num(loss).mean())
