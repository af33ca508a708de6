"""The training loop: Keras' `fit`, one epoch at a time, with a checkpoint after each to resume from."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
import sys
from pathlib import Path
from typing import Any

import keras

from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.files import whole_files
from glimpse.models.messages import short
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.serving import at_once, logits_model
from glimpse.models.train import auxiliary, defaults, fused, grouped, seeds, watch
from glimpse.models.train.data import Batches, LabelledImages, shares
from glimpse.models.train.multi_label import loss as label_loss
from glimpse.models.train.plan import CHECKPOINT, Plan

HISTORY = "history.csv"


def train(
    plan: Plan,
    recipe: Recipe,
    images: LabelledImages,
    held_out: LabelledImages,
    folder: Path,
    *,
    stop_after: int | None = None,
) -> keras.Model:
    """Train to the end of `plan`, resuming from the checkpoint in `folder` where there is one.

    Args:
        plan: the plan of the run.
        recipe: pre-stem with which the images were read.
        images: to train on.
        held_out: to monitor the training; may be empty.
        folder: for the checkpoint and the history; created where it does not exist.
        stop_after: the number of epochs to train in this call; None: all remaining ones. A resumed run gives the same
            weights as an uninterrupted one.

    Returns:
        The trained model, uint8 pixels ``[N, H, W, C]`` -> float32 logits.

    Raises:
        DivergedError: the loss or a weight is no longer finite; the checkpoint is that of the epoch before.
        OSError: the checkpoint cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    keras.utils.set_random_seed(plan.seed)
    # A checkpoint holds weights and optimizer state; the graph is built again because a saved one does not keep which
    # variables are exempt from weight decay.
    model = restored(plan, recipe, images, folder) if checkpoint.exists() else compiled(plan, recipe, images)
    done = epochs_done(model, plan, images)
    seeds.advance(model, int(model.optimizer.iterations))
    write_history(folder / HISTORY, history(folder, done))
    last = plan.total_epochs if stop_after is None else min(plan.total_epochs, done + stop_after)
    guess = _guessing(plan, images) * auxiliary.relative_loss(model)
    monitored = shares(held_out) if plan.cutmix else held_out.classes
    for epoch in range(done, last):
        batches = Batches(
            images,
            batch_size=plan.batch_size,
            seed=plan.seed,
            epoch=epoch,
            fill=recipe.blank,
            cutout=plan.cutout if epoch >= plan.cutout_from else 0.0,
            cutmix=plan.cutmix,
            # Otherwise JAX compiles the step once more for it, which takes a deep network minutes.
            filled=keras.backend.backend() == "jax",
        )
        metrics = model.fit(
            batches,
            validation_data=(held_out.pixels, monitored) if len(held_out) else None,
            validation_batch_size=at_once(recipe.height, recipe.width),
            initial_epoch=epoch,
            # All of them, so that what is shown while it runs is the place in the whole; one of them is done.
            epochs=max(plan.total_epochs, epoch + 1),
            callbacks=[_OneEpoch(), watch.Watch(plan, epoch=epoch, steps=len(batches))],
            # Shuffled already; a second shuffle would only make resuming inexact.
            shuffle=False,
        ).history
        row = {"epoch": float(epoch + 1), **{name: float(values[-1]) for name, values in metrics.items()}}
        watch.check_weights(model, plan, epoch)
        if warning := watch.nothing_learned(plan, epoch, row["loss"], guess):
            print(f"glimpse.models.train: {warning}", file=sys.stderr)  # noqa: T201 - a program's
        # Before the checkpoint: a row too many is cut off on resuming, one too few could not be had again.
        write_history(folder / HISTORY, [*history(folder, epoch), row])
        save_checkpoint(model, checkpoint)
    return model


def _guessing(plan: Plan, images: LabelledImages) -> float:
    """The loss of a network that has learned how frequent each class is and nothing else."""
    if images.classes.ndim == 2:
        return label_loss.guessing(images.classes, plan.label_smoothing)
    return watch.guessing(images.classes, len(images.labels), plan.label_smoothing)


