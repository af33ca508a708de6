"""Max and average pooling with the borders of different publishers."""

from __future__ import annotations

from typing import Literal

from keras import KerasTensor, layers

Border = Literal["valid", "same", "symmetric", "ceil", "centred"]


def max_pool(x: KerasTensor, *, size: int = 3, stride: int = 2, border: Border = "same", name: str) -> KerasTensor:
    """The largest of every ``size x size`` window.

    Args:
        x: ``[N, H, W, C]``. With ``"symmetric"`` and ``"ceil"`` it must not be negative (behind a ReLU), because
            the border is zeros.
        size: side of the window.
        stride: step in both directions.
        border: ``"valid"`` none; ``"same"`` TensorFlow's; ``"symmetric"`` size // 2 on every side (PyTorch's
            ``padding``); ``"ceil"`` at the bottom and right, as much as a last, partial window needs (PyTorch's
            ``ceil_mode``, Caffe); ``"centred"`` on every stride-th position from the first, what ``"symmetric"``
            means where the maps may be negative, for an odd size.
        name: of the layer.
    """
    if border == "centred":
        if all(int(side) % stride == 1 for side in x.shape[1:3]):
            border = "same"  # pads as much before as behind
        else:
            # Keras' own padding never wins a maximum, but only at stride 1 does it put every window where it belongs.
            x = layers.MaxPooling2D(size, 1, padding="same", name=f"{name}_dense")(x)
            return layers.MaxPooling2D(1, stride, name=name)(x)
    if border == "symmetric":
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    elif border == "ceil":
        below, right = (-(int(side) - size) % stride for side in x.shape[1:3])
        if below or right:
            x = layers.ZeroPadding2D(((0, below), (0, right)), name=f"{name}_pad")(x)
    return layers.MaxPooling2D(size, stride, padding="same" if border == "same" else "valid", name=name)(x)


def average_pool(x: KerasTensor, *, size: int, stride: int, border: Border = "same", name: str) -> KerasTensor:
    """The mean of every ``size x size`` window.

    Args:
        x: ``[N, H, W, C]``.
        size: side of the window.
        stride: step in both directions.
        border: ``"valid"`` none; ``"same"`` TensorFlow's, which the means leave out; ``"symmetric"`` zeros, size // 2
            on every side, which the means count (PyTorch's default).
        name: of the layer.

    Raises:
        ValueError: another border; what its means would be no publisher has said.
    """
    if border not in ("valid", "same", "symmetric"):
        raise ValueError(f"An average pool has the border valid, same or symmetric. Received: {border!r}")
    if border == "symmetric":
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    return layers.AveragePooling2D(size, stride, padding="same" if border == "same" else "valid", name=name)(x)
