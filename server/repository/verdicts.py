"""What two versions say of the labels of an image, where the one that answered is multi-label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glimpse.models.labels import ClassLabel
from glimpse.models.outputs import PROBABILITIES
from glimpse.server.domain import Classification, ClassifyRequest, ImageResult
from glimpse.server.loaded_model import LoadedModel


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Which labels an answer tells of an image, and which not."""

    passed: Mapping[str, bool]  # by the label's name, whether its probability is at least its threshold
    complete: bool  # every label that is not among them is not told, either

    def agrees(self, told: frozenset[str]) -> bool:
        """Whether another version, which tells these labels, says the same of all that the answer tells of."""
        same = all((name in told) == passed for name, passed in self.passed.items())
        return same and (not self.complete or told <= self.passed.keys())


def name(label: ClassLabel) -> str:
    """By what a class is the same in another version, whose classes may be in another order."""
    return label.class_id or label.label


def of_answer(
    request: ClassifyRequest, result: ImageResult, answer: Classification, model: LoadedModel
) -> Verdicts | None:
    """Those of one image's answer by `model`; None: the model is not multi-label."""
    if model.classes.thresholds is None:
        return None
    if (probabilities := result.outputs.get(PROBABILITIES)) is not None:
        told = of_model(model, probabilities)
        return Verdicts({name(each): name(each) in told for each in answer.labels}, complete=True)
    passed = {each.class_id or each.label: bool(each.over_threshold) for each in result.predictions}
    return Verdicts(passed, complete=request.top_k is None and not request.min_probability)


def of_model(model: LoadedModel, probabilities: NDArray[np.float32]) -> frozenset[str]:
    """The labels that a model tells of an image by its probabilities; of one that is not multi-label, the first."""
    labels, thresholds = model.bundle.labels, model.classes.thresholds
    if thresholds is None:
        return frozenset({name(labels[int(probabilities.argmax())])})
    return frozenset(name(labels[place]) for place in (probabilities >= thresholds).nonzero()[0])
