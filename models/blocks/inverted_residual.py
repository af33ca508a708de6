"""Inverted residuals: wide inside, where the convolution is depthwise, and narrow between, without an activation."""

from __future__ import annotations

from keras import KerasTensor, layers

from glimpse.models.blocks.convolution import Size, conv_bn, depthwise_bn
from glimpse.models.spec import TENSORFLOW, Convention


def inverted_residual(
    x: KerasTensor,
    filters: int,
    *,
    expansion: int,
    kernel: Size = 3,
    stride: int = 1,
    convention: Convention = TENSORFLOW,
    name: str,
) -> KerasTensor:
    """x + f(x) where the shapes agree, else f(x) = linear conv1x1(depthwise(conv1x1(x))).

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381, table 1.

    Args:
        x: ``[N, H, W, C]``.
        filters: output channels.
        expansion: the first convolution makes so many times C channels; with 1 there is no such convolution.
        kernel: size of the depthwise convolution.
        stride: its step.
        convention: the publisher's habits.
        name: prefix of the layers' names, ``_expand``, ``_dw`` and ``_project``.

    Returns:
        ``[N, ceil(H / stride), ceil(W / stride), filters]``.
    """
    f = x
    if expansion > 1:
        f = conv_bn(f, expansion * x.shape[-1], kernel=1, convention=convention, name=f"{name}_expand")
    f = depthwise_bn(f, kernel=kernel, stride=stride, convention=convention, name=f"{name}_dw")
    f = conv_bn(f, filters, kernel=1, activation=False, convention=convention, name=f"{name}_project")
    return layers.Add(name=f"{name}_add")([x, f]) if stride == 1 and filters == x.shape[-1] else f
