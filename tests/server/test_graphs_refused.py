"""Graphs of other frameworks that cannot be served are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from glimpse.models.foreign import GraphError
from glimpse.models.sources import ModelSource, resolve
from glimpse.server.runtime import UnsupportedNetworkError, selection
from glimpse.server.runtime.importing import import_model
from glimpse.server.runtimes import RUNTIMES
from tests.models.graph_makers import CLASSES, RECIPE, SIZE, onnx_model, saved
from tests.server.converting import Converted


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[Path], Converted]:
    return lambda path: Converted(path, tmp_path / "converted")


GRAY = {"height": SIZE, "width": SIZE, "channels": "GRAY", "mean": [127.5], "std": [127.5]}


def with_nodes(*nodes: Any, end: str = "") -> Any:
    """A graph whose scores go through more operators, the last of which gives its answer."""
    model = onnx_model(end=end)
    model.graph.node[-1].output[0] = "last"
    model.graph.node.extend(nodes)
    return model


def two_inputs() -> Any:
    model = onnx_model()
    model.graph.input.append(helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [1]))
    model.graph.node[-1].input[0] = "moved"
    model.graph.node.insert(5, helper.make_node("Add", ["scores", "threshold"], ["moved"]))
    return model


def two_outputs() -> Any:
    model = onnx_model()
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES]))
    return model


def features_only() -> Any:
    model = onnx_model()
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["batch", 6, 6, 6]))
    return model


def custom_operator() -> Any:
    model = with_nodes(helper.make_node("Sharpen", ["last"], ["answer"], domain="org.example"))
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    return model


def unknown_operator() -> Any:
    return with_nodes(helper.make_node("Sharpen", ["last"], ["answer"]))


def a_choice() -> Any:
    def branch(name: str, operator: str) -> Any:
        output = helper.make_tensor_value_info(f"{name} out", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(operator, ["last"], [f"{name} out"])], name, [], [output])

    return with_nodes(
        helper.make_node("ReduceMax", ["last"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "bias top"], ["large"]),
        helper.make_node(
            "If", ["large"], ["answer"], then_branch=branch("then", "Relu"), else_branch=branch("else", "Neg")
        ),
    )


def choosing() -> Any:
    model = a_choice()
    model.graph.initializer.append(helper.make_tensor("bias top", TensorProto.FLOAT, [], [1.0]))
    return model


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "several inputs": (two_inputs, {}, r"one input.*2 inputs: 'image'.*'threshold'"),
    "several answers": (two_outputs, {}, r"2 outputs with a score for each of the 4 labels.*'answer'.*'scores'"),
    "no scores": (features_only, {}, r"no output \[N, 4\].*'maps' float32 \[\?, 6, 6, 6\]"),
    "other labels": (onnx_model, {"labels": 5}, r"gives 4 scores, but there are 5 labels"),
    "a single score": (lambda: onnx_model(classes=1, end="Sigmoid"), {"labels": 1}, "a single score"),
    "a custom operator": (custom_operator, {}, r"custom operators.*org\.example\.Sharpen"),
    "control flow": (choosing, {}, "control flow.*If"),
    "scores of sigmoids": (
        lambda: onnx_model(end="Sigmoid"),
        {},
        'must end in a softmax or in logits.*Sigmoid.*state head = "multi-label"',
    ),
    "a softmax of labels": (
        onnx_model,
        {"recipe": {**RECIPE, "head": "multi-label"}},
        "must end in a sigmoid or in logits.*Softmax",
    ),
    "whole numbers and a mean": (lambda: onnx_model(dtype="uint8"), {}, "Remove mean and std from the recipe"),
    "another size": (lambda: onnx_model(size=9), {}, r"takes images of 9x9x3 .*produces 12x12x3\. Change height"),
    "another depth": (lambda: onnx_model(depth=1), {}, "Set channels of the recipe to GRAY"),
    "no numbers": (
        lambda: with_nodes(helper.make_node("Log", ["last"], ["answer"])),
        {},
        "no finite numbers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_is_refused_by_name(name: str, convert: Callable[..., Converted], tmp_path: Path) -> None:
    make, beside, message = REFUSED[name]
    with pytest.raises(GraphError, match=f"(?s){message}"):
        convert(saved(make(), tmp_path / "graph", **beside))


def test_an_operator_that_openvino_does_not_have_is_named(convert: Callable[..., Converted], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"openvino cannot read .*Sharpen"):
        convert(saved(unknown_operator(), tmp_path / "graph"))


def test_a_runtime_without_graphs_is_named_with_what_to_do(tmp_path: Path) -> None:
    bundle = resolve(ModelSource(weights=str(saved(onnx_model(), tmp_path / "graph"))))
    assert selection.able(("openvino", "tensorflow"), bundle) == ("openvino",)
    assert selection.able(("simulated",), bundle) == ("simulated",)
    with pytest.raises(ValueError, match=r"Received: tensorflow\. Set GLIMPSE_RUNTIME=openvino"):
        selection.able(("tensorflow",), bundle)
    with pytest.raises(UnsupportedNetworkError, match="tensorflow cannot compute a graph"):
        import_model(bundle, RUNTIMES["tensorflow"])
