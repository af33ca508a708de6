"""What is looked at of an answer: the first classes of each image, its novelty, and by what name it is known later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glimpse.models import novelty
from glimpse.models.labels import ClassLabel
from glimpse.models.novelty import NoveltyThreshold
from glimpse.models.outputs import LOGITS, PROBABILITIES, Outputs
from glimpse.server.domain import Classification, Novelty

FIRST = 5  # classes of an answer that are looked at


@dataclass(frozen=True, slots=True)
class First:
    """The most probable classes of one image, by falling probability."""

    classes: tuple[int, ...]  # indices
    probabilities: tuple[float, ...]
    novelty: Novelty | None  # None: the model has no threshold, or nobody has to know

    @property
    def margin(self) -> float:
        """By how much the first class is more probable than the second, 0 to 1; 1 where there is no second."""
        return self.probabilities[0] - self.probabilities[1] if len(self.probabilities) > 1 else 1.0

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
    return First(tuple(ordered.tolist()), tuple(probabilities[ordered].tolist()), _novelty(outputs, computed.novelty))


def _highest(probabilities: NDArray[np.float32]) -> NDArray[np.intp]:
    """The indices of the `FIRST` highest, by falling probability; of equal ones the lower index first."""
    count = min(FIRST, len(probabilities))
    some = np.sort(np.argpartition(-probabilities, count - 1)[:count])
    return some[np.argsort(-probabilities[some], kind="stable")]


def _novelty(outputs: Outputs, fitted: NoveltyThreshold | None) -> Novelty | None:
    if fitted is None or LOGITS not in outputs:
        return None
    return Novelty(float(novelty.score(fitted.score, outputs[LOGITS][np.newaxis])[0]), fitted.threshold)


def sample_name(request_id: str, image: int) -> str:
    """The name of a sample's files: it follows from the request, so that feedback finds it, and tells nothing of it.

    Args:
        request_id: of the request, as it is told with the answer.
        image: its number in the request, from 0.
    """
    return hashlib.blake2b(f"{request_id}\0{image}".encode(), digest_size=16).hexdigest()
