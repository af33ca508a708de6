"""Graphs of other frameworks, served as they are: their own answers, and what cannot be served refused by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import structlog
from onnx import TensorProto, helper

from glimpse.client import Client
from glimpse.models import golden
from glimpse.models.bundle import BundleError
from glimpse.models.foreign import GraphError
from glimpse.models.outputs import EMBEDDING, LOGITS, PROBABILITIES
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.serving import load_bundle
from glimpse.models.sources import ModelSource, resolve
from glimpse.server.app import Server
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.processes.startup import GoldenError
from glimpse.server.runtime import selection
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.settings import Settings
from tests.conftest import RunningServer
from tests.models.graph_makers import CLASSES, RECIPE, SIZE, onnx_model, reference, saved
from tests.server.converting import PLAIN, PROBABILITY, Array, Converted, colours, png, scaled
from tests.variations import mostly_in_ci, with_two_workers_too


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[Path], Converted]:
    return lambda path: Converted(path, tmp_path / "converted")


def softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


GRAY = {"height": SIZE, "width": SIZE, "channels": "GRAY", "mean": [127.5], "std": [127.5]}


VARIATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "channels first": ({}, RECIPE),
    "channels last": ({"channels_first": False}, RECIPE),
    "one image at a time": ({"batch": 1}, RECIPE),
    "images of any size": ({"size": None}, RECIPE),
    "grey images": ({"depth": 1}, GRAY),
    "blue first": ({}, {**RECIPE, "channels": "BGR", "mean": [104.0, 117.0, 123.0], "std": [60.0, 61.0, 62.0]}),
    "pixels as they are": ({"dtype": "uint8"}, PLAIN),
    "logits": ({"end": ""}, RECIPE),
    "logarithms": ({"end": "LogSoftmax"}, RECIPE),
}


@pytest.mark.parametrize(
    "name", mostly_in_ci(VARIATIONS, "channels first", "channels last", "pixels as they are", "logits")
)
def test_a_graph_answers_as_its_format_says(name: str, convert: Callable[..., Converted], tmp_path: Path) -> None:
    arguments, recipe = VARIATIONS[name]
    model = onnx_model(**arguments)
    found = convert(saved(model, tmp_path / "graph", recipe=recipe))
    channels_first = arguments.get("channels_first", True)
    images = scaled(found.pictures(), found.bundle.recipe, channels_first=channels_first)
    expected = reference(model, images.astype(np.uint8) if arguments.get("dtype") == "uint8" else images)
    if arguments.get("end", "Softmax") != "Softmax":
        expected = softmax(expected)
    assert expected.max() > 2 / CLASSES
    np.testing.assert_allclose(found.probabilities(), expected, rtol=0, atol=PROBABILITY)
    together = found.answer(found.pictures())[PROBABILITIES]
    np.testing.assert_allclose(together, expected, rtol=0, atol=PROBABILITY)


@pytest.mark.parametrize("named", ["", "pooled", "maps"])
def test_a_graphs_embedding_is_found_or_named(named: str, convert: Callable[..., Converted], tmp_path: Path) -> None:
    """What its last layer reads, or the node that the recipe's file names: of maps, their means."""
    model = onnx_model()
    recipe = {**RECIPE, "embedding": named} if named else RECIPE
    found = convert(saved(model, tmp_path / "graph", recipe=recipe))
    images = scaled(found.pictures(), found.bundle.recipe)
    expected = reference(model, images, named or "features")
    if named == "maps":
        expected = expected.mean(axis=(2, 3))
    assert found.summary.embedding == 6
    computed = found.answer(found.pictures())[EMBEDDING]
    np.testing.assert_allclose(computed, expected.reshape(-1, 6), rtol=0, atol=1e-5)


def test_an_embedding_that_a_graph_lacks_is_refused_by_name(convert: Callable[..., Converted], tmp_path: Path) -> None:
    path = saved(onnx_model(), tmp_path / "graph", recipe={**RECIPE, "embedding": "poled"})
    with pytest.raises(GraphError, match=r"has no output or node 'poled'.* Did you mean pooled?"):
        convert(path)


