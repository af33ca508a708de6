"""Inception modules, stems and auxiliary classifiers: layers for the tables of `models.inception_spec`.

Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from keras import KerasTensor, layers

from glimpse.models.blocks.convolution import act, conv_bn, convolved
from glimpse.models.blocks.pooling import Border, average_pool, max_pool
from glimpse.models.blocks.squeeze_excitation import squeeze_excitation
from glimpse.models.inception_spec import Chain, Parallel, Pool, Step
from glimpse.models.spec import TENSORFLOW, Convention


def inception(
    x: KerasTensor,
    branches: Parallel,
    *,
    se_ratio: int | None = None,
    convention: Convention = TENSORFLOW,
    average: Border = "same",
    name: str,
) -> KerasTensor:
    """SE(concatenate(branch(x) for every branch)).

    Args:
        x: ``[N, H, W, C]``.
        branches: the module; all branches must make maps of one height and width.
        se_ratio: squeeze ratio of the SE block behind the concatenation (Hu et al., arXiv:1709.01507, figure 2);
            None leaves it out.
        convention: the publisher's habits.
        average: border of average pools that are as large as their input: ``"same"`` leaves it out of the means,
            ``"symmetric"`` counts its zeros in.
        name: prefix of the layers' names, before the branch's and, in a branch of several steps, the step's number.

    Returns:
        ``[N, H', W', sum of the branches' channels]``.
    """
    outputs = [
        chain(x, steps, convention=convention, average=average, name=f"{name}_{branch}")
        for branch, steps in branches.items()
    ]
    x = layers.Concatenate(name=f"{name}_concat")(outputs)
    return x if se_ratio is None else squeeze_excitation(x, ratio=se_ratio, name=f"{name}_se")


def group(
    x: KerasTensor,
    modules: Iterable[Parallel],
    *,
    se_ratio: int | None = None,
    convention: Convention = TENSORFLOW,
    average: Border = "same",
    name: str,
) -> KerasTensor:
    """The modules one after the other, ``_block1`` the first; arguments as of `inception`."""
    for number, module in enumerate(modules, start=1):
        x = inception(
            x, module, se_ratio=se_ratio, convention=convention, average=average, name=f"{name}_block{number}"
        )
    return x


def chain(
    x: KerasTensor, steps: Chain, *, convention: Convention = TENSORFLOW, average: Border = "same", name: str
) -> KerasTensor:
    """The steps one after the other; arguments as of `inception`. The first step of several is number 1."""
    for number, step in enumerate(steps, start=1):
        x = _step(x, step, convention, average, name if len(steps) == 1 else f"{name}_{number}")
    return x


def _step(x: KerasTensor, step: Step, convention: Convention, average: Border, name: str) -> KerasTensor:
    if isinstance(step, Mapping):
        return inception(x, step, convention=convention, average=average, name=name)
    if isinstance(step, Pool):
        if step.kind == "max":
            return max_pool(x, size=step.size, stride=step.stride, border=step.border, name=f"{name}_pool")
        border = average if step.border == "same" else step.border
        return average_pool(x, size=step.size, stride=step.stride, border=border, name=f"{name}_pool")
    return conv_bn(
        x,
        step.filters,
        kernel=step.kernel,
        stride=step.stride,
        padding=step.border,
        convention=convention,
        name=name,
    )


def residual_inception(
    x: KerasTensor,
    branches: Parallel,
    *,
    scale: float,
    activation: bool = True,
    convention: Convention = TENSORFLOW,
    name: str,
) -> KerasTensor:
    """act(x + scale * conv1x1(concatenate(branch(x)))) (Szegedy et al., arXiv:1602.07261, figures 16 to 19).

    Args:
        x: ``[N, H, W, C]``.
        branches: the module, whose maps are as large as x.
        scale: of the transform, so that many units in a row train (section 3.3).
        activation: False for a linear output.
        convention: the publisher's habits; the 1x1 convolution behind the branches is linear and has a bias.
        name: prefix of the layers' names; the 1x1 convolution is ``_up``.

    Returns:
        ``[N, H, W, C]``.
    """
    f = inception(x, branches, convention=convention, name=name)
    f = convolved(f, int(x.shape[-1]), kernel=1, bias=True, convention=convention, name=f"{name}_up")
    if scale != 1:
        f = layers.Rescaling(scale, name=f"{name}_scale")(f)
    y = layers.Add(name=f"{name}_add")([x, f])
    return act(y, convention=convention, name=name) if activation else y


def multiplied(x: KerasTensor, *, kernel: int, stride: int, multiplier: int, name: str) -> KerasTensor:
    """Every channel convolved with `multiplier` kernels of its own, the first half of a separable convolution.

    ``[N, H, W, C]`` -> ``[N, ceil(H / stride), ceil(W / stride), C * multiplier]``; linear, without bias. The weights
    are in ``_depthwise``.
    """
    return layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding="same",
        depth_multiplier=multiplier,
        use_bias=False,
        depthwise_initializer="he_normal",
        name=f"{name}_depthwise",
    )(x)


def dense_auxiliary(
    x: KerasTensor, classes: int, *, adaptive: bool, convention: Convention = TENSORFLOW, name: str
) -> KerasTensor:
    """The auxiliary classifier of GoogLeNet (arXiv:1409.4842, section 5): pool, 1x1 convolution, two dense layers.

    Args:
        x: ``[N, H, W, C]``, the maps of 14x14 of an image of 224x224.
        classes: number of classes.
        adaptive: means of 4x4 regions that share the maps among them; False: of 5x5 windows 3 apart, the paper's,
            which of maps of 14x14 are 4x4 as well.
        convention: the publisher's habits.
        name: prefix of the layers' names.

    Returns:
        float32 logits ``[N, classes]``.
    """
    if adaptive:
        x = layers.AdaptiveAveragePooling2D(4, name=f"{name}_pool")(x)
    else:
        x = average_pool(x, size=5, stride=3, border="valid", name=f"{name}_pool")
    x = conv_bn(x, 128, kernel=1, convention=convention, name=name)
    x = layers.Flatten(name=f"{name}_flatten")(x)
    x = layers.Dense(1024, activation="relu", name=f"{name}_hidden")(x)
    x = layers.Dropout(0.7, name=f"{name}_dropout")(x)
    # float32 under every precision policy, as the main classifier's.
    return layers.Dense(classes, dtype="float32", name=f"{name}_logits")(x)
