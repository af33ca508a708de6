"""Dense connectivity: every layer sees all the maps before it. Huang et al., arXiv:1608.06993, section 3."""

from __future__ import annotations

from keras import KerasTensor, layers

from glimpse.models.blocks.convolution import bn_conv, conv_bn
from glimpse.models.spec import TENSORFLOW, Convention


def dense_layer(
    x: KerasTensor, growth: int, *, preactivation: bool = True, convention: Convention = TENSORFLOW, name: str
) -> KerasTensor:
    """[x, f(x)] along the channels, f = conv3x3(conv1x1(x)), the 1x1 a bottleneck of four times `growth` (DenseNet-B).

    Args:
        x: ``[N, H, W, C]``.
        growth: channels that f adds, the paper's k.
        preactivation: each convolution behind BN and activation, as in the paper; False puts them behind each
            convolution.
        convention: the publisher's habits.
        name: prefix of the layers' names: the 1x1 is ``_a``, the 3x3 ``_b``.

    Returns:
        ``[N, H, W, C + growth]``.
    """
    convolve = bn_conv if preactivation else conv_bn
    f = convolve(x, 4 * growth, kernel=1, convention=convention, name=f"{name}_a")
    f = convolve(f, growth, kernel=3, convention=convention, name=f"{name}_b")
    return layers.Concatenate(name=f"{name}_concat")([x, f])


def transition(
    x: KerasTensor,
    *,
    compression: float = 0.5,
    preactivation: bool = True,
    convention: Convention = TENSORFLOW,
    name: str,
) -> KerasTensor:
    """averagepool2x2(conv1x1(x)) between two dense blocks (section 3, "Pooling layers" and "Compression").

    Args:
        x: ``[N, H, W, C]``.
        compression: part of the channels that is kept, the paper's theta (DenseNet-C).
        preactivation: as of `dense_layer`.
        convention: the publisher's habits.
        name: prefix of the layers' names.

    Returns:
        ``[N, H // 2, W // 2, int(C * compression)]``.
    """
    convolve = bn_conv if preactivation else conv_bn
    x = convolve(x, int(x.shape[-1] * compression), kernel=1, convention=convention, name=name)
    return layers.AveragePooling2D(2, name=f"{name}_pool")(x)
