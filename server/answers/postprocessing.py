"""From the outputs of a network to what a caller gets of an image: the most probable classes, with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from glimpse.models.bundle import ClassLabel
from glimpse.models.outputs import PROBABILITIES, Outputs
from glimpse.server.answers.class_choice import Chosen, Group
from glimpse.server.domain import Prediction

DEFAULT_TOP_K = 5
_FEW = 64  # classes, which are sorted sooner than looked through
_MANY = 4096  # classes, of which most are left out sooner than all are sorted
_BLOCK = 64  # classes


def postprocess(
    outputs: Outputs,
    labels: Sequence[ClassLabel],
    *,
    k: int,
    min_probability: float,
    chosen: Chosen | None = None,
    groups: Sequence[Group] = (),
    roll_up: float = 0.0,
    thresholds: NDArray[np.float32] | None = None,
    passed_only: bool = False,
) -> tuple[tuple[Prediction, ...], Outputs]:
    """Predictions of one image, none where no probabilities were asked for, and the other outputs as they are.

    Args:
        outputs: of the network, by name.
        labels: one a class.
        k: the most predictions.
        min_probability: leave out predictions below it.
        chosen: the classes that may answer; None: all. The probabilities of others are 0.
        groups: that the answer may be rolled up to, the smallest first.
        roll_up: the probability that a class or else a group must have to be the answer; 0: any will do.
        thresholds: of a multi-label model, float32 ``[classes]``: each prediction tells whether it is at least its own.
        passed_only: leave out, too, what is not.
    """
    others = {name: values for name, values in outputs.items() if name != PROBABILITIES}
    found = outputs.get(PROBABILITIES)
    if found is None:
        return (), others
    places = None if chosen is None else chosen.classes
    if thresholds is not None and passed_only:
        passed = (found >= thresholds).nonzero()[0]
        places = passed if places is None else np.intersect1d(passed, places)
    if places is None:
        predictions = top_k(found, labels, k=k, min_probability=min_probability)
    else:
        allowed = [labels[place] for place in places]
        predictions = top_k(found[places], allowed, k=min(k, len(places)), min_probability=min_probability)
        for each in predictions:
            each.index = int(places[each.index])
    if thresholds is not None:
        for each in predictions:
            each.over_threshold = bool(found[each.index] >= thresholds[each.index])
    if groups and (group := rolled_up(found, groups, roll_up)) is not None and group.probability >= min_probability:
        predictions = (group, *predictions)[:k]
    return predictions, others


def rolled_up(probabilities: NDArray[np.float32], groups: Sequence[Group], least: float) -> Prediction | None:
    """The first of the groups that is at least so probable, where no class is; else None."""
    if probabilities.max() >= least:
        return None
    for group in groups:
        theirs = probabilities[group.classes]
        if (together := float(theirs.sum(dtype=np.float64))) >= least:
            return Prediction(int(group.classes[theirs.argmax()]), group.name, "", min(1.0, together), is_group=True)
    return None


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
    if k < len(probabilities) > _FEW:
        # Sorting the k most probable ones in Python is enough. Beside those above the k-th there may be many that equal
        # it: a network that is sure gives most classes a probability of 0. Among so many equals `numpy.partition` takes
        # twenty times as long as sorting, and where there are none it is no faster.
        least = np.sort(_contenders(probabilities, k))[-k]
        above = (probabilities > least).nonzero()[0]
        equal = (probabilities == least).nonzero()[0][: k - len(above)]
        candidates = np.concatenate((above, equal))
        indices, values = candidates.tolist(), probabilities[candidates].tolist()
    else:
        indices, values = range(len(probabilities)), probabilities.tolist()
    order = sorted(zip(indices, values, strict=True), key=itemgetter(1), reverse=True)[:k]
    return tuple(
        [
            Prediction(index, (label := labels[index]).label, label.class_id, value)
            for index, value in order
            if value >= min_probability
        ]
    )


def _contenders(probabilities: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """The k largest and, of many, few others: those that are at least the k-th largest of the maxima of blocks."""
    if len(probabilities) < max(_MANY, _BLOCK * k):
        return probabilities
    maxima = np.maximum.reduceat(probabilities, np.arange(0, len(probabilities), _BLOCK))
    found: NDArray[np.float32] = probabilities[probabilities >= np.sort(maxima)[-k]]
    return found
