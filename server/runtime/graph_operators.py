"""What can be told of a graph of another framework: its operators by kind, their parameters and multiply-adds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from glimpse.models.spec import StageSummary

# Neither computes anything from images.
_NO_OPERATORS = frozenset({"Parameter", "Result", "Constant"})
# OpenVINO's names of the numbers that weights are stored in; whole numbers of 32 bits and more are shapes and axes.
_WEIGHTS = frozenset({"f32", "f16", "bf16", "f64", "i8", "u8", "i4", "u4", "nf4", "f8e4m3", "f8e5m2"})
_QUANTISATION = "FakeQuantize"  # whose constants are ranges
_CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution"})
_TRANSPOSED = frozenset({"ConvolutionBackpropData", "GroupConvolutionBackpropData"})
_STEPS = 16
_CONTROL_FLOW = frozenset({"If", "Loop", "TensorIterator"})


@dataclass(slots=True)
class _Count:
    number: int = 0
    parameters: int = 0
    multiply_adds: int = 0


def operators(model: Any) -> tuple[StageSummary, ...]:
    """The operators of a graph, one summary for each kind, in the order in which the first of a kind is computed.

    Parameters are the numbers of all constants of more than one number that are weights, each counted where it is used
    first. What only turns constants into other constants, as quantised weights into floats, is no operator here.

    Args:
        model: of OpenVINO, for one image.
    """
    ordered = model.get_ordered_ops()
    constant = _constant(ordered)
    present = frozenset(node.get_name() for node in ordered)
    counts: dict[str, _Count] = {}
    for node in ordered:
        kind = node.get_type_name()
        if kind not in _NO_OPERATORS and node.get_name() not in constant:
            count = counts.setdefault(kind, _Count())
            count.number += 1
            count.multiply_adds += multiply_adds(node)
    for node in ordered:
        if node.get_type_name() == "Constant" and (kind := _used_by(node, constant, present)) in counts:
            counts[kind].parameters += _numbers(node)
    return tuple(
        StageSummary(
            name=kind,
            block="operator",
            repeats=count.number,
            output_shape=(),
            parameters=count.parameters,
            multiply_adds=count.multiply_adds,
        )
        for kind, count in counts.items()
    )


def control_flow(model: Any) -> tuple[str, ...]:
    """The operators of a graph that choose or repeat other operators while it is computed, each with its name."""
    return tuple(
        f"{node.get_type_name()} {node.get_friendly_name()[:80]!r}"
        for node in model.get_ops()
        if node.get_type_name() in _CONTROL_FLOW
    )


def multiply_adds(node: Any) -> int:
    """Multiplications (each with its addition) of a convolution or matrix product for one image; 0 for others."""
    kind = node.get_type_name()
    if kind in _CONVOLUTIONS:
        # A kernel is used once at every position of the output.
        return _product(node.output(0), 2) * _product(node.input(1), 0)
    if kind in _TRANSPOSED:
        return _product(node.input(0), 2) * _product(node.input(1), 0)
    if kind == "MatMul":
        shape = node.input(0).get_partial_shape()
        place = -2 if node.get_attributes().get("transpose_a") and len(shape) > 1 else -1
        return _product(node.output(0), 0) * _side(shape[len(shape) + place])
    return 0


def _constant(ordered: list[Any]) -> frozenset[str]:
    """The names of what follows from constants alone."""
    found: set[str] = set()
    for node in ordered:
        made = [each.get_node().get_name() in found for each in node.input_values()]
        if node.get_type_name() == "Constant" or (made and all(made)):
            found.add(node.get_name())
    return frozenset(found)


def _used_by(node: Any, constant: frozenset[str], present: frozenset[str], depth: int = 0) -> str:
    """The kind of the operator that a constant is a weight of; empty: it is none.

    Args:
        node: the constant, or what is made of it.
        constant: names of what follows from constants alone.
        present: names of all that the answer follows from; readers leave some operators behind that nobody uses.
        depth: how often it has been converted, scaled or reshaped on the way; weights are a few times.
    """
    for target in node.output(0).get_target_inputs():
        user, place = target.get_node(), target.get_index()
        if user.get_name() not in present:
            continue
        if user.get_name() not in constant:
            ranges = user.get_type_name() == _QUANTISATION and place > 0
            return "" if ranges else str(user.get_type_name())
        # What is smaller than what it is applied to is a scale or a zero point of quantised weights, or a shape.
        whole = place == 0 or _size(node.output(0)) > _size(user.input_value(0))
        if whole and depth < _STEPS and (found := _used_by(user, constant, present, depth + 1)):
            return found
    return ""


def _numbers(node: Any) -> int:
    if node.get_element_type().get_type_name() not in _WEIGHTS:
        return 0
    count = math.prod(node.get_output_shape(0))
    return count if count > 1 else 0


def _size(port: Any) -> int:
    return math.prod(_side(side) for side in port.get_partial_shape())


def _product(port: Any, start: int) -> int:
    return math.prod(_side(side) for side in list(port.get_partial_shape())[start:])


def _side(side: Any) -> int:
    """What is not known is counted once."""
    return int(side.get_length()) if side.is_static else 1
