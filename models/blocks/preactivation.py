"""The residual unit with full pre-activation: shortcut(x) + transform(x), nothing behind it.

He et al., "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, figure 4e, as a bottleneck.
"""

from __future__ import annotations

from keras import KerasTensor, layers

from glimpse.models.blocks.convolution import convolved, norm_act
from glimpse.models.blocks.pooling import max_pool
from glimpse.models.spec import Convention


def preactivation_bottleneck(
    x: KerasTensor, filters: int, *, width: int, stride: int = 1, projected: bool, convention: Convention, name: str
) -> KerasTensor:
    """shortcut(x) + conv1x1(p(conv3x3(p(conv1x1(p(x)))))), p = act(BN).

    Args:
        x: ``[N, H, W, C]``.
        filters: output channels.
        width: channels of the first 1x1 and of the 3x3.
        stride: step of the 3x3.
        projected: the shortcut is a 1x1 convolution of p(x); if not, it is x, of which a stride takes every
            stride-th position.
        convention: the publisher's habits; its bias is for the convolutions that nothing normalises, the last 1x1 and
            the projection.
        name: prefix of the layers' names. Each normalisation is called as the convolution that it stands before.

    Returns:
        ``[N, ceil(H / stride), ceil(W / stride), filters]``.
    """
    p = norm_act(x, convention=convention, name=f"{name}_a")
    f = convolved(p, width, kernel=1, bias=False, convention=convention, name=f"{name}_a")
    f = norm_act(f, convention=convention, name=f"{name}_b")
    f = convolved(f, width, kernel=3, stride=stride, bias=False, convention=convention, name=f"{name}_b")
    f = norm_act(f, convention=convention, name=f"{name}_c")
    f = convolved(f, filters, kernel=1, bias=convention.bias, convention=convention, name=f"{name}_c")
    if projected:
        place = f"{name}_projection"
        x = convolved(p, filters, kernel=1, stride=stride, bias=convention.bias, convention=convention, name=place)
    elif stride > 1:
        x = max_pool(x, size=1, stride=stride, border="valid", name=f"{name}_shortcut")
    return layers.Add(name=f"{name}_add")([x, f])
