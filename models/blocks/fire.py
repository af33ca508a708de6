"""The fire module. Iandola et al., "SqueezeNet", arXiv:1602.07360, section 3.2."""

from __future__ import annotations

from keras import KerasTensor, layers

from glimpse.models.blocks.convolution import conv_bn
from glimpse.models.spec import Convention


def fire(
    x: KerasTensor, squeeze: int, *, expand: int = 4, bypass: bool = False, convention: Convention, name: str
) -> KerasTensor:
    """concat(act(conv1x1(s)), act(conv3x3(s))), s = act(conv1x1(x)).

    Few channels reach the 3x3 convolution, and half of what comes out of the module is made by a 1x1 one.

    Args:
        x: ``[N, H, W, C]``.
        squeeze: channels of s.
        expand: each of the two convolutions behind it has ``expand * squeeze`` channels.
        bypass: add x to the result (the simple bypass of section 6) where both have as many channels; x itself is
            never changed, so a module that changes the number of channels has none.
        convention: the publisher's habits.
        name: prefix of the layers' names: ``_squeeze``, ``_expand1x1`` and ``_expand3x3`` hold the weights.

    Returns:
        ``[N, H, W, 2 * expand * squeeze]``.
    """
    s = conv_bn(x, squeeze, kernel=1, convention=convention, name=f"{name}_squeeze")
    narrow = conv_bn(s, expand * squeeze, kernel=1, convention=convention, name=f"{name}_expand1x1")
    wide = conv_bn(s, expand * squeeze, kernel=3, convention=convention, name=f"{name}_expand3x3")
    y = layers.Concatenate(name=f"{name}_concat")([narrow, wide])
    return layers.Add(name=f"{name}_add")([x, y]) if bypass and x.shape[-1] == y.shape[-1] else y
