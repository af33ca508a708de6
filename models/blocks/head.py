"""Heads: from feature maps to logits."""

from __future__ import annotations

from collections.abc import Sequence

from keras import KerasTensor, layers

from glimpse.models.blocks.convolution import norm_act
from glimpse.models.spec import PLAIN, Convention


def pooled_classifier(x: KerasTensor, classes: int, *, dropout: float = 0.0, name: str) -> KerasTensor:
    """dense(mean over positions): ``[N, H, W, C]`` -> float32 logits ``[N, classes]``.

    Training drops the `dropout` part of the means; serving drops nothing.
    """
    x = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    if dropout:
        x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    # float32 under every precision policy: a softmax over rounded logits would not be calibrated.
    return layers.Dense(classes, dtype="float32", name=f"{name}_logits")(x)


def flattened_classifier(
    x: KerasTensor,
    classes: int,
    *,
    hidden: Sequence[int],
    dropout: float = 0.0,
    convention: Convention = PLAIN,
    name: str,
) -> KerasTensor:
    """dense(hidden layers(flatten(x))): ``[N, H, W, C]`` -> float32 logits ``[N, classes]``.

    The first kernel has a row for each of the H * W * C numbers, so that its weights fit one input size only.
    """
    x = layers.Flatten(name=f"{name}_flatten")(x)
    x = dense_layers(x, hidden, dropout=dropout, convention=convention, name=name)
    return layers.Dense(classes, dtype="float32", name=f"{name}_logits")(x)


def dense_layers(
    x: KerasTensor, units: Sequence[int], *, dropout: float = 0.0, convention: Convention = PLAIN, name: str
) -> KerasTensor:
    """act(BN(dense(x))) once for each of `units`: ``[N, C]`` -> ``[N, units[-1]]``; training drops `dropout` of each.

    The convention says which activation, and whether there is batch norm, before the activation or after it; the dense
    layers have biases in any case. The weights are in ``_fc1``, ``_fc1_bn``, ``_fc2`` and so on.
    """
    for number, width in enumerate(units, start=1):
        x = layers.Dense(width, name=f"{name}_fc{number}")(x)
        x = norm_act(x, convention=convention, name=f"{name}_fc{number}")
        if dropout:
            x = layers.Dropout(dropout, name=f"{name}_dropout{number}")(x)
    return x
