"""From probabilities to labelled predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.bundle import ClassLabel
from server.domain import Prediction

DEFAULT_TOP_K = 5


def top_k(
    probabilities: NDArray[np.float32], labels: Sequence[ClassLabel], *, k: int, min_probability: float = 0.0
) -> tuple[Prediction, ...]:
    """The k most probable classes, by falling probability; among equals the lower index comes first.

    Args:
        probabilities: float32 ``[classes]``.
        labels: one a class, in the order of the index.
        k: 1..classes.
        min_probability: leave out classes below it.
    """
    if k < len(probabilities):
        # All that are no less probable than the k-th, in the order of their index: sorting these few is enough.
        least = np.partition(probabilities, -k)[-k]
        candidates = (probabilities >= least).nonzero()[0]
    else:
        candidates = np.arange(k)
    values = probabilities[candidates].tolist()
    order = sorted(zip(candidates.tolist(), values, strict=True), key=lambda each: -each[1])[:k]
    return tuple(
        Prediction(index, labels[index].label, labels[index].class_id, value)
        for index, value in order
        if value >= min_probability
    )
