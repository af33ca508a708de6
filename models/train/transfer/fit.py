"""Training a head on frozen features, and then the last stages of the network together with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models.compiling import jit_compile
from glimpse.models.prestem import graph
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.data import Batches, LabelledImages
from glimpse.models.train.fit import SmoothedCrossEntropy, history
from glimpse.models.train.grouped import divide
from glimpse.models.train.multi_label import loss as label_loss
from glimpse.models.train.transfer.features import Features
from glimpse.models.train.transfer.network import Network
from glimpse.models.train.transfer.phase import Data, Outcome, Phase
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


def head_phase(plan: TransferPlan, folder: Path, images: int) -> Phase:
    """The phase in which the head alone is trained, on so many images."""
    return Phase("head", folder, epochs=plan.epochs, patience=plan.patience, steps=_steps(images, plan))


def thawed_phase(plan: TransferPlan, folder: Path, images: int) -> Phase:
    """The phase in which the last stages are trained, too."""
    # An interrupted run from scratch, which this one replaces, has left rows without it.
    before = sum(row.get("thawed") == 0 for row in history(folder))
    return Phase(
        "thawed",
        folder,
        epochs=plan.thaw_epochs,
        patience=plan.patience,
        steps=_steps(images, plan),
        before=before,
    )


@dataclass(frozen=True, slots=True)
class Split:
    """Which images train, and which are held out."""

    training: NDArray[np.int64]  # their places, in order
    held_out: NDArray[np.int64]


def train_head(
    plan: TransferPlan,
    network: Network,
    features: Callable[[], Features],
    *,
    images: LabelledImages,
    split: Split,
    folder: Path,
    stop_after: int | None = None,
) -> Outcome:
    """Train the new head on features, to the end of its phase or until the held-out images get no better.

    Args:
        plan: of the run.
        network: whose head is changed; all else stays as it is.
        features: computes those of all images; called where there is an epoch to train.
        images: all of them.
        split: which of them train; the others decide when the phase ends and which epoch is kept.
        folder: of the run, for the checkpoint and the history.
        stop_after: epochs to train in this call; None: all.
    """
    model = keras.Model(network.features, network.assembly.model.outputs[0], name="head")
    classes = images.classes[split.training]
    _compile(model, plan, plan.learning_rate, classes)

    def prepare() -> Data:
        found = features()

        def batches(epoch: int) -> keras.utils.PyDataset:
            return FeatureBatches(
                found, split.training, classes, batch_size=plan.batch_size, seed=plan.seed, epoch=epoch
            )

        return Data(batches, (found.take(split.held_out), images.classes[split.held_out]))

    phase = head_phase(plan, folder, len(classes))
    return phase.run(model, prepare, class_weight=weights_of(classes, plan), stop_after=stop_after)


def train_thawed(
    plan: TransferPlan,
    network: Network,
    recipe: Recipe,
    *,
    images: LabelledImages,
    split: Split,
    folder: Path,
    stop_after: int | None = None,
) -> Outcome:
    """Train the last stages and the head from pixels, shifted and mirrored, with a tenth of the rate.

    Batch normalisations keep their statistics, scales and shifts: those of small batches would be worse.

    Args:
        plan: of the run.
        network: whose last `plan.thaw` stages and classifier are changed.
        recipe: of the images.
        images: all of them.
        split: which of them train; the others decide when the phase ends and which epoch is kept.
        folder: of the run.
        stop_after: epochs to train in this call; None: all.
    """
    thaw(network, plan.thaw)
    divide(network.assembly.model)
    pixels = keras.Input(recipe.pixels_shape, dtype="uint8", name="pixels")
    scores = network.assembly.model(graph.scale(pixels, recipe))
    model = keras.Model(pixels, scores, name="thawed")
    _compile(model, plan, plan.learning_rate * plan.thawed_rate, images.classes[split.training])

    def prepare() -> Data:
        training, held_out = images.select(split.training), images.select(split.held_out)

        def batches(epoch: int) -> keras.utils.PyDataset:
            return Batches(training, batch_size=plan.batch_size, seed=plan.seed, epoch=epoch, fill=recipe.blank)

        return Data(batches, (held_out.pixels, held_out.classes))

    phase = thawed_phase(plan, folder, len(split.training))
    weights = weights_of(images.classes[split.training], plan)
    return phase.run(model, prepare, class_weight=weights, stop_after=stop_after)


def thaw(network: Network, stages: int) -> None:
    """Let training change the classifier and so many of the last stages, but no batch normalisation; nothing else."""
    last = [layers for _, layers in network.stages[max(0, len(network.stages) - stages) :]] if stages else []
    thawed = {id(layer) for layers in (network.classifier, *last) for layer in layers}
    for layer in network.assembly.model.layers:
        layer.trainable = id(layer) in thawed and not isinstance(layer, keras.layers.BatchNormalization)


def weights_of(classes: NDArray[np.int64], plan: TransferPlan) -> dict[int, float] | None:
    """By class, what the loss of an image counts, so that all classes count the same together; None: all the same."""
    if plan.class_weights == "none" or classes.ndim == 2:  # which has weights of its labels in its loss
        return None
    counts = np.bincount(classes)
    return {number: len(classes) / (len(counts) * int(count)) for number, count in enumerate(counts)}


def _compile(model: keras.Model, plan: TransferPlan, rate: float, classes: NDArray[np.int64]) -> None:
    optimizer = keras.optimizers.AdamW(rate, weight_decay=plan.weight_decay)
    # Shrinking normalisation and biases towards 0 regularises nothing.
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    several = classes.ndim == 2
    weights = label_loss.weights_of(classes) if several else np.ones(0)
    if plan.class_weights == "none":
        weights = np.ones_like(weights)
    model.compile(
        optimizer=optimizer,
        loss=label_loss.LabelCrossEntropy(weights, plan.label_smoothing)
        if several
        else SmoothedCrossEntropy(model.output_shape[-1], plan.label_smoothing),
        metrics=[label_loss.accuracy() if several else "accuracy"],
        jit_compile=jit_compile(),
    )
    # At once, so that a checkpoint's optimizer state finds its variables.
    model.optimizer.build(model.trainable_variables)


def _steps(images: int, plan: TransferPlan) -> int:
    return math.ceil(images / plan.batch_size)
