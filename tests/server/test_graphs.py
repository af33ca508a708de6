"""Graphs of other frameworks, served as they are: their own answers, and what cannot be served refused by name."""

from __future__ import annotations

import asyncio
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import structlog
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from glimpse.client import Client
from glimpse.models import golden, score_kinds
from glimpse.models.bundle import Bundle, BundleError
from glimpse.models.foreign import GraphError
from glimpse.models.outputs import EMBEDDING, LOGITS, PROBABILITIES
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.serving import load_bundle
from glimpse.models.sources import ModelSource, resolve
from glimpse.models.spec import NetworkSummary
from glimpse.server.app import Server
from glimpse.server.registry import LoadedModel
from glimpse.server.runtime import UnsupportedNetworkError, selection
from glimpse.server.runtime.graph_conversion import convert_graph
from glimpse.server.runtime.importing import import_model
from glimpse.server.runtime.openvino import OpenVINORuntime, compiled
from glimpse.server.runtimes import RUNTIMES
from glimpse.server.settings import Settings
from glimpse.server.startup import GoldenError
from tests.conftest import RunningServer
from tests.models.graph_makers import CLASSES, RECIPE, SIZE, details, keras_model, onnx_model, reference, saved
from tests.variations import mostly_in_ci, with_two_workers_too

Array = NDArray[np.float32]
_PROBABILITY = 1e-5  # largest difference in float32


