"""Whether a training goes anywhere: numbers that are none end it, and a loss like that of guessing is told of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models.train.plan import Plan

_NEAR = 0.99  # of the loss of guessing: above it, nothing was learned
_PATIENCE = 3  # epochs after the warm-up, until it is told of


class DivergedError(ValueError):
    """The loss or a weight is no longer a finite number; the message says when, and what to do."""


class Watch(keras.callbacks.Callback):
    """Ends a training after the batch in which its loss became infinite or not a number.

    Keras reports the mean over the epoch so far, which stays what it is from that batch on. It is read for the
    progress bar in any case, so that looking at it costs nothing.
    """

    def __init__(self, plan: Plan, *, epoch: int, steps: int) -> None:
        """Watch an epoch, numbered from 0, of `steps` batches."""
        super().__init__()
        self._plan, self._epoch, self._steps = plan, epoch, steps

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the loss.

        Raises:
            DivergedError: it is not finite.
        """
        if not math.isfinite(loss := float((logs or {}).get("loss", 0.0))):
            raise DivergedError(
                f"The training diverged: in epoch {self._epoch + 1}, at batch {batch + 1} of {self._steps}, the loss "
                f"became {loss:g}. {advice(self._plan, self._epoch)}"
            )


def check_weights(model: keras.Model, plan: Plan, epoch: int) -> None:
    """Look at all weights after an epoch, numbered from 0, before they become the checkpoint.

    The loss alone does not show what the last batch did.

    Raises:
        DivergedError: one is not finite; the message names its variable.
    """
    for variable in model.variables:
        if "float" not in str(variable.dtype):
            continue
        if not np.isfinite(np.asarray(keras.ops.convert_to_numpy(variable), np.float32)).all():
            raise DivergedError(
                f"The training diverged: after epoch {epoch + 1}, {variable.path} holds numbers that are infinite or "
                f"not a number. {advice(plan, epoch)}"
            )


def advice(plan: Plan, epoch: int) -> str:
    """What to do about a training that has diverged in an epoch, numbered from 0."""
    kept = f" The checkpoint of epoch {epoch} is kept, and the run goes on from it." if epoch else ""
    return f"{_gentler(plan, another=epoch > 0)}.{kept}"


def _gentler(plan: Plan, *, another: bool) -> str:
    lower = f"Give a lower --learning-rate, for example {plan.learning_rate / 10:g} instead of {plan.learning_rate:g}"
    where = " in another --out" if another else ""
    return lower if plan.optimizer == "adam" else f"{lower}, or --optimizer adam{where}"


def guessing(classes: NDArray[np.int64], count: int, smoothing: float = 0.0) -> float:
    """The loss, in nats, of a network that has learned how frequent each class is and nothing else.

    Args:
        classes: int64 ``[N]``, the class of each image.
        count: number of classes.
        smoothing: of the labels.
    """
    shares = np.bincount(classes, minlength=count) / len(classes)
    shares = shares * (1 - smoothing) + smoothing / count
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def nothing_learned(plan: Plan, epoch: int, loss: float, guess: float) -> str:
    """A warning for the end of an epoch, numbered from 0, if the training is not getting anywhere; else empty.

    It is given once during a run, some epochs after the warm-up, and once at its end.

    Args:
        plan: of the run.
        epoch: that has ended.
        loss: the mean over the epoch, of the main classifier.
        guess: the loss of guessing, see `guessing`.
    """
    due = math.ceil(plan.warmup_epochs) + _PATIENCE - 1, plan.total_epochs - 1
    if epoch not in due or loss < _NEAR * guess:
        return ""
    return (
        f"The network has not learned anything in {epoch + 1} epochs: the loss is {loss:.4f}, and guessing by the "
        f"frequencies of the classes gives {guess:.4f}. {_gentler(plan, another=True)}; if these were few steps, "
        "give more --epochs."
    )
