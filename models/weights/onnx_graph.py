"""The operations of an ONNX graph in the words of `models.weights.graphs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models.weights import graphs, limits
from glimpse.models.weights.graphs import Graph, Node, Order

Array = NDArray[Any]
_LINEAR = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Dropout"}
_LINEAR |= {"QuantizeLinear", "DequantizeLinear"}
_SIZES = {"Shape", "Size"}
_JOINS = {"Add": "add", "Sum": "add", "Mul": "multiply", "Concat": "concat"}
_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # where the channels go


def graph_of(graph: Any, constants: Mapping[str, Array], value: Callable[[Any], Array | None]) -> Graph | None:
    """The graph of an `onnx.GraphProto`.

    Args:
        graph: the graph.
        constants: initializers by name.
        value: the array of a TensorProto that an operation has as an attribute; None where it is none.
    """
    if not graph.output:
        return None
    return _Reader(dict(constants), value).read(graph)


class _Reader:
    def __init__(self, constants: dict[str, Array], value: Callable[[Any], Array | None]) -> None:
        self._constants, self._value = constants, value
        self._budget = graphs.Budget(constants.values())
        self._last: set[str] = set()  # values whose channels are the last axis

    def read(self, graph: Any) -> Graph:
        nodes = []
        for node in graph.node:
            if not node.output:
                continue
            attributes = {attribute.name: attribute for attribute in node.attribute}
            found = self._constant(node, attributes)
            if found is not None:
                self._constants[node.output[0]] = found
                continue
            nodes.append(self._node(node, attributes))
        return Graph(tuple(nodes), graph.output[0].name, "OIHW")

    def _constant(self, node: Any, attributes: Mapping[str, Any]) -> Array | None:
        """What an operation makes of constants, of those that exporters leave in a graph."""
        kind = node.op_type
        if kind == "Constant":
            return self._value(attributes["value"].t) if "value" in attributes else None
        inputs = [self._constants.get(name) for name in node.input if name]
        if not inputs or any(value is None for value in inputs):
            return None
        first, *rest = (value for value in inputs if value is not None)
        made = None
        try:
            if kind in ("Identity", "Cast"):
                made = first
            elif kind == "Transpose":
                made = first.transpose(_integers(attributes, "perm") or None)
            elif kind == "Reshape" and rest and rest[0].size <= limits.AXES:
                self._budget.spend(first)  # it is copied where it had been transposed
                made = first.reshape([int(side) for side in rest[0].reshape(-1)])
            elif kind == "DequantizeLinear" and rest:
                self._budget.spend(first, *rest)
                made = dequantised(first, rest[0], rest[1] if len(rest) > 1 else None, _integer(attributes, "axis", 1))
        except (ValueError, OverflowError):
            return None
        return made

    def _node(self, node: Any, attributes: Mapping[str, Any]) -> Node:
        kind, output = node.op_type, node.output[0]
        inputs = tuple(name for name in node.input if name and name not in self._constants)
        given = [self._constants.get(name) if name else None for name in node.input]
        self._follow(kind, inputs, output, attributes)
        made: Node | None = None
        if len(inputs) == 1 and node.input[0] == inputs[0]:
            if kind == "Conv" and len(given) > 1 and (kernel := given[1]) is not None and kernel.ndim == 4:
                stride = _integers(attributes, "strides") or [1, 1]
                made = Node(
                    kind="conv",
                    operation=kind,
                    inputs=inputs,
                    output=output,
                    name=node.input[1],
                    kernel=kernel,
                    bias=given[2] if len(given) > 2 else None,
                    stride=(stride[0], stride[-1]),
                )
            elif (
                _is_dense(kind, attributes) and len(given) > 1 and (kernel := given[1]) is not None and kernel.ndim == 2
            ):
                made = self._dense(node, kernel, given[2] if len(given) > 2 else None, inputs, attributes)
            elif kind == "BatchNormalization" and len(given) == 5 and _one_a_channel(given[1:]):
                parts = [part for part in given[1:] if part is not None]
                self._budget.spend(*parts)
                named = dict(zip(("gamma", "beta", "mean", "variance"), parts, strict=True))
                scale, shift = graphs.normalisation(named, attributes["epsilon"].f if "epsilon" in attributes else 1e-5)
                made = Node(kind="affine", operation=kind, inputs=inputs, output=output, scale=scale, shift=shift)
        if made is None and len(inputs) == 1 and len(given) == 2:
            made = self._affine(kind, given, inputs, output)
        if made is None:
            plain = "shape" if kind in _SIZES else "linear" if kind in _LINEAR else "other"
            joins = len(inputs) > 1 and kind in _JOINS
            made = Node(
                kind="join" if joins else plain,  # type: ignore[arg-type]
                operation=_JOINS.get(kind, kind),
                inputs=inputs,
                output=output,
            )
        return made

    def _affine(self, kind: str, given: list[Array | None], inputs: tuple[str, ...], output: str) -> Node | None:
        """A multiplication or addition with a constant, None where it is another operation."""
        constant = next((part for part in given if part is not None), None)
        numbers = None if constant is None or constant.dtype.kind != "f" else graphs.vector(constant)
        if numbers is None:
            return None
        first = given[0] is None  # the value, not the constant
        self._budget.spend(numbers)
        scale, shift = None, None
        if kind == "Mul":
            scale = numbers
        elif kind == "Div" and first:
            scale = 1 / numbers.astype(np.float64)
        elif kind == "Add" or (kind == "Sub" and first):
            shift = numbers if kind == "Add" else -numbers.astype(np.float64)
        else:
            return None
        return Node(kind="affine", operation=kind, inputs=inputs, output=output, scale=scale, shift=shift)

    def _dense(
        self, node: Any, kernel: Array, bias: Array | None, inputs: tuple[str, ...], attributes: Mapping[str, Any]
    ) -> Node:
        # Ours is [outputs, inputs], as PyTorch has it.
        if not _integer(attributes, "transB", 0):
            kernel = kernel.T
        order: Order = "OHWI" if inputs[0] in self._last else "OIHW"
        return Node(
            kind="dense",
            operation=node.op_type,
            inputs=inputs,
            output=node.output[0],
            name=node.input[1],
            kernel=kernel,
            bias=bias,
            order=order,
        )

    def _follow(self, kind: str, inputs: tuple[str, ...], output: str, attributes: Mapping[str, Any]) -> None:
        """Whether the channels of what comes out are the last axis."""
        last = any(name in self._last for name in inputs)
        if kind == "Transpose":
            order = _integers(attributes, "perm")
            last = True if order == _TO_LAST else False if order == _TO_FIRST else last
        if last:
            self._last.add(output)


def _one_a_channel(parts: list[Array | None]) -> bool:
    """Whether these are lists of equally many numbers; others would be spread over all pairs of them."""
    return len({None if part is None else part.shape for part in parts}) == 1 and all(
        part is not None and part.ndim == 1 for part in parts
    )


def _is_dense(kind: str, attributes: Mapping[str, Any]) -> bool:
    factors = [attributes[name].f for name in ("alpha", "beta") if name in attributes]
    return kind == "MatMul" or (kind == "Gemm" and all(factor == 1 for factor in factors))


def dequantised(values: Array, scale: Array, zero: Array | None, axis: int) -> NDArray[np.float32]:
    """scale * (values - zero), with one scale or one for each place along `axis`.

    Raises:
        ValueError: another number of scales.
    """
    shape = [1] * values.ndim
    if scale.size > 1:
        if not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
            raise ValueError(f"{scale.size} scales for {values.shape}")
        shape[axis] = scale.size
    # Whole numbers of 8 and 16 bits are exact in float32, which takes half of the memory of the others.
    exact: Any = np.float32 if values.dtype.itemsize < 4 else np.float64
    offset = np.zeros(1, exact) if zero is None else zero.astype(exact)
    offset = offset.reshape(shape if offset.size > 1 else [1] * values.ndim)
    whole = values.astype(exact)
    whole -= offset
    return np.asarray(whole * scale.astype(np.float32).reshape(shape), np.float32)


def _integers(attributes: Mapping[str, Any], name: str) -> list[int]:
    return list(attributes[name].ints) if name in attributes else []


def _integer(attributes: Mapping[str, Any], name: str, default: int) -> int:
    return int(attributes[name].i) if name in attributes else default