def test_half_floats_are_computed_as_float32(convert: Callable[..., Converted], tmp_path: Path) -> None:
    model = onnx_model(dtype="float16")
    found = convert(saved(model, tmp_path / "graph"))
    # The same numbers as float32: what ONNX's evaluator would round at each step.
    exact = onnx_model()
    for half, whole in zip(model.graph.initializer, exact.graph.initializer, strict=True):
        values = onnx.numpy_helper.to_array(half).astype(np.float32)
        whole.CopyFrom(onnx.numpy_helper.from_array(values, whole.name))
    expected = reference(exact, scaled(found.pictures(), found.bundle.recipe))
    np.testing.assert_allclose(found.probabilities(), expected, rtol=0, atol=PROBABILITY)


def test_padding_with_zero_is_zero_behind_the_scaling(convert: Callable[..., Converted], tmp_path: Path) -> None:
    model = onnx_model()
    found = convert(saved(model, tmp_path / "graph", recipe={**RECIPE, "padding": "zero"}))
    pixels = found.pictures()
    pixels[:, :4, :, 3] = 0  # the upper third is padding
    images = scaled(pixels, found.bundle.recipe)
    images[:, :, :4] = 0
    np.testing.assert_allclose(found.answer(pixels)[PROBABILITIES], reference(model, images), rtol=0, atol=PROBABILITY)


def test_the_logits_are_those_in_front_of_a_softmax(convert: Callable[..., Converted], tmp_path: Path) -> None:
    found = convert(saved(onnx_model(), tmp_path / "graph"))
    expected = reference(onnx_model(end=""), scaled(found.pictures(), found.bundle.recipe))
    np.testing.assert_allclose(found.answer(found.pictures())[LOGITS], expected, rtol=0, atol=1e-4)
    assert found.summary.output == "logits"


def test_probabilities_that_no_softmax_makes_are_served_as_they_are(
    convert: Callable[..., Converted], tmp_path: Path
) -> None:
    model = onnx_model(end="Softplus")  # positive scores, which the graph itself divides by their sum
    model.graph.node[-1].output[0] = "positive"
    model.graph.node.append(helper.make_node("ReduceSum", ["positive", "axis"], ["sum"]))
    model.graph.node.append(helper.make_node("Div", ["positive", "sum"], ["answer"]))
    model.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
    found = convert(saved(model, tmp_path / "graph"))
    expected = reference(model, scaled(found.pictures(), found.bundle.recipe))
    np.testing.assert_allclose(found.probabilities(), expected, rtol=0, atol=PROBABILITY)
    assert found.summary.output == "probabilities"


def with_nodes(*nodes: Any, end: str = "") -> Any:
    """A graph whose scores go through more operators, the last of which gives its answer."""
    model = onnx_model(end=end)
    model.graph.node[-1].output[0] = "last"
    model.graph.node.extend(nodes)
    return model


def test_images_that_change_each_others_scores_are_computed_alone(
    convert: Callable[..., Converted], tmp_path: Path
) -> None:
    mean = helper.make_node("ReduceMean", ["last"], ["mean"], axes=[0], keepdims=1)
    twice = helper.make_node("Sub", ["last", "mean"], ["apart"])
    model = with_nodes(mean, twice, helper.make_node("Sub", ["last", "apart"], ["answer"]))
    found = convert(saved(model, tmp_path / "graph"))
    expected = softmax(reference(model, scaled(found.pictures(), found.bundle.recipe)))
    np.testing.assert_allclose(found.probabilities(), expected, rtol=0, atol=PROBABILITY)
    assert "one image at a time" in found.summary.notes[0]
    assert OpenVINORuntime(found.file, "float32").batch_sizes(0, 1) == (1,)


