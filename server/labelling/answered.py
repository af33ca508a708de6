"""What is looked at of an answer: the first classes of each image, its novelty, and by what name it is known later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glimpse.models.drift import Bins
from glimpse.models.labels import ClassLabel
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import PROBABILITIES, Outputs
from glimpse.server.domain import Classification, Novelty

FIRST = 5  # classes of an answer that are looked at
_NEAR_THRESHOLD = 0.05  # of the threshold of novelty
_TENTHS = 11  # edges of a reference whose values are not equal


@dataclass(frozen=True, slots=True)
class First:
    """The most probable classes of one image, by falling probability."""

    classes: tuple[int, ...]  # indices
    probabilities: tuple[float, ...]
    novelty: Novelty | None  # None: the model has no threshold, or nobody has to know
    margin: float = 1.0  # from 0, where the answer could as well be another one, to 1, see `_margin`
    at_threshold: bool = False  # its score of novelty is near the threshold, see `_width`

    def told(self, labels: Sequence[ClassLabel]) -> list[dict[str, object]]:
        """The classes as a JSON file has them."""
        return [
            {
                "index": index,
                "label": labels[index].label,
                "class_id": labels[index].class_id,
                "probability": round(probability, 6),
            }
            for index, probability in zip(self.classes, self.probabilities, strict=True)
        ]


def first_of(answer: Classification, number: int) -> First | None:
    """Of an image of a request, from 0; None: it could not be classified, or its probabilities are not at hand."""
    computed = answer.computed
    outputs = None if computed is None else computed.outputs[number]
    if computed is None or outputs is None or PROBABILITIES not in outputs:
        return None
    probabilities = outputs[PROBABILITIES]
    ordered = _highest(probabilities)
    highest = tuple(probabilities[ordered].tolist())
    margin = _margin(highest) if computed.thresholds is None else _nearest(probabilities, computed.thresholds)
    novelty = _novelty(outputs, computed.novelty)
    near = novelty is not None and abs(novelty.score - novelty.threshold) < _width(novelty.threshold, computed.known)
    return First(tuple(ordered.tolist()), highest, novelty, margin, near)


def _highest(probabilities: NDArray[np.float32]) -> NDArray[np.intp]:
    """The indices of the `FIRST` highest, by falling probability; of equal ones the lower index first."""
    count = min(FIRST, len(probabilities))
    some = np.sort(np.argpartition(-probabilities, count - 1)[:count])
    return some[np.argsort(-probabilities[some], kind="stable")]


def _margin(highest: Sequence[float]) -> float:
    """By how much the first class is more probable than the second; 1 where there is no second."""
    return highest[0] - highest[1] if len(highest) > 1 else 1.0


def _nearest(probabilities: NDArray[np.float32], thresholds: NDArray[np.float32]) -> float:
    """How near the label of a multi-label model that is nearest its threshold is to it, 1 at the most.

    As a share of what the threshold is away from 0 or 1, whichever is nearer: at 0.5 that is the margin of two classes.
    """
    range_ = np.minimum(thresholds, 1 - thresholds)
    away = np.abs(probabilities - thresholds)
    # Whoever sets a threshold of 0 or 1 has decided: nothing is near it.
    return float(np.divide(away, range_, out=np.ones_like(away), where=range_ > 0).min(initial=1.0))


def _width(threshold: float, known: Bins | None) -> float:
    """By less than this a score of novelty differs from the threshold if it is near it.

    The score of one image in twenty of the classes lies that far below the threshold at most: it is where a tenth of
    them is above that such scores begin. Scores have any scale, so that a share of the threshold says little of them;
    it is taken where nothing is known of their distribution.

    Args:
        threshold: above it an image is unknown.
        known: scores of images of the classes, in tenths.
    """
    if known is None or len(known.edges) < _TENTHS:
        return _NEAR_THRESHOLD * abs(threshold)
    eighty, ninety = known.edges[-3:-1]
    # Half of the tenth before, where the threshold is of other images and not above these.
    return max(threshold - ninety, (ninety - eighty) / 2)


def _novelty(outputs: Outputs, fitted: NoveltyThreshold | None) -> Novelty | None:
    if fitted is None or not fitted.needs <= outputs.keys():
        return None
    (score,) = fitted.scores({name: outputs[name][np.newaxis] for name in fitted.needs})
    return Novelty(float(score), fitted.threshold)


def sample_name(request_id: str, image: int) -> str:
    """The name of a sample's files: it follows from the request, so that feedback finds it, and tells nothing of it.

    Args:
        request_id: of the request, as it is told with the answer.
        image: its number in the request, from 0.
    """
    return hashlib.blake2b(f"{request_id}\0{image}".encode(), digest_size=16).hexdigest()
