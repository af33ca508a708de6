"""Heads: from feature maps to logits."""

from __future__ import annotations

from keras import KerasTensor, layers


def pooled_classifier(x: KerasTensor, classes: int, *, name: str) -> KerasTensor:
    """dense(mean over positions): ``[N, H, W, C]`` -> float32 logits ``[N, classes]``."""
    x = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    # float32 under every precision policy: a softmax over rounded logits would not be calibrated.
    return layers.Dense(classes, dtype="float32", name=f"{name}_logits")(x)
