"""Whether maps say what the network goes by, by the tests of the literature.

Deletion and insertion (Petsiuk et al., RISE, arXiv:1806.07421, section 4.2): where the parts that a map marks as the
most important are covered first, the probability of the class falls soon; where they are shown first, it rises soon.
Random weights (Adebayo et al., arXiv:1810.03292, section 4): the map of a network that has learned nothing is another.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from glimpse import Classifier
from glimpse.client import Explanation
from glimpse.models import class_maps, sources
from glimpse.models.prestem import graph, host
from glimpse.models.serving import load_bundle
from tests.conftest import SHARED

STEPS = 10  # of a curve
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def small() -> Iterator[Classifier]:
    with Classifier.load("cifar10", precision="float32") as classifier:
        yield classifier


@pytest.fixture(scope="module")
def small_photos(cifar10_test: Path) -> list[Pixels]:
    """Forty test images of CIFAR-10, four of each class."""
    with zipfile.ZipFile(cifar10_test) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // 40][:40]
        return [np.asarray(Image.open(archive.open(name)).convert("RGB")) for name in chosen]


def curves(
    classifier: Classifier, photos: Sequence[Pixels], maps: Sequence[NDArray[np.float64]], classes: Sequence[int]
) -> tuple[float, float]:
    """The areas under the curves of deletion and of insertion, the means over all photos: shares of the probability."""
    frames: list[Pixels] = []
    for photo, values in zip(photos, maps, strict=True):
        side = photo.shape[0]
        wide = np.asarray(Image.fromarray(values.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
        rank = np.argsort(np.argsort(-wide.ravel(), kind="stable")).reshape(side, side)  # 0: the most important
        plain = np.broadcast_to(photo.mean(axis=(0, 1)).round().astype(np.uint8), photo.shape)
        blurred = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(side / 12)))
        for behind, front in ((photo, plain), (blurred, photo)):
            for step in range(STEPS + 1):
                changed = (rank < rank.size * step / STEPS)[..., np.newaxis]
                frames.append(np.where(changed, front, behind).astype(np.uint8))
    logits = np.stack([np.asarray(each.logits) for each in classifier.classify(list(frames), outputs=["logits"])])
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    every = (raised / raised.sum(axis=1, keepdims=True)).reshape(len(photos), 2, STEPS + 1, -1)
    own = np.stack([each[..., index] for each, index in zip(every, classes, strict=True)])
    deletion, insertion = np.trapezoid(own, dx=1 / STEPS, axis=-1).mean(axis=0)
    return float(deletion), float(insertion)


def numbers(found: Explanation | None) -> NDArray[np.float64]:
    assert found is not None
    return np.frombuffer(found.values, np.uint8).reshape(found.rows, found.columns).astype(np.float64)


def check(classifier: Classifier, photos: Sequence[Pixels], method: str) -> None:
    """That the maps of a method are better than random ones of the same size, by both curves."""
    answers = classifier.classify(list(photos), explain=method)
    classes = [each.predictions[0].index for each in answers]
    maps = [numbers(each.explanation) for each in answers]
    generator = np.random.default_rng(0)
    random = [generator.permutation(each.ravel()).reshape(each.shape) for each in maps]
    deletion, insertion = curves(classifier, photos, maps, classes)
    deletion_of_random, insertion_of_random = curves(classifier, photos, random, classes)
    assert deletion < 0.9 * deletion_of_random
    assert insertion > 1.1 * insertion_of_random


@pytest.mark.parametrize("method", ["cam", "occlusion"])
def test_maps_are_better_than_random_ones(small: Classifier, small_photos: list[Pixels], method: str) -> None:
    check(small, small_photos if method == "cam" else small_photos[::4], method)


@pytest.mark.ci
@pytest.mark.parametrize("method", ["cam", pytest.param("occlusion", marks=pytest.mark.slow)])
def test_maps_of_the_default_model_are_better_than_random_ones(method: str) -> None:
    source = SHARED / "data" / "imagenet-val" / "images.zip"
    if not source.exists():
        pytest.skip("ImageNet's validation images are not at hand: ../shared/data/imagenet-val is missing")
    recipe = sources.resolve(sources.ModelSource(weights="imagenet")).recipe
    number = 24 if method == "cam" else 8
    with zipfile.ZipFile(source) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        chosen = names[:: len(names) // number][:number]
        photos = [host.fit(Image.open(archive.open(name)).convert("RGB"), recipe) for name in chosen]
    with Classifier.load("imagenet", precision="float32") as classifier:
        check(classifier, photos, method)


def test_random_weights_destroy_the_map(small_photos: list[Pixels]) -> None:
    """Those of the last layer alone, and those of all layers; a little noise in the photo does not."""
    bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
    network = load_bundle(bundle).model
    found = class_maps.find(network)
    assert found is not None
    assert found.head is not None
    both = keras.Model(network.inputs, [network.output, class_maps.maps(found)])

    def maps(
        photos: Sequence[Pixels], classes: NDArray[np.intp] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        scaled = graph.scale(keras.ops.convert_to_tensor(np.stack(photos)), bundle.recipe)
        logits, every = map(np.asarray, both(scaled, training=False))
        first = logits.argmax(axis=1) if classes is None else classes
        return np.stack([each[..., index] for each, index in zip(every, first, strict=True)]), first

    def alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        """The mean rank correlation of two maps of each photo."""
        ranks = [np.argsort(np.argsort(each.reshape(len(each), -1), axis=1), axis=1) for each in (one, other)]
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]))

    trained, classes = maps(small_photos)
    generator = np.random.default_rng(0)
    noisy = [np.clip(each + generator.normal(0, 3, each.shape), 0, 255).astype(np.uint8) for each in small_photos]
    assert alike(trained, maps(noisy, classes)[0]) > 0.85
    for layers in ([found.head], network.layers):
        for layer in layers:
            layer.set_weights([_redrawn(each, generator) for each in layer.get_weights()])
        assert alike(trained, maps(small_photos, classes)[0]) < 0.4


def _redrawn(weights: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Kernels of normal numbers with the same spread; what belongs to each channel alone is shuffled."""
    if weights.ndim > 1:
        return generator.normal(0, weights.std(), weights.shape).astype(np.float32)
    return generator.permutation(weights)
