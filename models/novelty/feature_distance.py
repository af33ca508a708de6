"""How far an image's features are from those of known images: a score of novelty that looks into the network.

It is the Mahalanobis distance (Lee et al., arXiv:1807.03888, section 2) of the means and standard deviations of an
inner layer's channels, with the entropy of the answer beside it.

What a network makes of an image at its end says which class it resembles. What an inner layer makes of it also says how
the image looks: textures, drawings and noise have other averages there than photographs of the classes, though the
network may be sure of a class. One normal distribution is fitted for all classes together; one for each class tells no
better on the shipped model, and is ten times as large.

The layer's statistics are an output of the network (`models.outputs.FEATURE_STATISTICS`): `models.features` makes them.
Neither Keras nor gRPC is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from glimpse.models.novelty import described, number_texts

MOST_FEATURES: Final = 192  # of 96 channels, whose matrix takes 49 KB of a description
IMAGES_FOR_EACH: Final = 2  # images for each feature that a distance is fitted on, at the least
_LONGEST_NAME = 200  # of a layer
_WHAT = "the distance of novelty"
_FIELDS, _ARRAYS = ("layer", "features", "images", "entropy_weight"), ("mean", "scale", "whitening")
_SHRINKAGE = 1e-3  # added to the diagonal of the correlations, so that features which follow from others do no harm
_LEAST_VARIANCE = 1e-6  # of a channel over the positions, and of a feature over the images
# Standard deviations of the entropy for one of the logarithm of the distance. With less, images of a class that is
# taken out of the answers are hardly told; with more, drawings are not.
_SHARE_OF_ENTROPY = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDistance:
    """A distance to the features of known images. Compared and pickled by what is written into a bundle.

    Attributes:
        layer: of the network, whose output ``[N, H, W, C]`` the features are of.
        features: D, twice its channels.
        images: that it was fitted on.
        entropy_weight: by which the entropy is multiplied before it is added to the logarithm of the distance.
        mean: base64 of float32 ``[D]``, of each feature.
        scale: base64 of float32 ``[D]``, the standard deviation of each.
        whitening: base64 of float16 ``[D * (D + 1) / 2]``: the rows, each up to the diagonal, of the lower triangular
            matrix by which scaled features are multiplied from the right, so that their covariance is 1.
    """

    layer: str
    features: int
    images: int
    entropy_weight: float
    mean: str
    scale: str
    whitening: str
    _arrays: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Raises: ValueError: an array has another size than it should, or a number in it is not valid."""
        size = self.features
        mean = number_texts.read(self.mean, f"mean of {_WHAT}", "<f4", size)
        scale = number_texts.read(self.scale, f"scale of {_WHAT}", "<f4", size)
        triangle = number_texts.read(self.whitening, f"whitening of {_WHAT}", "<f2", size * (size + 1) // 2)
        if not (scale > 0).all():
            raise ValueError(f"scale of {_WHAT} must be positive")
        matrix = np.zeros((size, size))
        matrix[np.tril_indices(size)] = triangle
        object.__setattr__(self, "_arrays", (mean, scale, matrix))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureDistance:
        """From what a description has.

        Raises:
            ValueError: a value is missing or not valid.
        """
        layer, features, images, weight = described.fields(values, (*_FIELDS, *_ARRAYS), _WHAT)[: len(_FIELDS)]
        if not (isinstance(layer, str) and 0 < len(layer) <= _LONGEST_NAME and layer.isprintable()):
            raise ValueError(f"the layer of {_WHAT} must be a name of up to {_LONGEST_NAME} characters")
        if type(features) is not int or features % 2 or not 0 < features <= MOST_FEATURES:
            raise ValueError(f"the features of {_WHAT} must be an even number up to {MOST_FEATURES}")
        described.counts(f"the images of {_WHAT}", images)
        weight = described.number(weight, f"entropy_weight of {_WHAT}", 0, 1e6)
        arrays = described.texts({name: values[name] for name in _ARRAYS}, _WHAT)
        return cls(layer=layer, features=features, images=images, entropy_weight=weight, **arrays)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads."""
        return {name: getattr(self, name) for name in (*_FIELDS, *_ARRAYS)}

    def log_distance(self, statistics: NDArray[np.floating]) -> NDArray[np.float64]:
        """The logarithm of the squared distance of every image: float64 ``[N]``.

        Args:
            statistics: ``[N, D]``, means and mean squares of the layer's channels.
        """
        mean, scale, matrix = self._arrays
        white = (_features(statistics) - mean) / scale @ matrix
        return np.asarray(np.log(np.maximum((white * white).sum(axis=1), np.finfo(np.float32).tiny)))

    def score(self, statistics: NDArray[np.floating], entropy: NDArray[np.float64]) -> NDArray[np.float64]:
        """The score of every image, ``[N]``: the logarithm of its squared distance plus weighted entropy in nats."""
        return self.log_distance(statistics) + self.entropy_weight * entropy


def fit(
    layer: str,
    known: NDArray[np.floating],
    statistics: NDArray[np.floating],
    entropy: NDArray[np.float64],
) -> FeatureDistance:
    """The distance to known images.

    Args:
        layer: whose statistics these are.
        known: ``[N, D]``, statistics of images of the classes; those that the network was trained on may be among them.
        statistics: ``[M, D]``, of images of the classes that the network was not trained on.
        entropy: float64 ``[M]``, of the network's probabilities for these, in nats.

    Raises:
        ValueError: there are too few images, or the layer has too many channels.
    """
    size = known.shape[1]
    if size > MOST_FEATURES:
        raise ValueError(
            f"The layer {layer} has {size // 2:,} channels, and a distance can have at most {MOST_FEATURES // 2}. Name "
            "another layer with --layer."
        )
    if len(known) < IMAGES_FOR_EACH * size:
        raise ValueError(
            f"A distance of {size} features needs at least {IMAGES_FOR_EACH * size:,} images to be fitted on. "
            f"Received: {len(known):,}. Give more, or those that the network was trained on with --trained-on."
        )
    features = _features(known)
    mean, scale = features.mean(axis=0), np.sqrt(features.var(axis=0) + _LEAST_VARIANCE)
    mean, scale = mean.astype("<f4"), scale.astype("<f4")
    scaled = (features - mean) / scale
    correlations = scaled.T @ scaled / len(scaled) + _SHRINKAGE * np.eye(size)
    matrix = np.linalg.cholesky(np.linalg.inv(correlations))
    unweighted = FeatureDistance(
        layer=layer,
        features=size,
        images=len(known),
        entropy_weight=0.0,
        mean=number_texts.write(mean),
        scale=number_texts.write(scale),
        whitening=number_texts.write(matrix[np.tril_indices(size)].astype("<f2")),
    )
    spread = float(entropy.std())
    weight = _SHARE_OF_ENTROPY * float(unweighted.log_distance(statistics).std()) / spread if spread > 0 else 0.0
    return FeatureDistance.from_dict(unweighted.to_dict() | {"entropy_weight": round(weight, 4)})


def _features(statistics: NDArray[np.floating]) -> NDArray[np.float64]:
    """Means and standard deviations, ``[N, D]``, from means and mean squares."""
    values = np.asarray(statistics, np.float64)
    means, squares = np.split(values, 2, axis=1)
    return np.concatenate([means, np.sqrt(np.maximum(squares - means * means, 0) + _LEAST_VARIANCE)], axis=1)
