"""The calibration error without what chance adds to it. Kumar et al., arXiv:1909.10155, section 5.

In a bin of n predictions, the share that is right differs from its true value by chance, and the plain error counts
that as a fault. Of the squared error it is known how much this adds: the share's variance, whose unbiased estimate is
subtracted here. As a mean is at most the root of the mean square, the expected calibration error in the same bins is,
but for chance, at most this.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 15


def debiased_error(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """The root of the debiased mean square of the calibration error, in bins of equally many predictions.

    Args:
        confidence: ``[N]``, the probability of each first answer, 0..1.
        right: ``[N]``, whether it is the true class.

    Returns:
        0..1; 0 where the squared error is no larger than chance makes it.

    Raises:
        ValueError: there are fewer than two predictions.
    """
    if len(confidence) < 2:
        raise ValueError(f"A calibration error without chance needs two predictions. Received: {len(confidence)}")
    order = np.argsort(confidence, kind="stable")
    squares = 0.0
    for each in np.array_split(order, min(BINS, len(order) // 2)):
        found = float(right[each].mean())
        by_chance = found * (1 - found) / (len(each) - 1)
        squares += len(each) * ((found - float(confidence[each].mean())) ** 2 - by_chance)
    return math.sqrt(max(0.0, squares / len(order)))
