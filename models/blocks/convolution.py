"""Convolution with batch normalisation, the smallest block."""

from __future__ import annotations

from keras import KerasTensor, layers


def conv_bn(
    x: KerasTensor,
    filters: int,
    *,
    kernel: int,
    stride: int = 1,
    activation: str | None = None,
    name: str,
) -> KerasTensor:
    """act(BN(conv(x))), "same" padding, no bias (the normalisation's beta stands for it).

    Args:
        x: ``[N, H, W, C]``.
        filters: output channels.
        kernel: side of the square kernel.
        stride: step in both directions.
        activation: a Keras activation name, or None for a linear output.
        name: prefix of the layers' names.

    Returns:
        ``[N, ceil(H / stride), ceil(W / stride), filters]``.
    """
    x = layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    if activation is not None:
        x = layers.Activation(activation, name=f"{name}_{activation}")(x)
    return x
