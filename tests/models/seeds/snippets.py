"""Where the blocks, modules and stems of the seeds are, and which of the library's blocks each is.

As in `programs`, nothing of the seeds is here but line numbers and what is called there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import KerasTensor, layers

from glimpse.models import inception_spec
from glimpse.models.blocks.convolution import conv_bn
from glimpse.models.blocks.dense_block import dense_layer, transition
from glimpse.models.blocks.fire import fire
from glimpse.models.blocks.head import dense_layers
from glimpse.models.blocks.inception import chain, inception
from glimpse.models.blocks.residual import Projection, basic_block, bottleneck_block
from glimpse.models.blocks.separable import depthwise_separable, xception_block
from glimpse.models.inception_spec import AS_PRINTED
from glimpse.models.spec import PLAIN, Convention
from tests.models.seeds.programs import HANDBOOK, PAGE

_BIASED = Convention(bias=True)


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """A part of a network, as a function of the maps in front of it."""

    name: str
    lines: str  # as of `programs.Program`
    ours: Callable[[KerasTensor], KerasTensor]
    file: str = HANDBOOK
    inputs: tuple[str, ...] = ("x",)  # what the snippet calls the maps in front of it
    call: str = ""  # an expression that makes the output; empty: the snippet itself leaves it in "x"
    shape: tuple[int, int, int] = (28, 28, 256)  # of the maps, where the seed says so
    odd: tuple[int, int, int] = (13, 9, 256)  # where padding shows
    repairs: tuple[tuple[str, str], ...] = ()


def _unit(**arguments: Any) -> Callable[[KerasTensor], KerasTensor]:
    """The unit of the question-and-answer page."""
    leaky = Convention(bias=True, activation="leaky_relu")
    return lambda x: basic_block(x, convention=leaky, name="unit", **arguments)


def _module(table: inception_spec.Parallel) -> Callable[[KerasTensor], KerasTensor]:
    return lambda x: inception(x, table, convention=AS_PRINTED, name="group1")


def _stem(table: inception_spec.Chain) -> Callable[[KerasTensor], KerasTensor]:
    return lambda x: chain(x, table, convention=AS_PRINTED, name="stem")


def _both_norms(x: KerasTensor) -> KerasTensor:
    """Batch norm before the activation of a convolution, and behind that of a dense layer."""
    x = conv_bn(x, 64, kernel=3, convention=PLAIN.normalised("before"), name="stem")
    x = layers.Flatten(name="flatten")(x)
    return dense_layers(x, [4096], convention=PLAIN.normalised("after"), name="classifier")


SNIPPETS = (
    *(
        Snippet(
            name=f"unit of the page, {name}",
            file=PAGE,
            lines="51-72",
            call=f"residual_block(x, {arguments})",
            ours=ours,
            shape=(32, 32, 64),
            odd=(13, 9, 64),
        )
        for name, arguments, ours in (
            ("plain", "64", _unit(filters=64)),
            ("projected", "64, _project_shortcut=True", _unit(filters=64, projection=Projection(forced=True))),
            ("strided", "128, _strides=(2, 2)", _unit(filters=128, stride=2)),
            (
                "strided and projected",
                "64, _strides=(2, 2), _project_shortcut=True",
                _unit(filters=64, stride=2, projection=Projection(forced=True)),
            ),
        )
    ),
    Snippet(
        name="residual block",
        lines="1017-1022",
        ours=lambda x: basic_block(x, 64, activated="transform", convention=PLAIN, name="unit"),
        shape=(56, 56, 64),
        odd=(13, 9, 64),
    ),
    Snippet(
        name="bottleneck without batch norm",
        lines="1132-1145",
        call="bottleneck_block(64, x)",
        ours=lambda x: bottleneck_block(x, 256, widths=(64, 64), activated="transform", convention=PLAIN, name="unit"),
    ),
    Snippet(
        name="batch norm before and after",
        lines="1161-1180",
        call="model(x)",
        ours=_both_norms,
        # At the printed 128 by 128 the dense layer would have 4.3 thousand million weights.
        shape=(8, 8, 3),
        odd=(7, 11, 3),
        repairs=(("(128, 128, 3)", "tuple(x.shape[1:])"),),
    ),
    Snippet(name="naive module", lines="1326-1332", ours=_module(inception_spec.naive(pool_first=True))),
    Snippet(name="v1 module", lines="1397-1406", ours=_module(inception_spec.v1(pool_first=True))),
    Snippet(name="v2 module", lines="1602-1612", ours=_module(inception_spec.v2(pool_first=True))),
    Snippet(
        name="v3 stem",
        lines="1666-1680",
        inputs=("input",),
        ours=_stem(inception_spec.HANDBOOK_V3_STEM),
        shape=(229, 229, 3),
        odd=(131, 97, 3),
    ),
    Snippet(  # whose first branch it makes and loses
        name="v4 stem as coded",
        lines="1719-1740",
        inputs=("inputs",),
        ours=_stem(inception_spec.HANDBOOK_V4_STEM_AS_CODED),
        shape=(229, 229, 3),
        odd=(131, 97, 3),
    ),
    Snippet(
        name="dense block's layer",
        lines="2085-2105",
        call="residual_block(x, 32)",
        ours=lambda x: dense_layer(x, 32, preactivation=False, convention=_BIASED, name="layer"),
    ),
    Snippet(
        name="transition",
        lines="2107-2121 2129-2130+4",
        call="trans_block(x, 0.5)",
        ours=lambda x: transition(x, preactivation=False, convention=_BIASED, name="transition"),
    ),
    Snippet(
        name="xception's middle block",
        lines="2402-2425",
        call="residual_block_middle(x, 256)",
        ours=lambda x: xception_block(x, (256,) * 3, ("after",) * 3, convention=_BIASED, name="block"),
    ),
    Snippet(
        name="xception's entry block",
        lines="2367-2380 2386-2400+4",
        call="residual_block_entry(x, 128)",
        ours=lambda x: xception_block(x, (128,) * 2, ("after",) * 2, stride=2, convention=_BIASED, name="block"),
    ),
    Snippet(
        name="depthwise block, strided",
        lines="2546-2555 2561-2577+4",
        call="depthwise_block(x, 128, 1, (2, 2))",
        ours=lambda x: depthwise_separable(
            x, 128, stride=2, convention=Convention(bias=True, padding="after"), name="block"
        ),
    ),
    Snippet(
        name="fire module",
        lines="2679-2680 2689-2704",
        call="fire(x, 32)",
        ours=lambda x: fire(x, 32, convention=PLAIN, name="fire"),
    ),
)
