"""How unlike its classes an image is to a network: a score from the logits, and the threshold from which it is unknown.

Every score is higher for images that show none of the classes. All but two need no more than the logits, so that any
network, runtime and graph of another framework has them; which of them tells foreign images best differs from network
to network, so a bundle names its own beside the threshold (`models.bundle`). The others are fitted for the network: one
also looks at an inner layer (`models.novelty.feature_distance`), the other at the embedding, and at that layer where it
is told to (`models.novelty.logistic_score`). The temperature of the calibration plays no part, so that a threshold
stays right when another one is fitted.

Neither Keras nor gRPC is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from glimpse.models.novelty import described
from glimpse.models.novelty.feature_distance import FeatureDistance
from glimpse.models.novelty.logistic_score import LogisticScore
from glimpse.models.outputs import EMBEDDING, FEATURE_STATISTICS, LOGITS

KNOWN_SHARE: Final = 0.95  # of images of the classes that a threshold lets pass
FEWEST_IMAGES: Final = 20  # that a threshold is fitted on: of fewer, one image is more than the share that may fail

# Of generalised entropy, as in its paper's experiments with 1,000 classes: section 3.
_GAMMA = 0.1
_MOST_CLASSES = 100

Score = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyThreshold:
    """From which score on an image is unknown to a model.

    Attributes:
        score: one of `NAMES`.
        threshold: images with a higher score are unknown.
        known_share: of the images that it was fitted on, 0..1, which it lets pass.
        images: of the model's classes, on which it was fitted.
        distance: of the score `FEATURE_DISTANCE`, and of `LOGISTIC` where that has one; None: of every other.
        logistic: of the score `LOGISTIC`; None: of every other.
    """

    score: str
    threshold: float
    known_share: float = KNOWN_SHARE
    images: int = 0
    distance: FeatureDistance | None = None
    logistic: LogisticScore | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The outputs of the network that the score is computed from."""
        needed = {LOGITS}
        if self.distance is not None:
            needed.add(FEATURE_STATISTICS)
        if self.logistic is not None:
            needed.add(EMBEDDING)
        return frozenset(needed)

    def scores(self, outputs: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
        """The score of every image, higher for what is less like the classes.

        Args:
            outputs: of N images, those that it `needs`.

        Returns:
            float64 ``[N]``; the largest float32 where the outputs are not finite, so that such an image is unknown.
        """
        if self.distance is None and self.logistic is None:
            return score(self.score, outputs[LOGITS])
        with np.errstate(all="ignore"):
            unsure = entropy(np.asarray(outputs[LOGITS], np.float64))
            if self.logistic is None:
                assert self.distance is not None  # noqa: S101 - one of them is there
                return _finite(self.distance.score(outputs[FEATURE_STATISTICS], unsure))
            away = None if self.distance is None else self.distance.log_distance(outputs[FEATURE_STATISTICS])
            return _finite(self.logistic.score(outputs[EMBEDDING], unsure, away))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NoveltyThreshold:
        """From what a description has.

        Raises:
            ValueError: a value is missing or not valid.
        """
        described.fields(values, ("score", "threshold"), "novelty")
        if not isinstance(values["score"], str) or values["score"] not in NAMES:
            raise ValueError(f"the score of novelty must be one of {', '.join(NAMES)}")
        if (values["score"] == LOGISTIC) != ("logistic" in values):
            raise ValueError(
                f"novelty must have the weights of a logistic score if, and only if, its score is {LOGISTIC}"
            )
        logistic = LogisticScore.from_dict(values["logistic"]) if "logistic" in values else None
        has_distance = values["score"] == FEATURE_DISTANCE if logistic is None else logistic.distance_weight is not None
        if has_distance != ("distance" in values):
            raise ValueError(
                f"novelty must have a distance if, and only if, its score is {FEATURE_DISTANCE}, or {LOGISTIC} with a "
                "distance_weight"
            )
        images = values.get("images", 0)
        described.counts("the images of novelty", images)
        share = described.number(values.get("known_share", KNOWN_SHARE), "known_share of novelty")
        if not 0 < share <= 1:
            raise ValueError("known_share of novelty must be above 0 and at most 1")
        threshold = described.number(values["threshold"], "threshold of novelty")
        distance = FeatureDistance.from_dict(values["distance"]) if "distance" in values else None
        return cls(
            score=values["score"],
            threshold=threshold,
            known_share=share,
            images=images,
            distance=distance,
            logistic=logistic,
        )

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads."""
        return {
            "score": self.score,
            "threshold": self.threshold,
            "known_share": self.known_share,
            "images": self.images,
            **({} if self.logistic is None else {"logistic": self.logistic.to_dict()}),
            **({} if self.distance is None else {"distance": self.distance.to_dict()}),
        }


def energy(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """-log(sum(exp(logits))). Liu et al., arXiv:2010.03759, section 3, at temperature 1."""
    highest = logits.max(axis=1, keepdims=True)
    return np.asarray(-(highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))))


def max_logit(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The highest logit, negated. Hendrycks et al., arXiv:1911.11132."""
    return np.asarray(-logits.max(axis=1))


def max_probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 minus the highest probability. Hendrycks and Gimpel, arXiv:1610.02136."""
    return np.asarray(1 - _probabilities(logits).max(axis=1))


def entropy(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of the probabilities, in nats."""
    found = _probabilities(logits)
    return np.asarray(-(found * np.log(np.maximum(found, np.finfo(np.float64).tiny))).sum(axis=1))


def generalised_entropy(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of p^0.1 * (1 - p)^0.1 over the hundred most probable classes. Liu et al., "GEN", CVPR 2023, section 3."""
    found = _probabilities(logits)
    if found.shape[1] > _MOST_CLASSES:
        found = np.partition(found, -_MOST_CLASSES, axis=1)[:, -_MOST_CLASSES:]
    return np.asarray(((found * (1 - found)).clip(0) ** _GAMMA).sum(axis=1))


SCORES: Final[Mapping[str, Score]] = {
    "energy": energy,
    "max_logit": max_logit,
    "max_probability": max_probability,
    "entropy": entropy,
    "generalised_entropy": generalised_entropy,
}
FEATURE_DISTANCE: Final = "feature_distance"
LOGISTIC: Final = "logistic"
NAMES: Final = (*SCORES, FEATURE_DISTANCE, LOGISTIC)
# Where there are no foreign images to choose by: the best, or nearly so, on both shipped models.
DEFAULT_SCORE: Final = "generalised_entropy"


def score(name: str, logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """The score of every image, higher for what is less like the classes.

    Args:
        name: one of `SCORES`.
        logits: ``[N, classes]``, before temperature and softmax.

    Returns:
        float64 ``[N]``; the largest float32 where logits are not finite, so that such an image is unknown.
    """
    with np.errstate(all="ignore"):
        found = SCORES[name](np.asarray(logits, np.float64))
    return _finite(found)


def fit_threshold(known: NDArray[np.float64], share: float = KNOWN_SHARE) -> float:
    """The lowest of the scores that lets that share of images pass.

    Args:
        known: ``[N]``, scores of images of the classes that the network was not trained on.
        share: 0..1, of them to pass.

    Raises:
        ValueError: there are fewer than `FEWEST_IMAGES`, or more than may fail have no score.
    """
    if len(known) < FEWEST_IMAGES:
        raise ValueError(
            f"A threshold of novelty needs at least {FEWEST_IMAGES} images that the network was not trained on. "
            f"Received: {len(known)}"
        )
    found = float(np.sort(known)[math.ceil(share * len(known)) - 1])
    if not found < float(np.finfo(np.float32).max):  # which no image would exceed
        raise ValueError(
            f"More than {1 - share:.0%} of the images have no score of novelty, because the network gives numbers for "
            "them that are infinite or none. Are its weights whole, and is the scaling of the recipe theirs?"
        )
    return found


def auroc(known: NDArray[np.floating], foreign: NDArray[np.floating]) -> float:
    """Area under the ROC curve: how likely a foreign image has a higher score than a known one; equal ones count half.

    The statistic of Mann and Whitney, from ranks.

    Args:
        known: ``[N]``, scores of images of the classes.
        foreign: ``[M]``, of images that show none of them.

    Raises:
        ValueError: one of them is empty.
    """
    if not (len(known) and len(foreign)):
        raise ValueError("An AUROC needs known images and foreign ones.")
    sorted_known = np.sort(known)
    below = np.searchsorted(sorted_known, foreign, side="left")
    not_above = np.searchsorted(sorted_known, foreign, side="right")
    return float((below + not_above).mean() / (2 * len(known)))


def _finite(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """With the largest float32 in the place of what is no number."""
    return np.where(np.isfinite(scores), scores, float(np.finfo(np.float32).max))


def _probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
