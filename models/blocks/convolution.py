"""Convolutions with what follows them, the smallest block: act(BN(conv(x)))."""

from __future__ import annotations

from typing import Any, Literal

from keras import KerasTensor, initializers, layers

from glimpse.models.spec import TENSORFLOW, Convention

Size = int | tuple[int, int]  # one number for both directions, or (height, width)


def conv_bn(
    x: KerasTensor,
    filters: int,
    *,
    kernel: Size,
    stride: int = 1,
    groups: int = 1,
    padding: Literal["same", "symmetric", "after", "valid"] | None = None,
    activation: bool = True,
    convention: Convention = TENSORFLOW,
    name: str,
) -> KerasTensor:
    """act(BN(conv(x))); the convention decides which of them there are, and about bias and padding.

    Args:
        x: ``[N, H, W, C]``.
        filters: output channels.
        kernel: its size.
        stride: step in both directions.
        groups: cardinality: so many separate convolutions, each over C / groups channels
            (Xie et al., arXiv:1611.05431, figure 3c).
        padding: other than the convention's; ``"valid"`` pads nothing.
        activation: False for a linear output.
        convention: the publisher's habits.
        name: prefix of the layers' names: ``_conv`` and ``_bn`` hold the weights.

    Returns:
        ``[N, ceil(H / stride), ceil(W / stride), filters]``, with ``"valid"`` a kernel less.
    """
    x = convolved(
        x,
        filters,
        kernel=kernel,
        stride=stride,
        groups=groups,
        padding=padding,
        bias=convention.bias or not convention.batch_norm,
        convention=convention,
        name=name,
    )
    return norm_act(x, activation=activation, convention=convention, name=name)


def convolved(
    x: KerasTensor,
    filters: int,
    *,
    kernel: Size,
    stride: int = 1,
    groups: int = 1,
    padding: Literal["same", "symmetric", "after", "valid"] | None = None,
    bias: bool,
    convention: Convention = TENSORFLOW,
    name: str,
) -> KerasTensor:
    """conv(x) alone, with or without a bias; the other arguments and the return value as of `conv_bn`."""
    channels = int(x.shape[-1])
    x, border = padded(x, kernel, stride=stride, padding=padding or convention.padding, name=name)
    return layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        groups=groups,
        padding=border,
        use_bias=bias,
        kernel_initializer=_grouped(channels, filters, groups, convention),
        name=f"{name}_conv",
    )(x)


def depthwise_bn(
    x: KerasTensor,
    *,
    kernel: Size,
    stride: int = 1,
    activation: bool = True,
    convention: Convention = TENSORFLOW,
    name: str,
) -> KerasTensor:
    """act(BN(depthwise(x))): every channel convolved by itself (Howard et al., arXiv:1704.04861, section 3.1).

    Args and return value as of `conv_bn`; the weights are in ``_depthwise`` and ``_bn``.
    """
    x, border = padded(x, kernel, stride=stride, padding=convention.padding, name=name)
    x = layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding=border,
        use_bias=convention.bias or not convention.batch_norm,
        depthwise_initializer=convention.initializer,
        name=f"{name}_depthwise",
    )(x)
    return norm_act(x, activation=activation, convention=convention, name=name)


def bn_conv(
    x: KerasTensor, filters: int, *, kernel: Size, convention: Convention = TENSORFLOW, name: str
) -> KerasTensor:
    """conv(act(BN(x))): the pre-activation order (He et al., arXiv:1603.05027), in which Huang et al. build DenseNet.

    Args and names of the weights as of `conv_bn`, at stride 1; the convention's bias is for what follows a
    convolution, so this one has none.
    """
    x = norm_act(x, convention=convention, name=name)
    return convolved(x, filters, kernel=kernel, padding="same", bias=False, convention=convention, name=name)


def norm_act(x: KerasTensor, *, activation: bool = True, convention: Convention = TENSORFLOW, name: str) -> KerasTensor:
    """act(BN(x)), either of which may be left out; BN(act(x)) where the convention's order is "after"."""
    after = convention.order == "after"
    if activation and after:
        x = act(x, convention=convention, name=name)
    if convention.batch_norm:
        x = layers.BatchNormalization(epsilon=convention.epsilon, scale=convention.scale, name=f"{name}_bn")(x)
    return act(x, convention=convention, name=name) if activation and not after else x


def act(x: KerasTensor, *, convention: Convention = TENSORFLOW, name: str) -> KerasTensor:
    """The convention's activation; a leaky ReLU has the slope of Keras' own, 0.3. A linear one is `x` itself."""
    if convention.activation == "linear":
        return x
    if convention.activation == "leaky_relu":
        return layers.LeakyReLU(negative_slope=0.3, name=f"{name}_act")(x)
    return layers.Activation(convention.activation, name=f"{name}_act")(x)


def _grouped(channels: int, filters: int, groups: int, convention: Convention) -> Any:
    """The initialiser of a kernel; Glorot's of a grouped one as of the separate convolutions that it stands for.

    Keras counts the outputs of all groups, as many as `groups` times what a weight of one group contributes to.
    """
    if groups == 1 or convention.initializer != "glorot_uniform":
        return convention.initializer
    scale = 2 * channels / (channels + filters)
    return initializers.VarianceScaling(scale=scale, mode="fan_in", distribution="uniform")


def padded(x: KerasTensor, kernel: Size, *, stride: int, padding: str, name: str) -> tuple[KerasTensor, Any]:
    """`x` with zeros around it where Keras' own padding does not do, and the padding to ask Keras for."""
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    if padding not in ("symmetric", "after"):
        return x, padding
    if stride == 1 and high % 2 and wide % 2:
        return x, "same"
    if high == wide == 1:
        return x, "valid"
    if padding == "after":
        return layers.ZeroPadding2D(((0, high // 2), (0, wide // 2)), name=f"{name}_pad")(x), "valid"
    return layers.ZeroPadding2D((high // 2, wide // 2), name=f"{name}_pad")(x), "valid"
