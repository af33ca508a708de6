"""The contents of a weights file after reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from glimpse.models.weights.graphs import Graph

Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class SavedModel:
    """The description of a model in a Keras file; nothing is built from it or checked against it yet."""

    config: str  # JSON; empty: the file holds weights alone
    old: bool  # in the format of Keras 2
    hdf5: bool  # else a zip file
    numbers: int  # in all of its variables but those of an optimizer


@dataclass(frozen=True, slots=True)
class Contents:
    """Named tensors, and the graph of the network where the file has one."""

    tensors: Tensors
    graph: Graph | None = None
    place: str = ""  # key of the tensors in the file, ``a.b``; empty: the top level
    # Other sets of tensors in the same file, for example the latest weights beside averaged ones, in order of
    # preference after this one.
    others: tuple[Contents, ...] = ()
    # What the file's batch normalisations add to the variance, by the name that their tensors begin with, where it
    # says so.
    epsilons: Mapping[str, float] = field(default_factory=dict)
