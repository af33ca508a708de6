"""The operations of a TFLite file in the words of `models.weights.graphs`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from glimpse.models.weights import graphs
from glimpse.models.weights.flatbuffer import Table
from glimpse.models.weights.graphs import Graph, Kind, Node

Array = NDArray[Any]

# BuiltinOperator, from TFLite's schema.
_ADD, _CONCATENATION, _CONV, _DEPTHWISE, _DEQUANTIZE, _DENSE, _MUL = 0, 2, 3, 4, 6, 9, 18
_RESHAPE, _TRANSPOSE, _SUB, _DIV, _SQUEEZE, _CAST, _EXPAND_DIMS, _SHAPE, _QUANTIZE = 22, 39, 41, 42, 43, 53, 70, 77, 114
_LINEAR = {_DEQUANTIZE, _RESHAPE, _TRANSPOSE, _SQUEEZE, _CAST, _EXPAND_DIMS, _QUANTIZE}
_ARITHMETIC = {_ADD, _MUL, _SUB, _DIV}
_JOINS = {_ADD: "add", _MUL: "multiply", _CONCATENATION: "concat"}
# Fields of the operations' options. An activation that is fused behind the operation is a number other than 0.
_STRIDE_WIDTH, _STRIDE_HEIGHT = 1, 2
_FUSED = {_CONV: 3, _DEPTHWISE: 4, _DENSE: 0, _ADD: 0, _MUL: 0, _SUB: 0, _DIV: 0, _CONCATENATION: 1}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator of a subgraph."""

    code: int
    inputs: Sequence[int]  # tensors; -1: none
    outputs: Sequence[int]
    options: Table | None


def graph_of(operations: Iterable[Operation], tensors: Sequence[tuple[str, Array | None]], output: int) -> Graph:
    """The graph of a subgraph.

    Args:
        operations: in the order in which they are computed.
        tensors: each with its name, and its value where it is a constant.
        output: which tensor is the answer.
    """
    names = [name for name, _ in tensors]
    values = [value for _, value in tensors]
    budget = graphs.Budget(value for value in values if value is not None)
    nodes: list[Node] = []
    for operation in operations:
        if not operation.outputs or operation.outputs[0] < 0:
            continue
        if len(nodes) >= graphs.NODES:
            raise graphs.RepeatedError
        first = operation.outputs[0]
        constant = values[operation.inputs[0]] if operation.inputs and operation.inputs[0] >= 0 else None
        # Weights in float16 are made into float32 as they are used.
        if operation.code in (_DEQUANTIZE, _CAST) and constant is not None:
            values[first], names[first] = constant, names[operation.inputs[0]]
            continue
        nodes.append(_node(operation, values, names, budget))
    return Graph(tuple(nodes), str(output), "OHWI")


def _node(operation: Operation, values: Sequence[Array | None], names: Sequence[str], budget: graphs.Budget) -> Node:
    code, options = operation.code, operation.options
    given = [values[tensor] if tensor >= 0 else None for tensor in operation.inputs]
    inputs = tuple(str(tensor) for tensor in operation.inputs if tensor >= 0 and values[tensor] is None)
    output = str(operation.outputs[0])
    activated = bool(code in _FUSED and options and options.number(_FUSED[code], "<b"))
    if code in (_CONV, _DEPTHWISE, _DENSE) and len(inputs) == 1 and len(given) > 1 and given[0] is None:
        kernel, bias = given[1], given[2] if len(given) > 2 else None
        if kernel is not None and kernel.ndim == (2 if code == _DENSE else 4) and kernel.size:
            stride = (1, 1)
            if code != _DENSE and options:
                stride = (options.number(_STRIDE_HEIGHT, "<i"), options.number(_STRIDE_WIDTH, "<i"))
            return Node(
                kind="dense" if code == _DENSE else "conv",
                operation=str(code),
                inputs=inputs,
                output=output,
                name=names[operation.inputs[1]],
                kernel=kernel,
                bias=bias,
                stride=stride,
                depthwise=code == _DEPTHWISE,
                activated=activated,
            )
    if code in _ARITHMETIC and len(inputs) == 1 and len(given) == 2:
        constant = given[0] if given[1] is None else given[1]
        numbers = None if constant is None or constant.dtype.kind != "f" else graphs.vector(constant)
        reversed_ = given[0] is not None
        if numbers is not None and numbers.size and not (reversed_ and code in (_SUB, _DIV)):
            budget.spend(numbers)
            return Node(
                kind="affine",
                operation=str(code),
                inputs=inputs,
                output=output,
                scale=numbers if code == _MUL else 1 / numbers if code == _DIV else None,
                shift=numbers if code == _ADD else -numbers if code == _SUB else None,
                activated=activated,
            )
    kind: Kind = "other"
    if code == _SHAPE:
        kind = "shape"
    elif len(inputs) > 1 and code in _JOINS:
        kind = "join"
    elif code in _LINEAR:
        kind = "linear"
    return Node(kind=kind, operation=_JOINS.get(code, str(code)), inputs=inputs, output=output, activated=activated)
