"""What a file of weights holds, once it has been read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glimpse.models.weights.graphs import Graph

Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What the file of a whole model of Keras says of it; nothing of that is built or believed yet."""

    config: str  # JSON; empty: the file holds weights alone
    old: bool  # in the way of Keras 2
    hdf5: bool  # else a zip file
    numbers: int  # in all of its variables but those of an optimizer


@dataclass(frozen=True, slots=True)
class Contents:
    """Named tensors, and where the file has one the graph that they are of."""

    tensors: Tensors
    graph: Graph | None = None
    place: str = ""  # under which name in the file the tensors lie; empty: that of the file itself
    # Other sets of tensors of the same file, as the weights that were last trained beside averaged ones: in the order
    # in which they are to be preferred, behind this one.
    others: tuple[Contents, ...] = ()
