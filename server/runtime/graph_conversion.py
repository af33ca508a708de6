"""From a graph of another framework to the files that the OpenVINO runtime reads: the same graph, between two ends.

In front of it come the recipe's scaling and the graph's own layout and numbers, behind it the softmax, so that it takes
uint8 ``[N, H, W, C]`` and gives the named outputs of `models.outputs`, as every other network that is served. The graph
itself stays as it is, but for a softmax at its end, which is computed in float32 here.

OpenVINO parses what may come from anybody, so this runs in the process that `server.runtime.conversion_process` begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse.models import score_kinds
from glimpse.models.bundle import Bundle
from glimpse.models.foreign import formats
from glimpse.models.foreign.facts import (
    GraphError,
    Quantisation,
    TensorFacts,
    classes_of,
    image_input,
    refuse_custom,
)
from glimpse.models.heads import MULTI_LABEL, Head, sigmoid
from glimpse.models.outputs import EMBEDDING, LOGITS, PROBABILITIES
from glimpse.models.spec import NetworkSummary, Output
from glimpse.server.nouns import noun
from glimpse.server.runtime import UnsupportedNetworkError
from glimpse.server.runtime.graph_embedding import embedding
from glimpse.server.runtime.graph_input import Graph, feed, input_shape, integers, prepared
from glimpse.server.runtime.graph_operators import control_flow, operators
from glimpse.server.runtime.openvino_graphs import compiled, errors_of_openvino, write
from glimpse.server.runtime.openvino_library import core, openvino, ops

_RAW = "raw"  # what the graph gives, before anything is made of it
_SAME = 1e-3  # of the largest score, by which that of a picture may differ beside others
_CUT, _CUT_QUANTISED = 1e-3, 2e-2  # by which our softmax may differ from the graph's; the latter's has steps
_LEAST = float(np.finfo(np.float32).tiny)  # the logarithm of 0 is not to be had

# What keeps the scores as they are, but for their numbers and their shape.
_PASSED = frozenset({"Convert", "FakeQuantize", "Reshape", "Squeeze", "Unsqueeze"})
_ROUNDING = frozenset({"FakeQuantize"})
_SIGMOIDS = frozenset({"Sigmoid", "HardSigmoid", "HSigmoid", "Tanh"})
# Behind which scores from 0 to 1 are so by chance.
_LINEAR = frozenset({"Add", "AvgPool", "Convolution", "Divide", "MatMul", "ReduceMean", "Relu", "Subtract"})


class _Scored(NamedTuple):
    """A graph behind the recipe, up to its scores."""

    pixels: Any  # uint8 [N, H, W, C], or [1, H, W, C] where it takes batches of one only
    raw: Any  # float32 [N, classes], as the graph gives them
    # float32 [N, classes], in front of a softmax at its end, or of a sigmoid where each score is one for itself; None:
    # there is none.
    logits: Any | None
    last: str  # the kind of the operator that computes the scores
    rounded: bool  # the scores are rounded to steps of a quantisation
    embedding: Any | None = None  # float32 [N, D], see `graph_embedding`; None: there is none
    single: bool = False  # there is one score, that of the second of two classes


def convert_graph(bundle: Bundle, folder: Path) -> NetworkSummary:
    """Write the graph of a bundle to `folder`; returns a description of it.

    Raises:
        UnsupportedNetworkError: OpenVINO cannot read or compute the graph.
        MemoryError: there was not enough.
        GraphError: the graph is no classifier that can be served; the message says why.
        OSError: the files cannot be written.
    """
    row = formats.BY_NAME[bundle.graph]
    path = bundle.weights_path
    bundle.check_digest()
    facts = formats.read(row, path)
    refuse_custom(facts, path)
    takes = image_input(facts, path, channels_first=row.channels_first)
    graph = Graph(path, row, facts, takes, bundle.recipe, len(bundle.labels), bundle.embedding, bundle.head.kind)
    stages = _stages(graph)
    scored, kind = _scored(graph)
    model = _serving(scored, kind, bundle.temperature, bundle.head)
    write(model, folder)
    return NetworkSummary(
        paper="",
        stages=stages,
        parameters=sum(stage.parameters for stage in stages),
        trainable_parameters=0,  # a graph does not tell what was trained
        output=kind,
        notes=(_note(graph, scored),),
        embedding=0 if scored.embedding is None else scored.embedding.get_output_partial_shape(0)[1].get_length(),
    )


def _read(graph: Graph) -> Any:
    """The graph as a model of OpenVINO, each time anew: reshaping changes it, also where it fails."""
    file = graph.path.parent if graph.format.name == "savedmodel" else graph.path
    with errors_of_openvino(f"openvino cannot read {file} as {graph.format.title}"):
        model = core().read_model(file)
    if found := control_flow(model):
        raise GraphError(
            f"{graph.path} has control flow, which depends on what is computed: {', '.join(found[:5])}. Export the "
            "network for inference with fixed control flow (of PyTorch, by torch.onnx.export in eval mode)."
        )
    if len(model.inputs) != 1:
        named = ", ".join(each.node.get_friendly_name()[:80] for each in model.inputs[:5]) or "none"
        raise GraphError(
            f"{graph.path} must have one input, a batch of images. Received: {len(model.inputs)} inputs: {named}."
        )
    return model


def _stages(graph: Graph) -> Any:
    model = _read(graph)
    try:
        model.reshape({model.input(0): input_shape(graph, 1)})
    except RuntimeError:
        model = _read(graph)  # what depends on the batch is then counted once
    return operators(model)


def _scored(graph: Graph) -> tuple[_Scored, Output]:
    """The graph up to its scores, for batches of any size if it can have them, and what its output is."""
    pixels = score_kinds.pictures(graph.recipe)
    reasons: list[str] = []
    for batch in (-1, 1):
        model = _read(graph)
        try:
            model.reshape({model.input(0): input_shape(graph, batch)})
        except RuntimeError as error:
            reasons.append(_first_line(error))
            continue
        scored = _ends(graph, model, batch)
        if scored is None:
            reasons.append("its output does not have the batch of its input as its first axis")
            continue
        try:
            return _computed(graph, scored, pixels, batch)
        except _BatchError as error:
            reasons.append(str(error))
        except UnsupportedNetworkError as error:
            if batch == 1:
                raise
            reasons.append(str(error))
    raise GraphError(
        f"{graph.path} cannot be computed for batches of images, nor for one image at a time: {'; '.join(reasons)}. "
        "Export it for a batch of any size, or of one."
    )


class _BatchError(ValueError):
    """The scores of an image depend on the other images of its batch."""


def _computed(graph: Graph, scored: _Scored, pixels: NDArray[np.uint8], batch: int) -> tuple[_Scored, Output]:
    """The same scores, once they have been computed for a few pictures; and what they are.

    Raises:
        _BatchError: several images at once give other scores than each of them alone.
        GraphError: they are no scores of a classifier.
    """
    named = {_RAW: scored.raw, **({LOGITS: scored.logits} if scored.logits is not None else {})}
    answer = compiled(_model(named, scored.pixels))
    if batch == 1:
        each = [answer(pixels[number : number + 1]) for number in range(len(pixels))]
        found = {name: np.concatenate([one[name] for one in each]) for name in named}
    else:
        found = answer(pixels)
        _check_alone(found[_RAW], answer(pixels[-1:])[_RAW], rounded=scored.rounded)
    raw = found[_RAW]
    if not np.isfinite(raw).all():
        raise GraphError(
            f"{graph.path} gives scores that are no finite numbers for plain pictures. Check the recipe's mean and "
            "std, and export the graph again."
        )
    if scored.logits is not None:
        own = scored.single or graph.head == MULTI_LABEL
        again = sigmoid(found[LOGITS]) if own else _softmax(found[LOGITS])
        difference = float(np.abs(again - raw).max())
        if difference <= (_CUT_QUANTISED if scored.rounded else _CUT):
            return scored, "binary" if scored.single else "logits"
        scored = scored._replace(logits=None)
    return scored, _kind(graph, scored, raw)


def _check_alone(together: NDArray[np.float32], alone: NDArray[np.float32], *, rounded: bool) -> None:
    """Compare the last of several pictures that were computed at once with the same picture alone.

    Raises:
        _BatchError: their scores differ by more than rounding.
    """
    largest = float(np.abs(together[np.isfinite(together)]).max(initial=1e-6))
    allowed = (_CUT_QUANTISED if rounded else _SAME) * largest
    last = together[-1:]
    if last.shape != alone.shape or not np.allclose(last, alone, rtol=0, atol=allowed, equal_nan=True):
        raise _BatchError("several images at once get other scores than each of them alone")


def _kind(graph: Graph, scored: _Scored, raw: NDArray[np.float32]) -> Output:
    """What scores without a softmax that we could take away are."""
    if scored.single or graph.head == MULTI_LABEL:
        return _own_kind(graph, scored, raw)
    kind = score_kinds.kind(raw, "bfloat16" if scored.rounded else "float32")
    if kind in {"probabilities", "log-probabilities"}:
        return kind
    if scored.last in _SIGMOIDS or (kind == "shares" and scored.last not in _LINEAR):
        raise GraphError(
            f"{graph.path} must end in a softmax or in logits. Received: {scored.last}, and scores for each class "
            "alone, which do not add up to 1. Export the network without it, if its classes exclude each other; if an "
            'image may show several of them, or none, state head = "multi-label" in its recipe.'
        )
    return "logits"


def _own_kind(graph: Graph, scored: _Scored, raw: NDArray[np.float32]) -> Output:
    """What scores that are each one for itself are, where no sigmoid could be taken away."""
    if scored.last in {"Softmax", "LogSoftmax", "Tanh"}:
        raise GraphError(
            f"{graph.path} must end in a sigmoid or in logits, because its scores are each for itself. Received: "
            f"{scored.last}."
        )
    if scored.last not in _LINEAR and (raw >= 0).all() and (raw <= 1).all():
        raise GraphError(
            f"{graph.path} gives scores from 0 to 1 by {scored.last}, which is not taken for a sigmoid. Export it up "
            "to its logits."
        )
    return "binary" if scored.single else "logits"


def _ends(graph: Graph, model: Any, batch: int) -> _Scored | None:
    """Put the recipe in front of the graph, and find its scores; None where their first axis is not the batch."""
    index = _output(graph, model)
    source = model.outputs[index].node.input_value(0)
    first = source.get_partial_shape()[0]
    if (batch == -1) != first.is_dynamic or (first.is_static and first.get_length() != 1):
        return None
    pixels = ops.parameter([batch, *graph.recipe.pixels_shape], np.uint8, name="pixels")
    feed(model.inputs[0].node, prepared(graph, model, pixels))
    single = graph.may_be_single and classes_of(_shape(model.outputs[index])) == 1
    scores = 1 if single else graph.classes
    wanted = "Sigmoid" if single or graph.head == MULTI_LABEL else "Softmax"
    softmax, last, rounded = _end(source, graph.classes, wanted)
    quantised = _of_output(graph, model, index).quantisation
    raw = _floats(source, quantised)
    return _Scored(
        pixels=pixels,
        raw=_rows(raw, scores),
        logits=None if softmax is None else _rows(_floats(softmax.input_value(0), None), scores),
        last=last,
        rounded=rounded or quantised is not None,
        embedding=embedding(graph, model, source),
        single=single,
    )


def _output(graph: Graph, model: Any) -> int:
    """The place of the only output that has a score for each label.

    Raises:
        GraphError: there is none, or there are several.
    """
    shapes = [_shape(output) for output in model.outputs]
    named = "; ".join(map(str, graph.facts.outputs[:5]))
    fitting = [place for place, shape in enumerate(shapes) if classes_of(shape) == graph.classes]
    if not fitting and graph.may_be_single:
        fitting = [place for place, shape in enumerate(shapes) if classes_of(shape) == 1]
    if len(fitting) == 1:
        if graph.classes == 1 and graph.head != MULTI_LABEL:
            raise GraphError(
                f"{graph.path} gives a single score, as of a sigmoid that says yes or no, which is that of the second "
                f"of two classes. Give two labels for it: first that of 0, then that of 1. Received: {named}."
            )
        return fitting[0]
    if len(fitting) > 1:
        raise GraphError(
            f"{graph.path} has {len(fitting)} outputs with a score for each of the {graph.classes} labels, and it "
            f"does not say which is the answer: {named}. Export it with one of them."
        )
    counts = [count for count in map(classes_of, shapes) if count is not None]
    if len(counts) == 1 == len(shapes):
        raise GraphError(
            f"{graph.path} gives {counts[0]} {noun(counts[0], 'score')}, but there {noun(graph.classes, 'is', 'are')} "
            f"{graph.classes} {noun(graph.classes, 'label')}. Give one label for each class, in order."
        )
    raise GraphError(
        f"{graph.path} has no output [N, {graph.classes}], a score for each label. Received: {named or 'none'}. Export "
        "a classifier, with one label for each of its classes."
    )


def _shape(output: Any) -> tuple[int | None, ...] | None:
    """The shape of an output; None where not even its number of sides is known."""
    if not output.partial_shape.rank.is_static:
        return None
    return tuple(int(side.get_length()) if side.is_static else None for side in output.partial_shape)


def _of_output(graph: Graph, model: Any, index: int) -> TensorFacts:
    if len(graph.facts.outputs) == len(model.outputs):
        return graph.facts.outputs[index]
    return TensorFacts(name="", shape=None, dtype="float32")


def _end(source: Any, classes: int, wanted: str) -> tuple[Any | None, str, bool]:
    """What is to be taken away from the end of the graph, a softmax over the classes or a sigmoid; else None.

    And the kind of the last operator, and whether the scores are rounded.
    """
    node, rounded = source.get_node(), False
    while node.get_type_name() in _PASSED:
        rounded = rounded or node.get_type_name() in _ROUNDING
        node = node.input_value(0).get_node()
    kind = str(node.get_type_name())
    if kind != wanted:
        return None, kind, rounded
    if kind == "Sigmoid":
        return node, kind, rounded
    shape = node.input_value(0).get_partial_shape()
    axis = int(node.get_attributes()["axis"])
    over = shape[axis if axis >= 0 else len(shape) + axis]
    return (node if over.is_static and over.get_length() == classes else None), kind, rounded


def _floats(value: Any, quantisation: Quantisation | None) -> Any:
    """Scores as float32, of whole numbers what they stand for."""
    x = value if value.get_element_type().get_type_name() == "f32" else ops.convert(value, "f32")
    if quantisation is None:
        return x
    x = ops.subtract(x, ops.constant(np.float32(quantisation.zero_point)))
    return ops.multiply(x, ops.constant(np.float32(quantisation.scale)))


def _rows(value: Any, classes: int) -> Any:
    """``[N, classes]``, whatever axes of size 1 there are."""
    return ops.reshape(value, integers([-1, classes]), special_zero=False)


def _serving(scored: _Scored, kind: Output, temperature: float, head: Head) -> Any:
    """uint8 ``[N, H, W, C]`` -> probabilities and logits, float32 ``[N, classes]``, and the embedding if any."""
    if scored.logits is not None:
        logits = scored.logits
    elif kind == "probabilities":
        logits = ops.log(ops.maximum(scored.raw, ops.constant(np.float32(_LEAST))))
    else:
        logits = scored.raw
    if scored.single:
        logits = ops.multiply(logits, ops.constant(np.array([[-0.5, 0.5]], np.float32)))
    features = {} if scored.embedding is None else {EMBEDDING: scored.embedding}
    if head.exclusive:
        warm = logits if temperature == 1 else ops.multiply(logits, ops.constant(np.float32(1 / temperature)))
        probabilities = ops.softmax(warm, 1)
    else:
        divisors = np.array([head.temperatures], np.float32)
        shifted = ops.subtract(logits, ops.constant(np.array([head.offsets], np.float32)))
        probabilities = ops.sigmoid(ops.multiply(shifted, ops.constant(1 / divisors)))
    return _model({PROBABILITIES: probabilities, LOGITS: logits, **features}, scored.pixels)


def _model(outputs: dict[str, Any], pixels: Any) -> Any:
    # A tensor may be several outputs: each gets a step of its own, which does nothing.
    results = [ops.result(ops.multiply(value, ops.constant(np.float32(1)))) for value in outputs.values()]
    model = openvino.Model(results, [pixels], "serving")
    # The graph's own names would be names of our outputs, too, where such a step is left out.
    for node in model.get_ops():
        for output in node.outputs():
            output.get_tensor().set_names(set())
    for name, result in zip(outputs, results, strict=True):
        result.input_value(0).get_tensor().set_names({name})
    return model


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


def _note(graph: Graph, scored: _Scored) -> str:
    """What was taken of the graph, for the log."""
    layout = "[N, C, H, W]" if graph.takes.channels_first else "[N, H, W]" if graph.takes.flat else "[N, H, W, C]"
    by = f" by {graph.facts.producer[:80]}" if graph.facts.producer else ""
    batch = "" if scored.pixels.get_output_partial_shape(0)[0].is_dynamic else " It is computed one image at a time."
    (given,) = graph.facts.inputs
    return f"{graph.format.title}{by}, served as it is; its input {given} takes images as {layout}.{batch}"
