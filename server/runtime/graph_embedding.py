"""The embedding of a graph of another framework: what its last layer with weights reads, or what a node gives.

As of networks of the library (`models.features`), it has one row of numbers for each image: of maps, the mean over the
positions.
"""

from __future__ import annotations

from typing import Any

from glimpse.models.files.bounded_files import shown
from glimpse.models.foreign.facts import GraphError
from glimpse.models.outputs import MOST_FEATURES
from glimpse.models.suggestions import nearest
from glimpse.server.runtime.graph_input import Graph, integers
from glimpse.server.runtime.openvino_library import ops

_STEPS = 64  # back from the scores, at the most
_CONSTANT_STEPS = 8  # from a kernel back to its numbers, which may be quantised
# Between the last layer with weights and the scores; of two inputs, one is a constant.
_PASSED = frozenset(
    {
        *("Convert", "FakeQuantize", "Reshape", "Squeeze", "Unsqueeze", "Transpose"),
        *("Softmax", "LogSoftmax", "Log", "Relu", "Clamp", "AvgPool", "ReduceMean"),
        *("Add", "Subtract", "Multiply", "Divide"),
    }
)
_LAYERS = frozenset({"MatMul", "Convolution"})


def embedding(graph: Graph, model: Any, scores: Any) -> Any | None:
    """The embedding as float32 ``[N, D]``; None: there is none, or its size is not known.

    Args:
        graph: what is converted; it may name the node.
        model: the graph, for images of the recipe's size.
        scores: the graph's scores.

    Raises:
        GraphError: the graph has no node of the name that it is asked for, or that gives no such rows.
    """
    if graph.embedding:
        found = _rows(_named(graph, model), channels_first=graph.format.channels_first)
        if found is None:
            raise GraphError(
                f"{graph.path}: the embedding {shown(graph.embedding)} must have the shape [N, D], or that of maps. "
                "Name another node in the recipe's file, or none."
            )
        return found
    value = _classifier_input(scores)
    found = None if value is None else _rows(value, channels_first=True)  # as convolutions have it in OpenVINO
    many = found is not None and found.get_output_partial_shape(0)[1].get_length() > MOST_FEATURES
    return None if many else found


def _named(graph: Graph, model: Any) -> Any:
    """The output of a graph or of one of its nodes, by name.

    Raises:
        GraphError: there is none of that name.
    """
    names: dict[str, Any] = {}
    for node in model.get_ordered_ops():
        for output in node.outputs():
            for name in (*output.get_names(), node.get_friendly_name()):
                names.setdefault(name, node.input_value(0) if node.get_type_name() == "Result" else output)
    try:
        return names[graph.embedding]
    except KeyError:
        raise GraphError(
            f"{graph.path} has no output or node {shown(graph.embedding)}, which the recipe's file names as its "
            f"embedding.{nearest(graph.embedding, names)}"
        ) from None


def _classifier_input(scores: Any) -> Any | None:
    """What the last dense layer or convolution in front of the scores reads."""
    value = scores
    for _ in range(_STEPS):
        node = value.get_node()
        kind = node.get_type_name()
        inputs = [each for each in node.input_values() if not _is_constant(each.get_node(), _CONSTANT_STEPS)]
        if len(inputs) != 1 or kind not in _PASSED | _LAYERS:
            return None
        if kind in _LAYERS:
            first = inputs[0] == node.input_value(0)
            return inputs[0] if first and not node.get_attributes().get("transpose_a", False) else None
        (value,) = inputs
    return None


def _is_constant(node: Any, steps: int) -> bool:
    if node.get_type_name() == "Constant":
        return True
    inputs = node.input_values()
    return bool(inputs) and steps > 0 and all(_is_constant(each.get_node(), steps - 1) for each in inputs)


def _rows(value: Any, *, channels_first: bool) -> Any | None:
    """``[N, D]``, averaged over the positions if there are any; None: the size is not known."""
    shape = value.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) not in {2, 3, 4}:
        return None
    place = 1 if len(shape) == 4 and channels_first else len(shape) - 1
    if shape[place].is_dynamic:
        return None
    x = value if value.get_element_type().get_type_name() == "f32" else ops.convert(value, "f32")
    if positions := [axis for axis in range(1, len(shape)) if axis != place]:
        x = ops.reduce_mean(x, integers(positions), keep_dims=False)
    return ops.reshape(x, integers([-1, shape[place].get_length()]), special_zero=False)