class _OneEpoch(keras.callbacks.Callback):
    """Stops a call of `fit` after its first epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras' signature
        self.model.stop_training = True


def save_checkpoint(model: keras.Model, checkpoint: Path) -> None:
    """Write the weights of a model, or leave the file as it was.

    Raises:
        OSError: it cannot be written; the message says why.
    """
    # Saved beside and moved over, so that an interrupted save leaves the older checkpoint whole.
    fresh = checkpoint.with_name(f"fresh.{checkpoint.name}")
    try:
        model.save_weights(fresh)
        fresh.replace(checkpoint)
    except (OSError, RuntimeError) as error:  # h5py has both for a disk that is full
        fresh.unlink(missing_ok=True)
        named = re.search(r"error message = '([^']+)'", str(error))  # among the rest that h5py says of it
        reason = named[1] if named else " ".join(str(error).split()) or type(error).__name__
        raise OSError(
            f"{checkpoint} cannot be written: {reason}. The checkpoint of the epoch before is intact."
        ) from error


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up, a cosine down to 0 and, where the plan has a restart, another one."""

    def __init__(self, plan: Plan, *, steps: int) -> None:
        """Follow `plan` with `steps` steps an epoch."""
        warmup = int(plan.warmup_epochs * steps)
        self._restart = plan.epochs * steps
        self._first = keras.optimizers.schedules.CosineDecay(
            0.0,
            decay_steps=max(self._restart - warmup, 1),
            warmup_target=plan.learning_rate,
            warmup_steps=warmup,
        )
        self._second = keras.optimizers.schedules.CosineDecay(
            plan.restart_learning_rate if plan.restart_epochs else 0.0,
            decay_steps=max(plan.restart_epochs * steps, 1),
        )

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step, counted from 0."""
        after = keras.ops.maximum(step - self._restart, 0)
        return keras.ops.where(step < self._restart, self._first(step), self._second(after))

    def get_config(self) -> dict[str, Any]:
        """Not saved: the training graph is built anew from its plan."""
        return {}


class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy with label smoothing, for class numbers or the share of each class as targets.

    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567, section 7.
    """

    def __init__(self, classes: int, smoothing: float = 0.0) -> None:
        """Spread a share of `smoothing` of every target over all classes; 0 is plain cross-entropy."""
        super().__init__(name="cross_entropy")
        self._classes, self._smoothing = classes, smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each image, ``[N]``.

        Args:
            y_true: class numbers ``[N]`` or ``[N, 1]``, or the share of each class ``[N, classes]``.
            y_pred: logits ``[N, classes]``.
        """
        if len(y_true.shape) == 2 and y_true.shape[-1] == self._classes:
            targets = keras.ops.cast(y_true, y_pred.dtype)
        else:
            numbers = keras.ops.reshape(keras.ops.cast(y_true, "int32"), (-1,))
            targets = keras.ops.one_hot(numbers, self._classes, dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(targets, y_pred, from_logits=True, label_smoothing=self._smoothing)


def compiled(plan: Plan, recipe: Recipe, images: LabelledImages) -> keras.Model:
    """A fresh training graph, ready to be trained.

    Raises:
        ValueError: the network cannot be built for images of this size, or in this precision.
    """
    model = graph(plan, recipe, len(images.labels))
    steps = math.ceil(len(images) / plan.batch_size)
    if images.classes.ndim == 2:
        loss = label_loss.LabelCrossEntropy(label_loss.weights_of(images.classes), plan.label_smoothing)
        prepare(model, plan, classes=len(images.labels), steps=steps, loss=loss, accuracy=label_loss.accuracy())
    else:
        prepare(model, plan, classes=len(images.labels), steps=steps)
    return model


def graph(plan: Plan, recipe: Recipe, classes: int) -> keras.Model:
    """A fresh training graph, not compiled: uint8 pixels through the pre-stem's scaling and the network to logits.

    Raises:
        ValueError: the network cannot be built for images of this size, or in this precision.
    """
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(plan.precision)
        row = find(plan.architecture, plan.variant, plan.options)
        assembly = assemble(row, classes=classes, input_shape=recipe.shape)
        return auxiliary.training_graph(logits_model(assembly, recipe), defaults.auxiliary_weight(row))
    except ValueError as error:  # Keras shows a page of its own calls
        raise ValueError(
            f"{plan.architecture} cannot be built for images of {recipe.height} x {recipe.width} pixels in "
            f"{plan.precision}: {short(error)}"
        ) from error
    finally:
        keras.config.set_dtype_policy(policy)


def prepare(
    model: keras.Model,
    plan: Plan,
    *,
    classes: int,
    steps: int,
    loss: keras.losses.Loss | None = None,
    accuracy: keras.metrics.Metric | None = None,
) -> None:
    """Compile a training graph with the optimizer and the loss of a plan.

    Args:
        model: pixels -> logits; its trainable variables must be settled.
        plan: of the run.
        classes: their number.
        steps: batches in an epoch.
        loss: None: the cross-entropy of classes that exclude each other.
        accuracy: None: the share of images whose first class is right.
    """
    chosen = optimizer(plan, steps)
    fused.fuse(model, chosen.iterations, total=steps * plan.total_epochs)
    grouped.divide(model)
    model.compile(
        optimizer=chosen,
        loss=loss or SmoothedCrossEntropy(classes, plan.label_smoothing),
        metrics=[accuracy or "accuracy"],
    )
    # At once, so that a checkpoint's optimizer state finds its variables.
    model.optimizer.build(model.trainable_variables)


def optimizer(plan: Plan, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a plan, with the plan's schedule over epochs of `steps` batches.

    Weight decay is decoupled with both optimizers (Loshchilov and Hutter, arXiv:1711.05101), and of kernels only:
    shrinking normalisation and biases towards 0 regularises nothing.
    """
    rate = Schedule(plan, steps=steps)
    made: keras.optimizers.Optimizer
    if plan.optimizer == "adam":
        made = keras.optimizers.Adam(rate, beta_1=plan.momentum, weight_decay=plan.weight_decay)
    else:
        made = keras.optimizers.SGD(rate, momentum=plan.momentum, nesterov=True, weight_decay=plan.weight_decay)
    made.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return made