def test_a_description_counts_operators_parameters_and_multiply_adds(
    convert: Callable[..., Converted], tmp_path: Path
) -> None:
    summary = convert(saved(onnx_model(), tmp_path / "graph")).summary
    kernels, dense = 6 * 3 * 3 * 3, 6 * CLASSES
    assert summary.parameters == kernels + 6 + dense + CLASSES
    assert summary.multiply_adds == kernels * (SIZE // 2) ** 2 + dense
    by_kind = {stage.name: stage for stage in summary.stages}
    assert (by_kind["Convolution"].repeats, by_kind["Convolution"].parameters) == (1, kernels)
    assert (by_kind["MatMul"].multiply_adds, by_kind["Softmax"].parameters) == (dense, 0)
    assert summary.notes[0].startswith("ONNX by tests, served as it is")


def test_where_nobody_names_a_runtime_a_graph_is_computed_on_the_cpu(tmp_path: Path) -> None:
    """As on a machine with a GPU, on which the runtime that sees it is chosen alone."""
    bundle = resolve(ModelSource(weights=str(saved(onnx_model(), tmp_path / "graph"))))
    with structlog.testing.capture_logs() as lines:
        assert selection.able(("jax",), bundle, auto=True) == ("openvino",)
    (line,) = lines
    assert (line["event"], line["runtime"], line["instead_of"]) == ("slower runtime", "openvino", "jax")
    assert "is computed on CPUs alone" in line["detail"]


def test_keras_is_not_asked_to_load_a_graph(tmp_path: Path) -> None:
    bundle = resolve(ModelSource(weights=str(saved(onnx_model(), tmp_path / "graph"))))
    with pytest.raises(BundleError, match="a graph of another framework, which Keras cannot load"):
        load_bundle(bundle)


@with_two_workers_too
def test_a_graph_in_a_folder_is_served_and_described(
    start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    model = onnx_model()
    saved(model, tmp_path / "mine")
    server = start_server(
        *("--weights", str(tmp_path / "mine"), "--precision", "float32"),
        environment={"GLIMPSE_CACHE": str(tmp_path / "cache")},
    )
    server.wait_for("serving")
    pixels = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    expected = reference(model, scaled(pixels[np.newaxis], Recipe.from_dict(RECIPE)))[0]
    with Client(server.target) as client:
        answer = {each.index: each.probability for each in client.classify(pixels, top_k=CLASSES).predictions}
        described = client.describe()
    np.testing.assert_allclose([answer[index] for index in range(CLASSES)], expected, rtol=0, atol=PROBABILITY)
    assert (described.model.name, described.architecture, described.output) == ("model", "", "logits")
    assert described.model.weights_digest.startswith("sha256:")
    assert described.parameters == sum(stage.parameters for stage in described.stages) > 0
    assert {stage.name for stage in described.stages} >= {"Convolution", "MatMul", "Softmax"}
    assert not [line for line in server.log if "Keras" in json.dumps(line) or line["event"] == "slower runtime"]


def load(weights: Path, **settings: Any) -> str:
    """Load a model as a server does; returns the runtime that serves it."""

    async def prepared() -> LoadedModel:
        return Server(Settings(weights=str(weights), precision="float32", **settings)).models._prepare_and_load()

    found = asyncio.run(prepared())
    assert found.batcher.close(60)
    return found.runtime


@pytest.mark.ci
def test_answers_that_were_recorded_beside_a_graph_must_come_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    model = onnx_model()
    path = saved(model, tmp_path / "mine")
    with pytest.raises(GoldenError, match="has no golden answers"):
        load(path, golden="require")

    bundle = resolve(ModelSource(weights=str(path)))
    pictures = [golden.SampleImage(f"{n}.png", png(each), "made here") for n, each in enumerate(colours())]
    recorded = golden.record(
        bundle, lambda pixels: reference(model, scaled(pixels, bundle.recipe)), pictures, by="ONNX's own evaluator"
    )
    assert recorded == resolve(ModelSource(weights=str(path)))
    assert load(path, golden="require") == "openvino"

    file = path.parent / golden.FOLDER / golden.ANSWERS
    values = json.loads(file.read_text())
    for each in values["pictures"]:
        each["probabilities"].reverse()
    file.write_text(json.dumps(values))
    with pytest.raises(GoldenError, match="differs from the recorded one"):
        load(path)
