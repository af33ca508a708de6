"""The squeeze-and-excitation block. Hu et al., arXiv:1709.01507, section 3."""

from __future__ import annotations

from keras import KerasTensor, layers


def squeeze_excitation(x: KerasTensor, *, ratio: int, name: str) -> KerasTensor:
    """x * sigmoid(W2 relu(W1 mean(x))): recalibrate every channel by what the whole map holds.

    Three layers, as described by the paper and by the handbook: global average pooling (squeeze), a hidden dense
    layer of channels / ratio units with ReLU, a dense layer with sigmoid (excitation).

    Args:
        x: ``[N, H, W, C]``.
        ratio: C / ratio hidden units, at least one.
        name: prefix of the layers' names.

    Returns:
        ``[N, H, W, C]``, each channel scaled by a factor in (0, 1).
    """
    channels = int(x.shape[-1])
    if ratio < 1:
        raise ValueError(f"The squeeze ratio must be at least 1. Received: {ratio}")
    s = layers.GlobalAveragePooling2D(name=f"{name}_squeeze")(x)
    s = layers.Dense(max(channels // ratio, 1), activation="relu", name=f"{name}_reduce")(s)
    s = layers.Dense(channels, activation="sigmoid", name=f"{name}_expand")(s)
    s = layers.Reshape((1, 1, channels), name=f"{name}_reshape")(s)
    return layers.Multiply(name=f"{name}_scale")([x, s])
