"""Residual units: act(shortcut(x) + transform(x)). He et al., arXiv:1512.03385."""

from __future__ import annotations

from dataclasses import dataclass, replace

from keras import KerasTensor, layers

from glimpse.models.blocks.convolution import act, conv_bn, norm_act
from glimpse.models.blocks.squeeze_excitation import squeeze_excitation
from glimpse.models.spec import TENSORFLOW, Activated, Convention


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """When a shortcut is projected, and by what."""

    forced: bool = False  # also where the shapes agree (option C of He et al., section 4.1; by default option B)
    kernel: int = 1  # of the projections that take strides; the others are 1x1


BY_SHAPE = Projection()


def shortcut(
    x: KerasTensor,
    filters: int,
    *,
    stride: int,
    projection: Projection = BY_SHAPE,
    convention: Convention = TENSORFLOW,
    name: str,
) -> KerasTensor:
    """x itself where the shapes agree, else its projection BN conv(x), which has no activation."""
    if stride == 1 and x.shape[-1] == filters and not projection.forced:
        return x
    return conv_bn(
        x,
        filters,
        kernel=projection.kernel if stride > 1 else 1,
        stride=stride,
        activation=False,
        convention=convention,
        name=f"{name}_projection",
    )


def basic_block(
    x: KerasTensor,
    filters: int,
    *,
    stride: int = 1,
    se_ratio: int | None = None,
    activated: Activated = "sum",
    projection: Projection = BY_SHAPE,
    convention: Convention = TENSORFLOW,
    name: str,
) -> KerasTensor:
    """act(shortcut(x) + f(x)), f = SE(BN conv3x3(act(BN conv3x3(x)))).

    Args:
        x: ``[N, H, W, C]``.
        filters: output channels.
        stride: step of the first convolution.
        se_ratio: squeeze ratio of the SE block that recalibrates f(x) before the addition; None leaves it out.
        activated: what the last activation applies to.
        projection: of the shortcut.
        convention: the publisher's habits.
        name: prefix of the layers' names.

    Returns:
        ``[N, ceil(H / stride), ceil(W / stride), filters]``.
    """
    f = conv_bn(x, filters, kernel=3, stride=stride, convention=convention, name=f"{name}_a")
    f = conv_bn(f, filters, kernel=3, activation=activated != "sum", convention=convention, name=f"{name}_b")
    if se_ratio is not None:
        f = squeeze_excitation(f, ratio=se_ratio, name=f"{name}_se")
    kept = shortcut(x, filters, stride=stride, projection=projection, convention=convention, name=name)
    y = layers.Add(name=f"{name}_add")([kept, f])
    return y if activated == "transform" else act(y, convention=convention, name=name)


def bottleneck_block(  # noqa: PLR0913 - a unit has so many properties, and a group of them would mean nothing
    x: KerasTensor,
    filters: int,
    *,
    widths: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    groups: int = 1,
    factorized: bool = False,
    se_ratio: int | None = None,
    activated: Activated = "sum",
    projection: Projection = BY_SHAPE,
    convention: Convention = TENSORFLOW,
    name: str,
) -> KerasTensor:
    """act(shortcut(x) + f(x)), f = SE(BN conv1x1(act(BN conv3x3(act(BN conv1x1(x)))))).

    With groups the 3x3 is ResNeXt's aggregated transform (Xie et al., arXiv:1611.05431, figure 3c). Factorized, the
    last 1x1 is split among the groups as well: each convolves what its own 3x3 made, with nothing in between; each
    group's output is normalised, and their concatenation normalised once more and activated, whatever `activated` says.

    Args:
        x: ``[N, H, W, C]``.
        filters: output channels.
        widths: channels of the first 1x1 and of the 3x3; both are multiples of groups.
        strides: steps of the first 1x1 and of the 3x3.
        groups: cardinality.
        factorized: split the last 1x1, too; filters must then be a multiple of groups.
        se_ratio: squeeze ratio of the SE block that recalibrates f(x) before the addition; None leaves it out.
        activated: what the last activation applies to; the handbook's first listing of this unit, which it does not
            use, has it on the transform.
        projection: of the shortcut.
        convention: the publisher's habits.
        name: prefix of the layers' names.

    Returns:
        ``[N, ceil(H / stride), ceil(W / stride), filters]``, stride being the product of the two.
    """
    f = conv_bn(x, widths[0], kernel=1, stride=strides[0], convention=convention, name=f"{name}_a")
    f = conv_bn(
        f,
        widths[1],
        kernel=3,
        stride=strides[1],
        groups=groups,
        activation=not factorized,
        convention=replace(convention, batch_norm=False) if factorized else convention,
        name=f"{name}_b",
    )
    f = conv_bn(
        f,
        filters,
        kernel=1,
        groups=groups if factorized else 1,
        activation=activated != "sum" and not factorized,
        convention=convention,
        name=f"{name}_c",
    )
    if factorized:
        # A normalisation is per channel: one over all groups is one for each of them.
        f = norm_act(f, convention=convention, name=f"{name}_concatenated")
    if se_ratio is not None:
        f = squeeze_excitation(f, ratio=se_ratio, name=f"{name}_se")
    stride = strides[0] * strides[1]
    kept = shortcut(x, filters, stride=stride, projection=projection, convention=convention, name=name)
    y = layers.Add(name=f"{name}_add")([kept, f])
    return y if activated == "transform" else act(y, convention=convention, name=name)
