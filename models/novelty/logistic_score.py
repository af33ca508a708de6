"""A score of novelty that is fitted on foreign images: how likely one is foreign, by what the network makes of it.

A logistic regression of known images against foreign ones on the embedding and the entropy of the answer, and, where
there is one, on the distance of an inner layer's statistics (`models.novelty.feature_distance`). That foreign images
to learn from help with others, too, is outlier exposure (Hendrycks et al., arXiv:1812.04606); there the network learns
from them, and here it stays as it is. The embedding tells what the classes look like, so that the score also tells
things that the network never saw from photographs like those of its classes; the distance tells other kinds of
pictures.

Neither Keras nor gRPC is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from glimpse.models.novelty import described, number_texts

MOST_FEATURES: Final = 2048  # of an embedding: 11 KB of a description
FEWEST: Final = 10  # images of a kind, known ones and foreign ones, at the least
# On half the squared weights, for each feature, beside a mean loss. Chosen by foreign sets that were left out in turn,
# with the shipped model: with less, known photographs of other cameras become unknown; with more, drawings pass.
_PENALTY = 5e-5
# Standard deviations of the entropy that are added for one of the score. A regression gives it little weight, because a
# network is often sure of a foreign image; without it, images of a class that is taken out of the answers are hardly
# told, and with twice as much drawings are not.
_SHARE_OF_ENTROPY = 0.15
_STEPS = 50  # of Newton's method, at the most; some eight are taken
_PRECISION = 1e-6  # of the weights
_LEAST_VARIANCE = 1e-6  # of a feature over the images
_LARGEST = 1e9  # number of a description
_WHAT = "the logistic score of novelty"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticScore:
    """Weights of a sum. Compared and pickled by what is written into a bundle.

    Attributes:
        features: D, numbers of the embedding.
        known: images that it was fitted on, of the classes.
        foreign: and of none of them.
        weights: base64 of float32 ``[D]``, of the embedding.
        entropy_weight: of the entropy of the probabilities, in nats.
        distance_weight: of the logarithm of the distance (`models.novelty.feature_distance`); None: there is none.
        offset: added to the sum.
    """

    features: int
    known: int
    foreign: int
    weights: str
    entropy_weight: float
    distance_weight: float | None = None
    offset: float = 0.0
    _array: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises: ValueError: the weights have another size than they should, or one of them is not valid."""
        read = number_texts.read(self.weights, f"weights of {_WHAT}", "<f4", self.features)
        object.__setattr__(self, "_array", read)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LogisticScore:
        """From what a description has.

        Raises:
            ValueError: a value is missing or not valid.
        """
        needed = ("features", "known", "foreign", "weights", "entropy_weight", "offset")
        features, known, foreign, weights, *_ = described.fields(values, needed, _WHAT)
        if type(features) is not int or not 0 < features <= MOST_FEATURES:
            raise ValueError(f"the features of {_WHAT} must be a whole number from 1 to {MOST_FEATURES}")
        described.counts(f"the images of {_WHAT}", known, foreign)
        weights = described.texts({"weights": weights}, _WHAT)["weights"]
        numbers = {
            name: described.number(values[name], f"{name} of {_WHAT}", -_LARGEST, _LARGEST)
            for name in ("entropy_weight", "offset", "distance_weight")
            if name in values
        }
        return cls(features=features, known=known, foreign=foreign, weights=weights, **numbers)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads."""
        return {
            "features": self.features,
            "known": self.known,
            "foreign": self.foreign,
            "weights": self.weights,
            "entropy_weight": self.entropy_weight,
            **({} if self.distance_weight is None else {"distance_weight": self.distance_weight}),
            "offset": self.offset,
        }

    def score(
        self,
        embedding: NDArray[np.floating],
        entropy: NDArray[np.float64],
        log_distance: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """The score of every image, float64 ``[N]``: the logarithm of the odds that it is foreign, and more entropy.

        Args:
            embedding: ``[N, D]``.
            entropy: float64 ``[N]``, of the probabilities, in nats.
            log_distance: float64 ``[N]``; None: the score has no distance.
        """
        found = np.asarray(embedding, np.float64) @ self._array + self.entropy_weight * entropy + self.offset
        if self.distance_weight is not None and log_distance is not None:
            found = found + self.distance_weight * log_distance
        return np.asarray(found)


def fit(known: NDArray[np.floating], foreign: Sequence[NDArray[np.floating]], *, distance: bool) -> LogisticScore:
    """The score that tells known images from foreign ones best, with small weights.

    Known and foreign images count equally together, and each foreign set by the root of its number of images: neither
    does a large one decide alone, nor a small one as much as it.

    Args:
        known: ``[N, D + 1]`` or ``[N, D + 2]``, of images that the network was not trained on: see `columns`.
        foreign: the same of images that show none of the classes, by set.
        distance: whether the last column is the logarithm of a distance.

    Raises:
        ValueError: there are too few images, or too many features.
    """
    size = known.shape[1] - 1 - distance
    if size > MOST_FEATURES:
        raise ValueError(
            f"The network's embedding has {size:,} numbers, and the score logistic can have at most {MOST_FEATURES:,}. "
            "Choose another score."
        )
    others = sum(map(len, foreign))
    if min(len(known), others) < FEWEST:
        raise ValueError(
            f"The score logistic needs at least {FEWEST} images of the classes and {FEWEST} foreign ones to be fitted "
            f"on. Received: {len(known):,} and {others:,}. A quarter of --data and half of --foreign are used; give "
            "more, some hundreds of each make it reliable."
        )
    roots = np.array([math.sqrt(len(each)) for each in foreign])
    parts = [np.full(len(known), 0.5 / len(known))]
    parts += [
        np.full(len(each), 0.5 * root / roots.sum() / len(each)) for each, root in zip(foreign, roots, strict=True)
    ]
    share = np.concatenate(parts)
    values = np.concatenate([known, *foreign]).astype(np.float64)
    mean = share @ values
    scale = np.sqrt(share @ (values - mean) ** 2 + _LEAST_VARIANCE)
    weights, offset = _regression((values - mean) / scale, len(known), share)
    weights = weights / scale
    entropy = np.asarray(known[:, size], np.float64)
    if (spread := float(entropy.std())) > 0:
        more = _SHARE_OF_ENTROPY * float((known @ weights).std()) / spread
        weights[size] += more
        offset -= more * float(entropy.mean())
    return LogisticScore(
        features=size,
        known=len(known),
        foreign=others,
        weights=number_texts.write(weights[:size].astype("<f4")),
        entropy_weight=float(weights[size]),
        distance_weight=float(weights[-1]) if distance else None,
        offset=float(offset - mean @ weights),
    )


def columns(
    embedding: NDArray[np.floating], entropy: NDArray[np.float64], log_distance: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """What `fit` takes of N images: their embeddings ``[N, D]``, entropies and, where there are any, distances."""
    rest = [entropy] if log_distance is None else [entropy, log_distance]
    return np.column_stack([np.asarray(embedding, np.float64), *rest])


def _regression(
    values: NDArray[np.float64], known: int, share: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Weights ``[D]`` and offset of the regression, by Newton's method: the penalty makes it convex.

    Args:
        values: ``[N, D]``, the known images first.
        known: how many these are.
        share: ``[N]``, of each image in the mean loss.
    """
    inputs = np.column_stack([values, np.ones(len(values))])
    foreign = np.arange(len(values)) >= known
    penalty = np.full(inputs.shape[1], _PENALTY * values.shape[1])
    penalty[-1] = 0  # the offset is free
    found = np.zeros(inputs.shape[1])
    for _ in range(_STEPS):
        odds = 1 / (1 + np.exp(-np.clip(inputs @ found, -500, 500)))
        slope = inputs.T @ (share * (odds - foreign)) + penalty * found
        curvature = (inputs * (share * odds * (1 - odds))[:, np.newaxis]).T @ inputs + np.diag(penalty + 1e-12)
        step = np.linalg.solve(curvature, slope)
        found = found - step
        if np.abs(step).max() < _PRECISION:
            break
    return found[:-1], float(found[-1])