def restored(plan: Plan, recipe: Recipe, images: LabelledImages, folder: Path) -> keras.Model:
    """The training graph with the checkpoint of `folder` loaded.

    Raises:
        ValueError: the checkpoint cannot be read, or belongs to another network.
    """
    model = compiled(plan, recipe, images)
    try:
        model.load_weights(folder / CHECKPOINT)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"{folder / CHECKPOINT} cannot be loaded: {reason}. "
            "Delete it to train from the beginning, or give another --out."
        ) from error
    return model


def epochs_done(model: keras.Model, plan: Plan, images: LabelledImages) -> int:
    """The number of epochs completed, by the optimizer's count of steps."""
    return int(model.optimizer.iterations) // math.ceil(len(images) / plan.batch_size)


def network(model: keras.Model) -> keras.Model:
    """The plain network inside a training graph, sharing its variables: scaled floats -> logits.

    Auxiliary classifiers are left out.
    """
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    if len(nested) != 1:
        raise ValueError(f"A training graph holds one network. Received: {len(nested)} in {model.name}")
    [found] = nested
    return keras.Model(found.input, found.output[0], name=found.name) if isinstance(found.output, list) else found


def history(folder: Path, epochs: float = math.inf) -> list[dict[str, float]]:
    """One row an epoch, in order: ``epoch``, ``loss``, ``accuracy`` and, with held-out images, ``val_...``.

    Args:
        folder: of the run.
        epochs: the number completed in the checkpoint; rows beyond it belong to an interrupted epoch and are dropped.
    """
    if not (folder / HISTORY).exists():
        return []
    rows: dict[int, dict[str, float]] = {}
    with (folder / HISTORY).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            with contextlib.suppress(TypeError, ValueError):  # a row that is not whole
                rows[int(row["epoch"])] = {name: float(value) for name, value in row.items()}
    return [rows[epoch] for epoch in sorted(rows) if epoch <= epochs]


def write_history(path: Path, rows: list[dict[str, float]]) -> None:
    """Write the rows of a run's history in place of those that are there.

    Raises:
        OSError: they cannot be written; those that were there stay.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.6f}" for name, value in row.items()} | {"epoch": int(row["epoch"])})
    whole_files.write_text(path, text.getvalue())
