"""Residual units: act(shortcut(x) + transform(x)). He et al., arXiv:1512.03385."""

from __future__ import annotations

from keras import KerasTensor, layers

from models.blocks.convolution import conv_bn
from models.blocks.squeeze_excitation import squeeze_excitation


def shortcut(x: KerasTensor, filters: int, *, stride: int, name: str) -> KerasTensor:
    """x itself where the shapes agree, else its 1x1 projection (option B of the paper)."""
    if stride == 1 and x.shape[-1] == filters:
        return x
    return conv_bn(x, filters, kernel=1, stride=stride, name=f"{name}_projection")


def basic_block(
    x: KerasTensor, filters: int, *, stride: int = 1, se_ratio: int | None = None, name: str
) -> KerasTensor:
    """relu(shortcut(x) + f(x)), f = SE(BN conv3x3(relu(BN conv3x3(x)))).

    Args:
        x: ``[N, H, W, C]``.
        filters: output channels; the shortcut is projected where C differs or the stride is not 1.
        stride: step of the first convolution.
        se_ratio: squeeze ratio of the SE block that recalibrates f(x) before the addition; None leaves it out.
        name: prefix of the layers' names.

    Returns:
        ``[N, ceil(H / stride), ceil(W / stride), filters]``.
    """
    f = conv_bn(x, filters, kernel=3, stride=stride, activation="relu", name=f"{name}_a")
    f = conv_bn(f, filters, kernel=3, name=f"{name}_b")
    if se_ratio is not None:
        f = squeeze_excitation(f, ratio=se_ratio, name=f"{name}_se")
    y = layers.Add(name=f"{name}_add")([shortcut(x, filters, stride=stride, name=name), f])
    return layers.Activation("relu", name=f"{name}_relu")(y)
