"""Scores of novelty that look into the network: what they are fitted from, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from glimpse.models.calibration.rounding import rounded_up
from glimpse.models.novelty import feature_distance, logistic_score, novelty
from glimpse.models.novelty.feature_distance import FeatureDistance
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import EMBEDDING, FEATURE_STATISTICS, LOGITS

Outputs = dict[str, NDArray[np.float32]]  # of N images, by the names of `models.outputs`


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """Statistics of an inner layer, from which the score `models.novelty.novelty.FEATURE_DISTANCE` is fitted.

    Attributes:
        layer: whose they are.
        known: ``[N, D]``, of the images of the classes.
        foreign: ``[M, D]``, of images that show none of them, by the name of their set.
        trained: ``[K, D]``, of images that the network was trained on; None: the distance is fitted on some of `known`.
    """

    layer: str
    known: NDArray[np.float32]
    foreign: Mapping[str, NDArray[np.float32]]
    trained: NDArray[np.float32] | None = None

    def of_known(self) -> Outputs:
        """What the score needs of the images of the classes, beside the logits."""
        return {FEATURE_STATISTICS: self.known}

    def of_foreign(self, name: str) -> Outputs:
        """The same of the images of a foreign set."""
        return {FEATURE_STATISTICS: self.foreign[name]}

    def judged_by(
        self,
        fitted: NDArray[np.int64],
        logits: NDArray[np.floating],
        foreign: Mapping[str, NDArray[np.floating]],  # noqa: ARG002 - the distance is to known images alone
    ) -> NoveltyThreshold:
        """The threshold that 95% of known images pass.

        Args:
            fitted: indices of the images of the classes that it may be fitted on. Where there are none that the network
                was trained on, the distance is fitted on every other one of these, and the threshold on the rest.
            logits: ``[N, classes]``, of all images of the classes.
            foreign: not looked at.

        Raises:
            ValueError: there are too few images.
        """
        distance, rest = self.distance(fitted, logits, parts=2)
        found = NoveltyThreshold(score=novelty.FEATURE_DISTANCE, threshold=0.0, images=len(rest), distance=distance)
        return _with_threshold(found, {LOGITS: logits, **self.of_known()}, rest)

    def distance(
        self, fitted: NDArray[np.int64], logits: NDArray[np.floating], *, parts: int
    ) -> tuple[FeatureDistance, NDArray[np.int64]]:
        """The distance, and the indices of the images that it was not fitted on.

        Args:
            fitted: see `judged_by`.
            logits: see `judged_by`.
            parts: of the images, one of which the distance has where there are none that the network was trained on.

        Raises:
            ValueError: there are too few images.
        """
        if self.trained is None:
            first = np.arange(len(fitted)) % parts == 0
            near, rest = self.known[fitted[first]], fitted[~first]
        else:
            near, rest = self.trained, fitted
        entropy = novelty.entropy(np.asarray(logits[rest], np.float64))
        return feature_distance.fit(self.layer, near, self.known[rest], entropy), rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Embeddings, from which the score `models.novelty.novelty.LOGISTIC` is fitted.

    Attributes:
        known: ``[N, D]``, of the images of the classes.
        foreign: ``[M, D]``, of images that show none of them, by the name of their set.
        inner: the same of an inner layer, whose distance the score has, too; None: it has none.
    """

    known: NDArray[np.float32]
    foreign: Mapping[str, NDArray[np.float32]]
    inner: Inner | None = None

    def of_known(self) -> Outputs:
        """What the score needs of the images of the classes, beside the logits."""
        return {EMBEDDING: self.known, **({} if self.inner is None else self.inner.of_known())}

    def of_foreign(self, name: str) -> Outputs:
        """The same of the images of a foreign set."""
        return {EMBEDDING: self.foreign[name], **({} if self.inner is None else self.inner.of_foreign(name))}

    def judged_by(
        self,
        fitted: NDArray[np.int64],
        logits: NDArray[np.floating],
        foreign: Mapping[str, NDArray[np.floating]],
    ) -> NoveltyThreshold:
        """The threshold that 95% of known images pass.

        Args:
            fitted: indices of the images of the classes that it may be fitted on: the distance, if any, as
                `Inner.judged_by`, the score on every other one of the rest, and the threshold on those between them.
            logits: ``[N, classes]``, of all images of the classes.
            foreign: ``[M, classes]``, of the sets that the score may be fitted on, by name. Of each, every other image
                is taken.

        Raises:
            ValueError: there are too few images, or the embedding is too large.
        """
        distance, rest = (None, fitted) if self.inner is None else self.inner.distance(fitted, logits, parts=3)
        near, rest = rest[::2], rest[1::2]
        known = {LOGITS: logits, **self.of_known()}
        others = [
            {output: each[::2] for output, each in {LOGITS: scores, **self.of_foreign(name)}.items()}
            for name, scores in foreign.items()
        ]
        logistic = logistic_score.fit(
            _columns({output: each[near] for output, each in known.items()}, distance),
            [_columns(each, distance) for each in others],
            distance=distance is not None,
        )
        found = NoveltyThreshold(
            score=novelty.LOGISTIC, threshold=0.0, images=len(rest), distance=distance, logistic=logistic
        )
        return _with_threshold(found, known, rest)


def _columns(outputs: Outputs, distance: FeatureDistance | None) -> NDArray[np.float64]:
    unsure = novelty.entropy(np.asarray(outputs[LOGITS], np.float64))
    away = None if distance is None else distance.log_distance(outputs[FEATURE_STATISTICS])
    return logistic_score.columns(outputs[EMBEDDING], unsure, away)


def _with_threshold(found: NoveltyThreshold, known: Outputs, rest: NDArray[np.int64]) -> NoveltyThreshold:
    """With the threshold that 95% of the images of these indices pass."""
    scores = found.scores({name: each[rest] for name, each in known.items()})
    return replace(found, threshold=rounded_up(novelty.fit_threshold(scores)))
