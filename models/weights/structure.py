"""Matching a network's layers with the graph in a file, where names do not identify the tensors.

Both graphs, the file's and the network's, are reduced to the layers with weights and the operations that combine
values. Two units match if everything before them, up to the image, and everything after them, up to the output, is
equal. A unit with no counterpart, or more than one, is an error. Nothing is matched by its position in a list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
from numpy.typing import NDArray

from glimpse.models.weights import graphs
from glimpse.models.weights.graphs import Graph, Node, Order, Unit, Value

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """The Keras layers that a unit stands for."""

    kernel: keras.Layer | None  # a convolution or a dense layer
    norm: keras.layers.BatchNormalization | None  # behind it, or on its own

    @property
    def name(self) -> str:
        """Of the layer that counts."""
        return str(getattr(self.norm if self.kernel is None else self.kernel, "name", ""))


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights in a file for one unit of a network."""

    layer: Layer
    name: str  # of the kernel in the file
    kernel: Array | None  # the file's, its axes in `order`
    order: Order
    output_axis: int  # of the kernel
    scale: Array | None  # behind the kernel, one number a channel; None: 1
    shift: Array | None  # None: 0


@dataclass(slots=True)
class Match:
    """The result of matching a network with the graph in a file."""

    weights: list[Weights] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # layers that the file has nothing for
    unexpected: list[str] = field(default_factory=list)  # kernels of the file that the network has no layer for
    ambiguous: list[str] = field(default_factory=list)  # layers with several candidates
    scaled: bool = False  # the file's graph scales its input by itself


def match(model: keras.Model, graph: Graph) -> Match | None:
    """Find the weights for every layer of `model`; None where the graph's output does not depend on its input."""
    reduced = graphs.reduced(graph)
    if reduced is None:
        return None
    ours, theirs = graphs.units(_own(model)), graphs.units(reduced.last)
    for last in (ours[-1], theirs[-1]):
        if last.kind == "conv":  # whatever the number of classes
            last.key = (last.key[0], None, *last.key[2:])
    labels = _labels(ours, theirs)
    found = Match(scaled=reduced.scaled)
    by_label: dict[int, list[Unit]] = {}
    for unit in theirs:
        by_label.setdefault(labels[id(unit)], []).append(unit)
    counts = Counter(labels[id(unit)] for unit in ours)
    used = set()
    for unit in ours:
        if not isinstance(unit.source, Layer):
            continue
        label = labels[id(unit)]
        candidates = by_label.get(label, [])
        used.add(label)
        if not candidates:
            found.missing.append(unit.source.name)
        elif len(candidates) > 1 or counts[label] > 1:
            found.ambiguous.append(unit.source.name)
        else:
            found.weights.append(_weights(unit.source, candidates[0], graph.order))
    found.unexpected.extend(
        unit.source.name or unit.kind
        for unit in theirs
        if isinstance(unit.source, Node) and labels[id(unit)] not in used
    )
    return found


def _weights(layer: Layer, unit: Unit, order: Order) -> Weights:
    node: Node = unit.source
    axis = 3 if node.depthwise and order == "OHWI" else 0
    return Weights(layer, node.name, node.kernel, node.order or order, axis, unit.scale, unit.shift)


def _labels(*parts: Iterable[Unit]) -> dict[int, int]:
    """A number for each unit, equal for units with equal predecessors and successors.

    Args:
        parts: the units of each graph, each behind its inputs.
    """
    numbers: dict[Any, int] = {}

    def number(what: Any) -> int:
        return numbers.setdefault(what, len(numbers))

    before: dict[int, int] = {}
    for part in parts:
        for unit in part:
            inputs = [before[id(one)] for one in unit.inputs]
            before[id(unit)] = number((unit.kind, unit.key, tuple(inputs if unit.ordered else sorted(inputs))))
    labels: dict[int, int] = {}
    for part in parts:
        takers: dict[int, list[tuple[int, int]]] = {}
        for unit in reversed(list(part)):
            label = number((before[id(unit)], tuple(sorted(takers.get(id(unit), ())))))
            labels[id(unit)] = label
            for place, one in enumerate(unit.inputs):
                takers.setdefault(id(one), []).append((label, place if unit.ordered else -1))
    return labels


def _own(model: keras.Model) -> Unit:
    """The last unit of a network of ours."""
    image = Unit("input")
    values: dict[int, Value] = {id(tensor): Value(image, linear=True) for tensor in model.inputs}
    takers = Counter(id(tensor) for layer in model.layers for tensor in _inputs(layer))
    for layer in model.layers:
        inputs = _inputs(layer)
        if not inputs:
            continue
        taken = [values[id(tensor)] for tensor in inputs]
        values[id(layer.output)] = _own_value(layer, taken, alone=takers[id(inputs[0])] == 1)
    return values[id(model.outputs[0])].unit


def _inputs(layer: keras.Layer) -> list[Any]:
    if isinstance(layer, keras.layers.InputLayer):
        return []
    return list(layer._inbound_nodes[0].input_tensors)  # noqa: SLF001 - Keras has no public way back through a graph


def _own_value(layer: keras.Layer, taken: list[Value], *, alone: bool) -> Value:
    first = taken[0]
    linear = getattr(layer, "activation", keras.activations.linear) is keras.activations.linear
    match layer:
        case keras.layers.DepthwiseConv2D():
            height, width, channels, multiplier = layer.kernel.shape
            key = graphs.kernel_key(height * width, channels * multiplier, tuple(layer.strides), (height, width))
            value = Value(Unit("conv", key, [first.unit], source=Layer(layer, None)), linear=linear)
        case keras.layers.Conv2D():
            height, width, channels, outputs = layer.kernel.shape
            key = graphs.kernel_key(height * width * channels, outputs, tuple(layer.strides), (height, width))
            value = Value(Unit("conv", key, [first.unit], source=Layer(layer, None)), linear=linear)
        case keras.layers.Dense():
            inputs, outputs = layer.kernel.shape
            key = graphs.kernel_key(inputs, outputs, (1, 1), (1, 1))
            value = Value(Unit("conv", key, [first.unit], source=Layer(layer, None)), linear=linear)
        case keras.layers.BatchNormalization():
            unit = first.unit
            before = unit.source if unit.kind == "conv" and alone and first.linear else None
            if isinstance(before, Layer) and before.norm is None:
                unit.source = Layer(before.kernel, layer)
            else:
                unit = Unit("norm", (layer.moving_mean.shape[0],), [unit], source=Layer(None, layer))
            value = Value(unit, linear=True)
        case keras.layers.Add():
            value = graphs.joined("add", taken)
        case keras.layers.Multiply():
            value = graphs.joined("multiply", taken)
        case keras.layers.Concatenate():
            value = graphs.joined("concat", taken)
        case _ if len(taken) > 1:
            value = graphs.joined(type(layer).__name__, taken)
        case _:
            value = Value(first.unit, linear=False)
    return value
