"""The graph of an ONNX or TFLite file in one form, reduced to what holds weights and to where values meet.

Converters fold batch normalisation into convolutions and throw names away; what is left to tell a tensor by is its
place in the graph. So a file's reader says what its operations do in the few words of `Node`, and `reduced` leaves out
all that holds no weights: activations, pooling, padding, reshaping. `models.weights.structure` compares the rest with
a network's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Order = Literal["OIHW", "OHWI"]
# "conv" and "dense" have a kernel and perhaps a bias. "affine" multiplies and adds constants. "join" has many inputs.
# "linear" hands on the same numbers, "other" does anything else. "shape" makes what is no data: sizes of its input.
Kind = Literal["conv", "dense", "affine", "join", "linear", "other", "shape"]


_USES, _SPARE = 4, 1 << 16
NODES = 50_000  # operations of a graph; the largest published models have some thousand
# Inputs of all joins of a graph. Concatenations of concatenations count all that is in them, which doubles what a graph
# of two at each step has; DenseNet-264 has some ten thousand.
_JOINED = 1_000_000


class RepeatedError(Exception):
    """A graph uses its constants, or combines its values, more often than any known network does."""


class Budget:
    """A limit on how many numbers are computed from the constants of a file.

    A network uses each constant about once; a small hostile file could use them any number of times.
    """

    def __init__(self, constants: Iterable[Array]) -> None:
        self._left = _USES * sum(constant.size for constant in constants) + _SPARE

    def spend(self, *constants: Array) -> None:
        """Count the use of constants.

        Raises:
            RepeatedError: the limit is exceeded.
        """
        self._left -= sum(constant.size for constant in constants)
        if self._left < 0:
            raise RepeatedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation of a file."""

    kind: Kind
    operation: str  # as the file calls it, or "add", "multiply" and "concat" of a join
    inputs: tuple[str, ...]  # names of the values that it takes, without its constants
    output: str
    name: str = ""  # of its kernel, for messages
    kernel: Array | None = None  # in the graph's order of axes; of a depthwise convolution in TFLite [1, H, W, C * M]
    bias: Array | None = None
    scale: Array | None = None  # what an affine operation multiplies with; one number or one a channel
    shift: Array | None = None  # what it adds behind that
    stride: tuple[int, int] = (1, 1)
    depthwise: bool = False
    activated: bool = False  # something that is not linear is fused behind it
    order: Order | None = None  # of a dense kernel's inputs, where it is not the graph's


@dataclass(frozen=True, slots=True)
class Graph:
    """What a file computes."""

    nodes: tuple[Node, ...]  # each behind those whose values it takes
    output: str  # the value that is its answer
    order: Order  # of the axes of its kernels


@dataclass(slots=True, eq=False)
class Unit:
    """A node of a reduced graph: a layer with weights, or an operation that combines several values."""

    kind: str  # "input", "conv", "norm", or what a join is called
    key: tuple[Any, ...] = ()  # what has to be the same in another graph, beside the kind
    inputs: list[Unit] = field(default_factory=list)
    ordered: bool = False  # the order of the inputs counts
    source: Any = None  # what it was made of: a `Node`, or layers of Keras
    # Of a file's graph: what is behind the kernel, one number a channel; None: nothing.
    scale: Array | None = None
    shift: Array | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """The output of an operation."""

    unit: Unit
    linear: bool  # it is what the unit computes, with nothing behind it that is not linear


def joined(kind: str, values: Sequence[Value]) -> Value:
    """Combine several values. Nested concatenations become one; the order of summands and factors does not matter."""
    units = [value.unit for value in values]
    if kind == "concat":
        units = [inner for unit in units for inner in (unit.inputs if unit.kind == "concat" else [unit])]
    # As silu is decomposed, x * sigmoid(x), and as an image is put together again from its channels.
    if all(unit is units[0] for unit in units):
        return Value(units[0], linear=False)
    return Value(Unit(kind, inputs=units, ordered=kind not in ("add", "multiply")), linear=False)


def kernel_key(rows: int, outputs: int | None, stride: tuple[int, int], sides: tuple[int, int]) -> tuple[Any, ...]:
    """The properties by which convolutions are compared.

    A dense layer and a convolution over all of the maps are the same, so it is the size that counts, not the shape;
    but a kernel of 1x7 is none of 7x1.
    """
    return (rows, outputs, stride, sides if sides[0] != sides[1] else None)


def units(last: Unit) -> list[Unit]:
    """All units that `last` depends on, and itself, in topological order."""
    found: list[Unit] = []
    seen: set[int] = set()
    waiting: list[tuple[Unit, bool]] = [(last, False)]
    while waiting:
        unit, ready = waiting.pop()
        if ready:
            found.append(unit)
        elif id(unit) not in seen:
            seen.add(id(unit))
            waiting.append((unit, True))
            waiting.extend((before, False) for before in unit.inputs)
    return found


