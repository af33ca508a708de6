"""One phase of a transfer: epochs until the held-out images get no better, each with a checkpoint to go on from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models.train import seeds
from glimpse.models.train.calibrate import fit_temperature, negative_log_likelihood
from glimpse.models.train.fit import HISTORY, history, save_checkpoint, write_history
from glimpse.models.train.multi_label import calibrate as label_calibrate
from glimpse.models.train.multi_label import measure as label_measure
from glimpse.models.train.transfer.progress import Bar
from glimpse.models.train.watch import DivergedError

_EVALUATED = 64  # held-out images at once
_CALIBRATED = "val_calibrated"  # column of the history: mean negative log likelihood with the temperature fitted

Inputs = tuple[NDArray[Any], NDArray[np.int64]]  # and class numbers


@dataclass(frozen=True, slots=True)
class Data:
    """What a phase trains with; made only where there is an epoch to train."""

    batches: Callable[[int], keras.utils.PyDataset]  # of an epoch, counted from 0
    held_out: Inputs


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a phase has come."""

    epochs: int  # done, in earlier calls, too
    trained: int  # of them in this call
    best: int  # the one whose weights are kept, counted from 1; 0: those that the phase began with
    ended: bool  # there is no further epoch to train


def checkpoint_of(name: str) -> str:
    """The name of the file from which a phase goes on."""
    return f"{name}.weights.h5"


class Phase:
    """The epochs of a phase and what is kept of them: the latest, to go on from, and the best, which is the result.

    The best is that with the least held-out loss once a temperature has been fitted on the same images, as the bundle
    has one: that of the plain loss may be an early one, before the network became too sure of its answers.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        epochs: int,
        patience: int,
        steps: int,
        before: int = 0,
    ) -> None:
        """Prepare a phase.

        Args:
            name: of its files.
            folder: of the run.
            epochs: the number of them at most.
            patience: epochs without a smaller calibrated held-out loss after which it ends.
            steps: of an epoch.
            before: epochs of earlier phases, which the history counts, too. Where there are some, the weights that
                the phase begins with are its first best, with the loss of the history's best row so far.
        """
        self._name, self._folder = name, folder
        self._epochs, self._patience, self._steps, self._before = epochs, patience, steps, before
        self._latest, self._best = folder / checkpoint_of(name), folder / f"{name}.best.weights.h5"

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self._latest.exists()

    def run(
        self,
        model: keras.Model,
        prepare: Callable[[], Data],
        *,
        class_weight: dict[int, float] | None = None,
        stop_after: int | None = None,
    ) -> Outcome:
        """Train a compiled model, and leave it with the weights of its best epoch.

        Args:
            model: with its optimizer built.
            prepare: makes what it is trained with; called where there is an epoch to train.
            class_weight: what the loss of an image of each class counts.
            stop_after: epochs to train in this call; None: all.

        Raises:
            DivergedError: the loss is no longer a finite number.
            ValueError: the checkpoint cannot be loaded.
            OSError: a checkpoint cannot be written.
        """
        done = begun = self._resume(model)
        seeds.advance(model, (self._before + done) * self._steps)
        limit = self._epochs if stop_after is None else min(self._epochs, done + stop_after)
        if done < limit and not self._ended(done):
            # Rows beyond the checkpoint belong to an interrupted epoch.
            write_history(self._folder / HISTORY, history(self._folder, self._before + done))
            data = prepare()
            with Bar(f"{self._name}, at most {self._epochs} epochs", self._epochs * self._steps) as bar:
                bar.update(done * self._steps)
                while done < limit and not self._ended(done):
                    row = self._epoch(model, data, class_weight, epoch=done, bar=bar)
                    done += 1
                    write_history(self._folder / HISTORY, [*history(self._folder, self._before + done - 1), row])
                    if self._best_epoch(done) == done:
                        save_checkpoint(model, self._best)
                    save_checkpoint(model, self._latest)
        if self._best.exists():
            _load(model, self._best)
        return Outcome(done, done - begun, self._best_epoch(done), ended=self._ended(done))

    def _resume(self, model: keras.Model) -> int:
        """Load the latest checkpoint where there is one; returns the number of epochs that are done."""
        if self._latest.exists():
            _load(model, self._latest)
            return int(model.optimizer.iterations) // self._steps
        if self._before:
            save_checkpoint(model, self._best)
        return 0

    def _epoch(
        self, model: keras.Model, data: Data, class_weight: dict[int, float] | None, *, epoch: int, bar: Bar
    ) -> dict[str, float]:
        found = model.fit(
            data.batches(epoch),
            class_weight=class_weight,
            shuffle=False,  # shuffled already; a second shuffle would only make resuming inexact
            verbose=0,
            callbacks=[_Steps(bar, epoch * self._steps)],
        ).history
        row = {name: float(values[-1]) for name, values in found.items()} | _judged(model, *data.held_out)
        bar.say(
            f"{self._name}: epoch {epoch + 1} of at most {self._epochs}: loss {row['loss']:.3f}, held-out loss "
            f"{row['val_loss']:.3f}, calibrated {row[_CALIBRATED]:.3f}, held-out accuracy {row['val_accuracy']:.1%}"
        )
        return {"epoch": float(self._before + epoch + 1), "thawed": float(self._before > 0), **row}

    def _ended(self, done: int) -> bool:
        return done >= self._epochs or done - self._best_epoch(done) >= self._patience

    def _best_epoch(self, done: int) -> int:
        """The epoch of this phase, counted from 1, with the least calibrated held-out loss; 0: what it began with."""
        rows = history(self._folder, self._before + done)
        # A run that was begun without it goes on by the plain loss.
        judge = _CALIBRATED if all(_CALIBRATED in row for row in rows) else "val_loss"
        losses = [min((row[judge] for row in rows[: self._before]), default=math.inf)]
        losses += [row[judge] for row in rows[self._before :]]
        return losses.index(min(losses))


def _judged(model: keras.Model, inputs: NDArray[Any], classes: NDArray[np.int64]) -> dict[str, float]:
    """Loss, accuracy and calibrated loss of held-out images."""
    logits = model.predict(inputs, batch_size=_EVALUATED, verbose=0)
    loss = float(model.loss(classes, logits))
    _check_finite(loss)
    if classes.ndim == 2:
        return {
            "val_accuracy": float(((logits > 0) == (classes == 1)).mean()),
            "val_loss": loss,
            _CALIBRATED: label_measure.measure(logits, classes, label_calibrate.fit(logits, classes)).loss,
        }
    return {
        "val_accuracy": float((logits.argmax(axis=1) == classes).mean()),
        "val_loss": loss,
        _CALIBRATED: negative_log_likelihood(logits, classes, fit_temperature(logits, classes)),
    }


def _check_finite(loss: float) -> None:
    if not math.isfinite(loss):
        raise DivergedError(
            f"The training diverged: the loss became {loss:g}. Give a smaller --learning-rate, and another --out."
        )


class _Steps(keras.callbacks.Callback):
    def __init__(self, bar: Bar, before: int) -> None:
        super().__init__()
        self._bar, self._before = bar, before

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._bar.update(self._before + batch + 1)
        _check_finite((logs or {}).get("loss", 0.0))


def _load(model: keras.Model, path: Path) -> None:
    try:
        model.load_weights(path)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be loaded: {reason}. Give another --out to begin anew.") from error
