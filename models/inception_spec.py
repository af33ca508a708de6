"""Inception modules and stems as plain data: chains of steps, and chains side by side whose outputs are concatenated.

No Keras here: families state their tables with it, `models.blocks.inception` turns the tables into layers.

The handbook's listings of modules and stems are linear, and its modules put the pool's output first. Built here are
the papers', with a ReLU behind each convolution and the pool last, unless the tables are asked for with ``pool_first``
and the layers with the convention `AS_PRINTED`: then they are the listings to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from glimpse.models.spec import Convention

# The handbook's listings of modules and stems: biases, nothing normalised, nothing activated.
AS_PRINTED = Convention(batch_norm=False, bias=True, activation="linear", initializer="glorot_uniform")

StemActivation = Literal["relu", "linear"]
Size = int | tuple[int, int]  # one number for both directions, or (height, width)


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution with what the convention puts behind it."""

    filters: int
    kernel: Size = 1
    stride: int = 1
    border: Literal["same", "symmetric", "valid"] | None = None  # None: the convention's padding


@dataclass(frozen=True, slots=True)
class Pool:
    """The largest or the mean value of every window."""

    kind: Literal["max", "average"]
    stride: int = 1
    size: int = 3
    border: Literal["same", "valid", "ceil"] = "same"


Step: TypeAlias = "Conv | Pool | Parallel"
Chain: TypeAlias = "tuple[Step, ...]"  # one step after the other; an empty chain is its input
Parallel: TypeAlias = "Mapping[str, Chain]"  # by name, in the order of their outputs; all of them see the same input


def convolutions(steps: Chain, name: str) -> Iterator[str]:
    """The names of a chain's convolutions as `models.blocks.inception.chain` makes and calls them, in their order.

    A chain of a module alone is the module itself.
    """
    for number, step in enumerate(steps, start=1):
        place = name if len(steps) == 1 else f"{name}_{number}"
        if isinstance(step, Mapping):
            for branch, inner in step.items():
                yield from convolutions(inner, f"{place}_{branch}")
        elif isinstance(step, Conv):
            yield place


def naive(one: int = 64, three: int = 96, five: int = 48, *, pool_first: bool = False) -> Parallel:
    """The naive module: convolutions of three sizes and a pool, none reduced (arXiv:1409.4842, figure 2a).

    The numbers are the filters of each size; the defaults, here and below, are those of the handbook's example, which
    makes 544,976 parameters of 256 channels. The handbook's listings put the pool's output first (`pool_first`), not
    last as the paper's figures.
    """
    branches: Parallel = {"1x1": (Conv(one),), "3x3": (Conv(three, 3),), "5x5": (Conv(five, 5),)}
    return _with_pool(branches, (Pool("max"),), first=pool_first)


def v1(
    one: int = 64,
    three: tuple[int, int] = (64, 96),
    five: tuple[int, int] = (64, 48),
    pool: int = 64,
    *,
    large: int = 5,
    pool_first: bool = False,
) -> Parallel:
    """The module of GoogLeNet: 1x1 convolutions reduce before the expensive ones (arXiv:1409.4842, figure 2b).

    The handbook's example makes 198,032 parameters of 256 channels.

    Args:
        one: filters of the 1x1 branch.
        three: filters of the 3x3 branch, its reduction's first.
        five: the same for the 5x5 branch.
        pool: filters of the projection behind the pool.
        large: side of the largest kernel, where it is not the paper's 5.
        pool_first: the pool's output before the others', as in the handbook's listing.
    """
    branches: Parallel = {
        "1x1": (Conv(one),),
        "3x3": (Conv(three[0]), Conv(three[1], 3)),
        "5x5": (Conv(five[0]), Conv(five[1], large)),
    }
    return _with_pool(branches, (Pool("max"), Conv(pool)), first=pool_first)


def v2(
    one: int = 64,
    three: tuple[int, int] = (64, 96),
    double: tuple[int, int] = (64, 48),
    pool: int = 64,
    *,
    pooling: Literal["max", "average"] = "max",
    pool_first: bool = False,
) -> Parallel:
    """The module of Inception-v2: two 3x3 convolutions in place of the 5x5 (arXiv:1502.03167, appendix).

    The handbook's example makes 169,664 parameters of 256 channels. Its text says that the two cost 33% less than the
    5x5; in its example they have 48,480 parameters for 76,848, 37% less, and at equal widths 18 weights for 25, 28%.
    """
    branches: Parallel = {
        "1x1": (Conv(one),),
        "3x3": (Conv(three[0]), Conv(three[1], 3)),
        "double3x3": (Conv(double[0]), Conv(double[1], 3), Conv(double[1], 3)),
    }
    return _with_pool(branches, (Pool(pooling), Conv(pool)), first=pool_first)


def _with_pool(branches: Parallel, pool: Chain, *, first: bool) -> Parallel:
    return {"pool": pool, **branches} if first else {**branches, "pool": pool}


# The handbook's stems. It prints them for images of 229x229 pixels, where the network and its papers have 299x299;
# the parameters, 614,896 and 604,864, are the same for both. Its listings have no activations; the option
# stem_activation of the two networks says whether ours have.
HANDBOOK_V3_STEM: Chain = (
    Conv(32, 3, 2),
    Conv(32, 3),
    Conv(64, 3),
    Pool("max", 2),
    Conv(80),
    Conv(192, 3),
    Conv(256, 3, 2),
)
HANDBOOK_V4_STEM: Chain = (
    Conv(32, 3, 2),
    Conv(32, 3),
    Conv(64, 3),
    {"pool": (Pool("max", 2),), "3x3": (Conv(96, 3, 2),)},
    {"7x7": (Conv(64), Conv(64, (7, 1)), Conv(64, (1, 7)), Conv(96, 3)), "3x3": (Conv(64), Conv(96, 3))},
    {"pool": (Pool("max", 2),), "3x3": (Conv(192, 3, 2),)},
)
# What the handbook's code runs: it binds the second branch to the name of the first, so the 7x7 branch is lost and the
# second is concatenated with its own reduction. That is the 426,400 parameters which it prints.
HANDBOOK_V4_STEM_AS_CODED: Chain = (
    *HANDBOOK_V4_STEM[:4],
    Conv(64),
    {"3x3": (Conv(96, 3),), "1x1": ()},
    HANDBOOK_V4_STEM[5],
)
