"""A calibration and a threshold for each label, fitted on held-out images.

Platt scaling (Platt, 1999), by Newton's method as Lin, Lin and Weng describe it ("A Note on Platt's Probabilistic
Outputs for Support Vector Machines", 2007): sigmoid(slope * logit + intercept), which a head has as a temperature and
an offset. The threshold of a label is that with the best F1. Keras is not imported here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glimpse.models.heads import DEFAULT_THRESHOLD, MULTI_LABEL, Head, sigmoid
from glimpse.models.train.calibrate import check_scores

_SLOPES = (0.05, 20.0)  # as the temperatures of a softmax
_STEPS, _ENOUGH = 100, 1e-7
_RIDGE = 1e-10
_DIGITS = 6
_LEAST = 10**-_DIGITS  # that a threshold is away from 0 and from 1


def fit(logits: NDArray[np.floating], targets: NDArray[np.int64]) -> Head:
    """The head of a network by its logits of held-out images.

    Args:
        logits: ``[N, labels]`` of images that the network was not trained on.
        targets: ``[N, labels]`` of 1 and 0.

    Raises:
        ValueError: no image, or scores that are no numbers.
    """
    if len(targets) == 0:
        raise ValueError("Temperatures and thresholds can only be fitted on held-out images. Received: no images")
    check_scores(logits)
    pairs = [platt(logits[:, label], targets[:, label]) for label in range(targets.shape[1])]
    head = Head(
        kind=MULTI_LABEL,
        temperatures=tuple(round(temperature, _DIGITS) for temperature, _ in pairs),
        offsets=tuple(round(offset, _DIGITS) for _, offset in pairs),
        thresholds=(DEFAULT_THRESHOLD,) * len(pairs),
    )
    probabilities = head.probabilities(logits)
    thresholds = [best_threshold(probabilities[:, label], targets[:, label]) for label in range(len(pairs))]
    return Head(kind=head.kind, temperatures=head.temperatures, offsets=head.offsets, thresholds=tuple(thresholds))


def platt(logits: NDArray[np.floating], targets: NDArray[np.int64]) -> tuple[float, float]:
    """Temperature and offset of one label: sigmoid((logit - offset) / temperature) is its probability.

    The targets are Platt's, (n + 1) / (n + 2) of n images that show it, so that a few images that are all told apart do
    not ask for certainty.

    Args:
        logits: ``[N]``.
        targets: ``[N]`` of 1 and 0.
    """
    values = np.asarray(logits, np.float64)
    shown = int(targets.sum())
    hidden = len(targets) - shown
    wanted = np.where(targets == 1, (shown + 1) / (shown + 2), 1 / (hidden + 2))
    prior = float(np.log((shown + 1) / (hidden + 1)))
    slope, intercept = _newton(values, wanted, (1.0, 0.0), free=True)
    if not _SLOPES[0] <= slope <= _SLOPES[1]:  # the logits say next to nothing, or all
        slope = float(np.clip(slope, *_SLOPES))
        slope, intercept = _newton(values, wanted, (slope, prior - slope * float(values.mean())), free=False)
    return 1 / slope, -intercept / slope


def _newton(
    values: NDArray[np.float64], wanted: NDArray[np.float64], start: tuple[float, float], *, free: bool
) -> tuple[float, float]:
    """Slope and intercept with the least cross-entropy, which is convex in both; the slope stays where not `free`."""
    found = np.array(start)
    loss = _loss(values, wanted, found)
    for _ in range(_STEPS):
        told = sigmoid(found[0] * values + found[1])
        off, spread = told - wanted, np.maximum(told * (1 - told), _RIDGE)
        gradient = np.array([float(off @ values) if free else 0.0, float(off.sum())])
        if np.abs(gradient).max() < _ENOUGH * len(values):
            break
        curvature = np.array([[spread @ values**2, spread @ values], [spread @ values, spread.sum()]])
        if free:
            step = np.linalg.solve(curvature + _RIDGE * np.eye(2), gradient)
        else:
            step = np.array([0.0, gradient[1] / curvature[1, 1]])
        size = 1.0
        while (tried := _loss(values, wanted, found - size * step)) > loss - 1e-4 * size * float(gradient @ step):
            size /= 2
            if size < 1e-10:
                return float(found[0]), float(found[1])
        found, loss = found - size * step, tried
    return float(found[0]), float(found[1])


def _loss(values: NDArray[np.float64], wanted: NDArray[np.float64], line: NDArray[np.float64]) -> float:
    scores = line[0] * values + line[1]
    return float((np.logaddexp(0.0, -scores) * wanted + np.logaddexp(0.0, scores) * (1 - wanted)).sum())


def best_threshold(probabilities: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """The probability from which on telling the label has the best F1; one half where no image shows it. Never 0 or 1.

    It is in the middle between the last image that is told it and the first that is not. Of several that are equally
    good, the one nearest to one half is taken.

    Args:
        probabilities: ``[N]``.
        targets: ``[N]`` of 1 and 0.
    """
    shown = int(targets.sum())
    if not shown:
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    ranked = np.asarray(probabilities, np.float64)[order]
    right = np.cumsum(targets[order])
    told = np.arange(1, len(order) + 1)
    last = np.append(ranked[1:] < ranked[:-1], True)  # equal ones are told together
    scores = np.where(last, 2 * right / (told + shown), -1.0)
    between = (ranked + np.append(ranked[1:], 0.0)) / 2
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    chosen = between[best[np.abs(between[best] - DEFAULT_THRESHOLD).argmin()]]
    # With 0 every image would have the label, and with 1 none.
    return float(np.clip(round(float(chosen), _DIGITS), _LEAST, 1 - _LEAST))