class Converted:
    """A graph as it would be served."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.bundle: Bundle = resolve(ModelSource(weights=str(path)))
        folder.mkdir()
        self.summary: NetworkSummary = convert_graph(self.bundle, folder)
        self.file = folder / "network.xml"
        self.answer = compiled(self.file)

    def pictures(self) -> NDArray[np.uint8]:
        """As many as a probe takes."""
        return score_kinds.pictures(self.bundle.recipe)

    def probabilities(self) -> Array:
        """Of the pictures, one at a time."""
        each = [self.answer(picture[np.newaxis])[PROBABILITIES] for picture in self.pictures()]
        return np.concatenate(each)


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[Path], Converted]:
    return lambda path: Converted(path, tmp_path / "converted")


def scaled(pixels: NDArray[np.uint8], recipe: Recipe, *, channels_first: bool = True) -> Array:
    """What the recipe makes of pixels, ``[N, C, H, W]`` or ``[N, H, W, C]``."""
    images = pixels[..., : recipe.depth]
    if recipe.channels == "BGR":
        images = images[..., ::-1]
    found = (images.astype(np.float64) - recipe.mean) / recipe.std
    return (found.transpose(0, 3, 1, 2) if channels_first else found).astype(np.float32)


def softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


GRAY = {"height": SIZE, "width": SIZE, "channels": "GRAY", "mean": [127.5], "std": [127.5]}
PLAIN = {"height": SIZE, "width": SIZE}
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
    np.testing.assert_allclose(found.probabilities(), expected, rtol=0, atol=_PROBABILITY)
    together = found.answer(found.pictures())[PROBABILITIES]
    np.testing.assert_allclose(together, expected, rtol=0, atol=_PROBABILITY)


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
    np.testing.assert_allclose(found.probabilities(), expected, rtol=0, atol=_PROBABILITY)


def test_padding_with_zero_is_zero_behind_the_scaling(convert: Callable[..., Converted], tmp_path: Path) -> None:
    model = onnx_model()
    found = convert(saved(model, tmp_path / "graph", recipe={**RECIPE, "padding": "zero"}))
    pixels = found.pictures()
    pixels[:, :4, :, 3] = 0  # the upper third is padding
    images = scaled(pixels, found.bundle.recipe)
    images[:, :, :4] = 0
    np.testing.assert_allclose(found.answer(pixels)[PROBABILITIES], reference(model, images), rtol=0, atol=_PROBABILITY)


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
    np.testing.assert_allclose(found.probabilities(), expected, rtol=0, atol=_PROBABILITY)
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
    np.testing.assert_allclose(found.probabilities(), expected, rtol=0, atol=_PROBABILITY)
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
    "scores of sigmoids": (lambda: onnx_model(end="Sigmoid"), {}, "must end in a softmax or in logits.*Sigmoid"),
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
    np.testing.assert_allclose([answer[index] for index in range(CLASSES)], expected, rtol=0, atol=_PROBABILITY)
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


def colours() -> list[NDArray[np.uint8]]:
    """Pictures of one colour each."""
    return [np.full((SIZE, SIZE, 3), colour, np.uint8) for colour in ((250, 10, 10), (10, 250, 10), (10, 10, 250))]


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def of_keras(model: Any, found: Converted) -> Array:
    images = scaled(found.pictures(), found.bundle.recipe, channels_first=False)
    return np.asarray(model(images, training=False))


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Any, Path]:
    """A network of Keras, and the folder of its SavedModel."""
    model = keras_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(str(tmp_path / "exported"), verbose=False)
    details(tmp_path / "exported")
    return model, tmp_path / "exported"


@pytest.mark.ci
def test_a_saved_model_and_an_ir_answer_as_in_keras(
    exported: tuple[Any, Path], convert: Callable[..., Converted], tmp_path: Path
) -> None:
    from glimpse.server.runtime.openvino_library import openvino

    model, folder = exported
    found = convert(folder)
    np.testing.assert_allclose(found.probabilities(), of_keras(model, found), rtol=0, atol=_PROBABILITY)
    assert (found.bundle.name, found.bundle.graph) == ("exported", "savedmodel")

    ir = tmp_path / "ir"
    openvino.save_model(openvino.convert_model(str(folder)), ir / "mine.xml", compress_to_fp16=False)
    details(ir)
    again = Converted(ir, tmp_path / "converted again")
    np.testing.assert_allclose(again.probabilities(), of_keras(model, again), rtol=0, atol=_PROBABILITY)
    assert (again.bundle.name, again.bundle.graph) == ("mine", "openvino")


def tflite(model: Any, dtype: str) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if dtype != "float":
        pictures = score_kinds.pictures(Recipe.from_dict(RECIPE))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [image[np.newaxis]] for image in scaled(pictures, Recipe.from_dict(RECIPE), channels_first=False)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bytes(converter.convert())


# Steps of 1/256 are what an interpreter's answers have, and each of its layers rounds.
@pytest.mark.ci
@pytest.mark.parametrize(("dtype", "allowed"), [("float", _PROBABILITY), ("uint8", 3 / 256), ("int8", 3 / 256)])
def test_a_tflite_file_answers_as_in_keras(
    dtype: str, allowed: float, convert: Callable[..., Converted], tmp_path: Path
) -> None:
    model = keras_model()
    details(tmp_path)
    (tmp_path / "mine.tflite").write_bytes(tflite(model, dtype))
    found = convert(tmp_path / "mine.tflite")
    np.testing.assert_allclose(found.probabilities(), of_keras(model, found), rtol=0, atol=allowed)


def looping(values: Any) -> Any:
    import tensorflow as tf

    (halved,) = tf.while_loop(lambda each: tf.reduce_max(each) > 1, lambda each: [each / 2], [values])
    return halved


def of_python(values: Any) -> Any:
    import tensorflow as tf

    return tf.ensure_shape(tf.numpy_function(lambda each: each * 2, [values], tf.float32), [None, CLASSES])


@pytest.mark.ci
@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        pytest.param(looping, GraphError, "has control flow.*Loop", id="a loop"),
        pytest.param(of_python, UnsupportedNetworkError, "openvino cannot read.*PyFunc", id="a function of Python"),
    ],
)
def test_a_saved_model_that_is_a_program_is_refused_by_name(
    end: Callable[[Any], Any], error: type[Exception], message: str, convert: Callable[..., Converted], tmp_path: Path
) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(np.ones((SIZE * SIZE * 3, CLASSES), np.float32))
    spec = tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name="image")
    module.answer = tf.function(
        lambda image: {"scores": end(tf.reshape(image, [-1, SIZE * SIZE * 3]) @ module.kernel)}, input_signature=[spec]
    )
    tf.saved_model.save(module, str(tmp_path / "mine"), signatures=module.answer)
    details(tmp_path / "mine")
    with pytest.raises(error, match=message):
        convert(tmp_path / "mine")


@pytest.mark.ci
def test_a_recipe_outside_of_a_quantised_input_is_refused(convert: Callable[..., Converted], tmp_path: Path) -> None:
    details(tmp_path, recipe=PLAIN)
    (tmp_path / "mine.tflite").write_bytes(tflite(keras_model(), "uint8"))
    with pytest.raises(GraphError, match=r"from -0\.99\d+ to 1\.00\d+, but the recipe gives numbers from 0 to 255"):
        convert(tmp_path / "mine.tflite")
