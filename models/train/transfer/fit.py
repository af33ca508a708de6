"""Training a head on frozen features, and then the last stages of the network together with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models.prestem import graph
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.data import Batches, LabelledImages
from glimpse.models.train.fit import SmoothedCrossEntropy
from glimpse.models.train.transfer.compiling import jit_compile
from glimpse.models.train.transfer.features import Features
from glimpse.models.train.transfer.network import Network
from glimpse.models.train.transfer.phase import Phase
from glimpse.models.train.transfer.plan import TransferPlan


class FeatureBatches(keras.utils.PyDataset):
    """One epoch of shuffled features, each image in one of its views; the epoch's number seeds both."""

    def __init__(
        self,
        features: Features,
        index: NDArray[np.int64],
        classes: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        epoch: int,
    ) -> None:
        """Batches of the images at `index` of the features, whose class numbers are `classes`."""
        super().__init__(workers=1, max_queue_size=16)
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(index))
        self._features, self._batch_size = features, batch_size
        self._index, self._classes = index[order], classes[order]
        self._views = rng.integers(0, len(features.values), len(index))

    def __len__(self) -> int:
        return math.ceil(len(self._index) / self._batch_size)

    def __getitem__(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        part = slice(step * self._batch_size, (step + 1) * self._batch_size)
        return self._features.take(self._index[part], self._views[part]), self._classes[part]


def train_head(
    plan: TransferPlan,
    network: Network,
    features: Features,
    training: tuple[NDArray[np.int64], NDArray[np.int64]],
    held_out: tuple[NDArray[np.int64], NDArray[np.int64]],
    folder: Path,
    *,
    stop_after: int | None = None,
) -> int:
    """Train the new head on features, to the end of its phase or until the held-out images get no better.

    Args:
        plan: of the run.
        network: whose head is changed; all else stays as it is.
        features: of all images.
        training: places of images among the features, and their class numbers.
        held_out: the same of the held-out ones, which decide when it ends and which epoch is kept.
        folder: of the run, for the checkpoint and the history.
        stop_after: epochs to train in this call; None: all.

    Returns:
        The number of epochs that were trained in this call.
    """
    model = keras.Model(network.features, network.assembly.model.outputs[0], name="head")
    _compile(model, plan, plan.learning_rate, classes=model.output_shape[-1])
    validation = features.take(held_out[0]), held_out[1]
    phase = Phase("head", folder, epochs=plan.epochs, patience=plan.patience, steps=_steps(training[0], plan))

    def batches(epoch: int) -> keras.utils.PyDataset:
        return FeatureBatches(features, *training, batch_size=plan.batch_size, seed=plan.seed, epoch=epoch)

    return phase.run(model, batches, validation, class_weight=weights_of(training[1], plan), stop_after=stop_after)


def train_thawed(
    plan: TransferPlan,
    network: Network,
    recipe: Recipe,
    training: LabelledImages,
    held_out: LabelledImages,
    folder: Path,
    *,
    done: int,
    stop_after: int | None = None,
) -> int:
    """Train the last stages and the head from pixels, shifted and mirrored, with a tenth of the rate.

    Batch normalisations keep their statistics, scales and shifts: those of small batches would be worse.

    Args:
        plan: of the run.
        network: whose last `plan.thaw` stages and classifier are changed.
        recipe: of the images.
        training: images to train on.
        held_out: decide when it ends and which epoch is kept.
        folder: of the run.
        done: epochs of the phase before.
        stop_after: epochs to train in this call; None: all.

    Returns:
        The number of epochs that were trained in this call.
    """
    thaw(network, plan.thaw)
    pixels = keras.Input(network.assembly.model.input_shape[1:], dtype="uint8", name="pixels")
    scores = network.assembly.model(graph.scale(pixels, recipe))
    model = keras.Model(pixels, scores, name="thawed")
    _compile(model, plan, plan.learning_rate * plan.thawed_rate, classes=model.output_shape[-1])
    steps = _steps(training.classes, plan)
    phase = Phase("thawed", folder, epochs=plan.thaw_epochs, patience=plan.patience, steps=steps, before=done)

    def batches(epoch: int) -> keras.utils.PyDataset:
        return Batches(training, batch_size=plan.batch_size, seed=plan.seed, epoch=epoch, fill=recipe.fill)

    return phase.run(
        model,
        batches,
        (held_out.pixels, held_out.classes),
        class_weight=weights_of(training.classes, plan),
        stop_after=stop_after,
    )


def thaw(network: Network, stages: int) -> None:
    """Let training change the classifier and so many of the last stages, but no batch normalisation; nothing else."""
    last = [layers for _, layers in network.stages[max(0, len(network.stages) - stages) :]] if stages else []
    thawed = {id(layer) for layers in (network.classifier, *last) for layer in layers}
    for layer in network.assembly.model.layers:
        layer.trainable = id(layer) in thawed and not isinstance(layer, keras.layers.BatchNormalization)


def weights_of(classes: NDArray[np.int64], plan: TransferPlan) -> dict[int, float] | None:
    """By class, what the loss of an image counts, so that all classes count the same together; None: all the same."""
    if plan.class_weights == "none":
        return None
    counts = np.bincount(classes)
    return {number: len(classes) / (len(counts) * int(count)) for number, count in enumerate(counts)}


def _compile(model: keras.Model, plan: TransferPlan, rate: float, classes: int) -> None:
    optimizer = keras.optimizers.AdamW(rate, weight_decay=plan.weight_decay)
    # Shrinking normalisation and biases towards 0 regularises nothing.
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    model.compile(
        optimizer=optimizer,
        loss=SmoothedCrossEntropy(classes, plan.label_smoothing),
        metrics=["accuracy"],
        jit_compile=jit_compile(),
    )
    # At once, so that a checkpoint's optimizer state finds its variables.
    model.optimizer.build(model.trainable_variables)


def _steps(images: Sequence[Any] | NDArray[np.int64], plan: TransferPlan) -> int:
    return math.ceil(len(images) / plan.batch_size)
