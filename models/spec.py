"""What an architecture is, as plain data. No Keras here: specifications are read by tools that never build a graph."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of a network between two named points, in the vocabulary stem / group / classifier.

    Every layer of the stage that owns parameters is named ``<stage name>_...``; the builder checks it, which
    is what lets a description add up to the parameter total.
    """

    name: str  # "stem", "group1", ..., "classifier"
    block: str  # the kind of block it is made of, for example "se_basic"
    repeats: int = 1  # how many such blocks follow one another


@dataclass(frozen=True, slots=True)
class StageSummary:
    """A stage as built: what `describe` and `DescribeModel` show."""

    name: str
    block: str
    repeats: int
    output_shape: tuple[int, ...]  # without the batch axis: (height, width, channels) or (classes,)
    parameters: int  # trainable and not


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A row of the library: enough plain data to build one network.

    Families add their own fields (depths, widths, options) in a subclass beside the function that builds them.
    """

    name: str  # "se_resnet20"
    variant: str  # "cifar": whose description of the network this row follows
    paper: str  # where the numbers come from
    input_shape: tuple[int, int, int]  # (height, width, channels) that the stem was designed for
    classes: int  # of the published form
