"""Where the networks of the seeds are, what has to be repaired in each, and which row of the library each is.

Nothing of the seeds is here: line numbers of their files, and what a repair puts in place of what. `cut` makes a
program of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[4] / "shared/seeds"
BOOK, HANDBOOK, PAGE = "001", "002", "004"  # how the files' names begin
FORMATS = (".keras", ".h5", ".weights.h5")  # in which Keras saves a model or its weights


@dataclass(frozen=True, kw_only=True)
class Program:
    """A network of the seeds, whose program leaves it in the variable ``model``."""

    name: str
    # Lines of its file, from 1, both ends included. What is left out between them are code fences, page breaks, the
    # training, and comments that were wrapped without their "#". "+4": a page break has lost so much indentation.
    lines: str
    # The row of the library: name, variant, and options.
    row: tuple[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    file: str = HANDBOOK
    size: str = "224, 224"  # height and width as the program writes them, which `odd` takes the place of
    odd: tuple[int, int] = (131, 97)
    channels: int = 3
    classes: int = 1000
    repairs: tuple[tuple[str, str], ...] = ()  # what is replaced by what, each of which the program must have
    formats: tuple[str, ...] = FORMATS  # in which it can be saved; none: weights are copied in the order of creation


# The slices of a Lambda are bound late, so that all groups of the printed program see the last one.
_BOUND = ("lambda z:", "lambda z, i=i:")
_BASIC = ("basic_cnn", "handbook")
_VGG = "957-968 974-990"
_RESIDUAL_UNIT = "146-172 191-204"
_MOBILENET = "2497-2503 2508-2519+4 2521-2555 2561-2577+4 2579-2605 2611-2614 2618"

PROGRAMS = (
    Program(name="mnist", lines="569-583", row=("mnist_dnn", "handbook"), size="28,28", channels=1, classes=10),
    Program(
        name="mnist with dropout",
        lines="644-647 652-664",
        row=("mnist_dnn", "handbook"),
        options={"dropout": 0.5},
        size="28,28",
        channels=1,
        classes=10,
    ),
    Program(name="basic, long", lines="761-788", row=_BASIC, size="128,128", channels=1, classes=26),
    Program(name="basic, short", lines="829-852", row=_BASIC, size="128, 128", channels=1, classes=26),
    Program(name="basic, functional", lines="867-882", row=_BASIC, size="128, 128", channels=1, classes=26),
    Program(name="vgg16, sequential", lines="900-923 928-944", row=("vgg16", "handbook"), odd=(64, 97)),
    Program(name="vgg16, by blocks", lines=_VGG, row=("vgg16", "handbook"), odd=(67, 96)),
    Program(  # which the handbook names only
        name="vgg19, by blocks",
        lines=_VGG,
        row=("vgg19", "handbook"),
        odd=(64, 97),
        repairs=(("conv_block(3, 256)", "conv_block(4, 256)"), ("conv_block(3, 512)", "conv_block(4, 512)")),
    ),
    Program(
        name="resnet34",
        lines="1041-1052 1057-1084 1086-1092 1094-1100 1102 1107-1118",
        row=("resnet34", "handbook"),
    ),
    Program(
        name="resnet50",
        lines="1188-1199 1204-1214+4 1216-1249 1255-1269 1271-1277 1279-1285 1287-1299",
        row=("resnet50", "handbook"),
    ),
    Program(name="resnext50", lines="1486-1532 1538-1581", row=("resnext50", "handbook"), repairs=(_BOUND,)),
    Program(
        name="resnext50, figure 3D",
        lines="1889-1895 1900-1946 1952-1984",
        row=("resnext50", "handbook"),
        options={"factorized": True},
        repairs=(_BOUND,),
    ),
    Program(
        name="densenet121",
        lines="2053-2069 2074-2083+4 2085-2121 2129-2130+4 2132-2163",
        row=("densenet121", "handbook"),
        size="230, 230",
        # As printed it loops over a global variable, so that the last group has 24 blocks instead of 16.
        repairs=(("range(nbblocks)", "range(nblocks)"),),
    ),
    Program(
        name="xception",
        lines="2263-2275 2280-2287+4 2289-2296+4 2298-2328 2334-2365+4 2367-2380 2386-2400+4 2402-2432 2440-2442",
        row=("xception", "handbook"),
        size="299, 299",
    ),
    Program(name="mobilenet", lines=_MOBILENET, row=("mobilenet", "handbook")),
    Program(
        name="mobilenet, alpha 0.25",
        lines=_MOBILENET,
        row=("mobilenet", "handbook"),
        options={"alpha": 0.25},
        repairs=(("alpha      = 1 ", "alpha      = 0.25 "),),
    ),
    Program(name="squeezenet", lines="2678-2711 2718-2753", row=("squeezenet1_0", "handbook"), odd=(101, 91)),
    Program(
        name="resnet34 of the book",
        file=BOOK,
        lines=_RESIDUAL_UNIT,
        row=("resnet34", "geron"),
        classes=10,
        formats=(".keras", ".weights.h5"),  # its unit cannot say how it was made, which .h5 wants
    ),
    Program(  # whose block the book has in words: the test's own layer is at the end of each unit's main layers
        name="se_resnet34 of the book",
        file=BOOK,
        lines=_RESIDUAL_UNIT,
        row=("se_resnet34", "geron"),
        classes=10,
        repairs=(
            (
                "keras.layers.BatchNormalization()]\n        self.skip_layers",
                "keras.layers.BatchNormalization(), SqueezeExcitation()]\n        self.skip_layers",
            ),
        ),
        formats=(),
    ),
)
