"""Depthwise separable convolutions: a filter for each channel, then a 1x1 convolution over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from keras import KerasTensor, layers

from glimpse.models.blocks.convolution import act, conv_bn, depthwise_bn
from glimpse.models.blocks.pooling import Border, max_pool
from glimpse.models.spec import TENSORFLOW, Convention

Where = Literal["before", "after", "nowhere"]  # is the activation of a separable convolution


def depthwise_separable(
    x: KerasTensor, filters: int, *, stride: int = 1, convention: Convention = TENSORFLOW, name: str
) -> KerasTensor:
    """act(BN(conv1x1(act(BN(depthwise3x3(x)))))), MobileNet's block (Howard et al., arXiv:1704.04861, figure 3).

    Args:
        x: ``[N, H, W, C]``.
        filters: output channels.
        stride: step of the depthwise convolution.
        convention: the publisher's habits.
        name: prefix of the layers' names, ``_dw`` and ``_pw``.

    Returns:
        ``[N, ceil(H / stride), ceil(W / stride), filters]``; with the padding ``"after"`` rounded down.
    """
    x = depthwise_bn(x, kernel=3, stride=stride, convention=convention, name=f"{name}_dw")
    return conv_bn(x, filters, kernel=1, convention=convention, name=f"{name}_pw")


def separable_bn(
    x: KerasTensor, filters: int, *, activation: Where = "after", convention: Convention = TENSORFLOW, name: str
) -> KerasTensor:
    """BN(conv1x1(depthwise3x3(x))) with nothing between the two (Chollet, arXiv:1610.02357, section 4.7).

    Args:
        x: ``[N, H, W, C]``.
        filters: output channels.
        activation: on x, on the result, or on neither.
        convention: the publisher's habits; its bias is the 1x1 convolution's alone.
        name: prefix of the layers' names: ``_depthwise``, ``_conv`` and ``_bn`` hold the weights.

    Returns:
        ``[N, H, W, filters]``.
    """
    if activation == "before":
        x = act(x, convention=convention, name=f"{name}_in")
    x = layers.DepthwiseConv2D(
        3, padding="same", use_bias=False, depthwise_initializer=convention.initializer, name=f"{name}_depthwise"
    )(x)
    return conv_bn(x, filters, kernel=1, activation=activation == "after", convention=convention, name=name)


def xception_block(
    x: KerasTensor,
    widths: Sequence[int],
    activations: Sequence[Where],
    *,
    stride: int = 1,
    border: Border = "same",
    convention: Convention = TENSORFLOW,
    name: str,
) -> KerasTensor:
    """shortcut(x) + f(x), f a chain of separable convolutions (Chollet, arXiv:1610.02357, figure 5).

    Args:
        x: ``[N, H, W, C]``.
        widths: output channels of each separable convolution.
        activations: where each has its activation.
        stride: with 1 the shortcut is x and the last width C; with 2 max pooling ends f, and the shortcut is a 1x1
            projection.
        border: of the pooling.
        convention: the publisher's habits.
        name: prefix of the layers' names, ``_sep1`` and so on.

    Returns:
        ``[N, ceil(H / stride), ceil(W / stride), widths[-1]]``.
    """
    f = x
    for number, (width, activation) in enumerate(zip(widths, activations, strict=True), start=1):
        f = separable_bn(f, width, activation=activation, convention=convention, name=f"{name}_sep{number}")
    if stride > 1:
        f = max_pool(f, stride=stride, border=border, name=f"{name}_pool")
        x = conv_bn(
            x, widths[-1], kernel=1, stride=stride, activation=False, convention=convention, name=f"{name}_projection"
        )
    return layers.Add(name=f"{name}_add")([x, f])