@dataclass(frozen=True, slots=True)
class Reduced:
    """A graph without the operations that have no weights."""

    last: Unit  # the classifier
    scaled: bool = False  # the graph multiplies or shifts its input by itself


def reduced(graph: Graph) -> Reduced | None:
    """Reduce the graph of a file to its units; None where its output does not depend on its input.

    Raises:
        RepeatedError: its values are joined more often than those of any network.
        ValueError: a bias is of another size than its kernel.
    """
    consumers = Counter(name for node in graph.nodes for name in node.inputs)
    values: dict[str, Value | None] = {}
    image, scaled, joins = Value(Unit("input"), linear=True), False, 0
    for node in graph.nodes:
        taken = [value for name in node.inputs if (value := values.get(name, image)) is not None]
        if not taken or node.kind == "shape":
            values[node.output] = None
            continue
        first = taken[0]
        if node.kind in ("conv", "dense"):
            value = Value(_kernel_unit(node, graph.order, first.unit), linear=True)
        elif node.kind == "affine":
            alone = first.linear and consumers[node.inputs[0]] == 1
            scaled |= first.unit is image.unit
            value = _affine(node, first, alone=alone, image=image.unit)
        elif len(taken) > 1:
            joins += sum(len(one.unit.inputs) if one.unit.kind == "concat" else 1 for one in taken)
            if joins > _JOINED:
                raise RepeatedError
            value = joined(node.operation, taken)
        else:
            value = Value(first.unit, linear=first.linear and node.kind == "linear")
        values[node.output] = Value(value.unit, linear=value.linear and not node.activated)
    last = values.get(graph.output)
    return None if last is None or last.unit is image.unit else Reduced(last.unit, scaled)


def _kernel_unit(node: Node, order: Order, before: Unit) -> Unit:
    kernel = np.empty(0) if node.kernel is None else node.kernel
    shape = kernel.shape
    outputs = shape[-1] if node.depthwise and order == "OHWI" else shape[0]
    rows = kernel.size // max(outputs, 1)
    sides = (1, 1) if len(shape) < 4 else (shape[2:] if order == "OIHW" else shape[1:3])
    key = kernel_key(rows, outputs, node.stride, (sides[0], sides[1]))
    bias = None if node.bias is None else node.bias.reshape(-1)
    if bias is not None and bias.size > 1 and bias.size != outputs:
        raise ValueError(f"a bias of {bias.size} numbers behind a kernel of {outputs} outputs")
    return Unit("conv", key, [before], source=node, shift=bias)


def _affine(node: Node, value: Value, *, alone: bool, image: Unit) -> Value:
    unit = value.unit
    numbers = [part.size for part in (node.scale, node.shift) if part is not None]
    if unit is image or max(numbers, default=1) == 1:
        # One number for all channels is a part of some activation.
        return Value(unit, linear=unit is image)
    channels = unit.key[1] if unit.kind == "conv" else unit.key[0] if unit.kind == "norm" else None
    if not alone or set(numbers) - {1, channels}:
        unit = Unit("norm", (max(numbers),), [unit], source=node)
    unit.scale, unit.shift = behind(unit.scale, unit.shift, node.scale, node.shift)
    return Value(unit, linear=True)


def behind(
    scale: Array | None, shift: Array | None, more: Array | None, then: Array | None
) -> tuple[Array | None, Array | None]:
    """The composition of two affine operations."""
    if more is not None:
        scale = more if scale is None else scale * more
        shift = shift if shift is None else shift * more
    if then is not None:
        shift = then if shift is None else shift + then
    return scale, shift


def normalisation(constants: Mapping[str, Array], epsilon: float) -> tuple[Array, Array]:
    """Scale and shift of a batch normalisation."""
    scale = constants["gamma"].astype(np.float64) / np.sqrt(constants["variance"].astype(np.float64) + epsilon)
    return scale, constants["beta"].astype(np.float64) - constants["mean"].astype(np.float64) * scale


def vector(value: Array) -> Array | None:
    """The numbers of a constant that has one for all channels or one for each; None for any other."""
    return value.reshape(-1) if sum(side > 1 for side in value.shape) <= 1 else None


def kernels(last: Unit) -> Iterator[tuple[int, ...]]:
    """The shape of every kernel, for identifying the network."""
    for unit in units(last):
        if unit.kind == "conv" and isinstance(unit.source, Node) and unit.source.kernel is not None:
            yield unit.source.kernel.shape
