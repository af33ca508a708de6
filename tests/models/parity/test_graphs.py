"""Classifiers of other frameworks, served as they are, answer over the service as in the program that computes them.

The reference is ONNX Runtime, the TFLite interpreter, or the framework that exported the graph. Real weights come from
`../shared/weights`; the others are random, with a last layer scaled so that some classes stand out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.client import Client
from tests.conftest import SHARED, RunningServer
from tests.models.parity.reference import torch_publisher

pytestmark = pytest.mark.slow

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Reference = Callable[[Pixels], Array]  # uint8 [H, W, 3] -> probabilities, or scores that `_softmax` makes them of

_PROBABILITY = 1e-5  # largest difference
_STEPS = 3 / 256  # of a quantised network, whose interpreter rounds at each layer in whole numbers
_SPREAD = 4.0  # of the logits: some classes take a good part of the probability
_WEIGHTS = SHARED / "weights"
_IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
_CAFFE = {"mean": [104.0, 117.0, 123.0], "channels": "BGR"}
_HALF = {"mean": [127.5] * 3, "std": [127.5] * 3}


@pytest.fixture
def answers(start_server: Callable[..., RunningServer], tmp_path: Path) -> Callable[..., tuple[list[Array], Any]]:
    """Probabilities of pictures of the graph's own size, over the service; and its description."""

    def ask(graph: Path, pictures: list[Pixels], classes: int, recipe: dict[str, Any]) -> tuple[list[Array], Any]:
        (tmp_path / "recipe.json").write_text(json.dumps({"height": 224, "width": 224, **recipe}))
        (tmp_path / "classes.txt").write_text("".join(f"class {number}\n" for number in range(classes)))
        server = start_server(
            *("--model", "", "--weights", str(graph), "--precision", "float32", "--max-batch-size", "2"),
            *("--labels", str(tmp_path / "classes.txt"), "--recipe", str(tmp_path / "recipe.json")),
            environment={"GLIMPSE_CACHE": str(tmp_path / "cache")},
        )
        server.wait_for("serving")
        found = []
        with Client(server.target) as client:
            for picture in pictures:
                given = np.zeros(classes, np.float32)
                for each in client.classify(picture, top_k=classes).predictions:
                    given[each.index] = each.probability
                found.append(given)
            return found, client.describe()

    return ask


def pictures() -> list[Pixels]:
    """Noise, and a slope of each colour."""
    noise = np.random.default_rng(3).integers(0, 256, (224, 224, 3), np.uint8)
    slope = (np.add.outer(np.arange(224), np.arange(224))[..., np.newaxis] * [0.5, 0.3, 0.1]).astype(np.uint8)
    return [noise, slope]


def scaled(pixels: Pixels, recipe: dict[str, Any]) -> Array:
    """(x - mean) / std: ``[1, H, W, 3]``."""
    ordered = pixels[..., ::-1] if recipe.get("channels") == "BGR" else pixels
    found = (ordered.astype(np.float64) - recipe.get("mean", 0)) / recipe.get("std", 1)
    return found.astype(np.float32)[np.newaxis]


def softmax(scores: Array) -> Array:
    raised = np.exp(scores.astype(np.float64) - scores.max())
    return (raised / raised.sum()).astype(np.float32)


def onnx_runtime(path: Path, recipe: dict[str, Any], *, dtype: type = np.float32, logits: bool = True) -> Reference:
    runtime: Any = pytest.importorskip("onnxruntime", reason="the reference for ONNX files")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def answer(pixels: Pixels) -> Array:
        (found,) = session.run(None, {name: scaled(pixels, recipe).transpose(0, 3, 1, 2).astype(dtype)})
        scores = np.asarray(found, np.float32).reshape(-1)
        return softmax(scores) if logits else scores

    return answer


def interpreter(path: Path, recipe: dict[str, Any]) -> Reference:
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will move to another package
        made = tf.lite.Interpreter(model_path=str(path))
    made.allocate_tensors()
    (given,), (gives,) = made.get_input_details(), made.get_output_details()

    def answer(pixels: Pixels) -> Array:
        x = scaled(pixels, recipe)
        if given["dtype"] != np.float32:
            scale, zero = given["quantization"]
            limits = np.iinfo(given["dtype"])
            x = np.clip(np.round(x / scale) + zero, limits.min, limits.max).astype(given["dtype"])
        made.set_tensor(given["index"], x)
        made.invoke()
        found = made.get_tensor(gives["index"])[0].astype(np.float32)
        if gives["dtype"] != np.float32:
            scale, zero = gives["quantization"]
            found = (found - zero) * np.float32(scale)
        return found

    return answer


def same(found: list[Array], reference: Reference, allowed: float = _PROBABILITY) -> None:
    for given, picture in zip(found, pictures(), strict=True):
        expected = reference(picture)
        assert expected.max() > 2 / len(expected), "all classes are as likely: the comparison would tell nothing"
        assert np.abs(given - expected).max() <= allowed
        assert given.argmax() == expected.argmax()


def real(name: str) -> Path:
    path = _WEIGHTS / name
    if not path.is_file():
        pytest.skip(f"the real weights are in {_WEIGHTS}, which is not there")
    return path


def test_squeezenet_of_onnx_answers_as_in_onnx_runtime(answers: Callable[..., Any], tmp_path: Path) -> None:
    path = real("squeezenet1_1_imagenet_fp16.onnx")
    found, described = answers(path, pictures(), 1000, _CAFFE)
    # ONNX Runtime computes half floats as such; the same numbers as float32 are what we compute.
    same(found, onnx_runtime(in_float32(path, tmp_path / "float32.onnx"), _CAFFE, logits=False))
    assert (described.architecture, described.output, described.parameters) == ("", "logits", 1_235_496)
    assert described.model.name == "squeezenet1_1_imagenet_fp16"


def in_float32(path: Path, to: Path) -> Path:
    """The same graph with float32 in place of half floats."""
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(path)
    for number, tensor in enumerate(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            model.graph.initializer[number].CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
    onnx.save(model, to)
    return to


def test_mobilenet_of_tflite_answers_as_in_its_interpreter(answers: Callable[..., Any]) -> None:
    path = real("mobilenet_v1_0.25_224_imagenet.tflite")
    found, described = answers(path, pictures(), 1001, _HALF)
    same(found, interpreter(path, _HALF))
    assert described.parameters == 467_593
    assert sum(stage.multiply_adds for stage in described.stages) == 41_030_528


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def exported(name: str, folder: Path, *, new: bool) -> tuple[Path, int]:
    """A network of timm at random weights as ONNX; and how many numbers it has."""
    timm = torch_publisher("timm")
    import torch

    if new:
        pytest.importorskip("onnxscript", reason="PyTorch's newer exporter needs it")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        classifier = model.get_classifier()
        classifier.weight.normal_()
        classifier.weight *= _SPREAD / model(image).std()
    path = folder / f"{name}.onnx"
    with quiet():
        torch.onnx.export(model, (image,), str(path), dynamo=new)
    return path, sum(tensor.numel() for tensor in model.parameters())


@pytest.mark.parametrize("new", [False, True], ids=["TorchScript", "dynamo"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0"])
def test_an_exported_network_of_timm_answers_as_in_onnx_runtime(
    name: str,
    new: bool,  # noqa: FBT001
    answers: Callable[..., Any],
    tmp_path: Path,
) -> None:
    path, parameters = exported(name, tmp_path, new=new)
    found, described = answers(path, pictures(), 1000, _IMAGENET)
    same(found, onnx_runtime(path, _IMAGENET))
    # Exporters fold batch normalisation into the convolutions before it, and add a constant here and there.
    assert described.parameters == pytest.approx(parameters, rel=0.01)


def network() -> Any:
    """A small network of Keras with the layers that converters treat in ways of their own."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((224, 224, 3), name="image")
    x = layers.Conv2D(16, 5, strides=4, padding="same")(image)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu6")(x)
    x = layers.Conv2D(32, 1, activation="relu6")(x)
    x = layers.GlobalAveragePooling2D()(x)
    scores = layers.Dense(12, name="scores")
    model = keras.Model(image, layers.Softmax()(scores(x)))
    features = keras.Model(image, scores.output)
    spread = np.std([np.asarray(features(scaled(picture, _HALF), training=False)) for picture in pictures()])
    scores.kernel.assign(scores.kernel * (_SPREAD / spread))
    return model


def of_keras(model: Any, recipe: dict[str, Any]) -> Reference:
    return lambda pixels: np.asarray(model(scaled(pixels, recipe), training=False))[0]


def test_a_saved_model_of_keras_answers_as_in_keras(answers: Callable[..., Any], tmp_path: Path) -> None:
    model = network()
    model.export(str(tmp_path / "mine"), verbose=False)
    found, described = answers(tmp_path / "mine", pictures(), 12, _HALF)
    same(found, of_keras(model, _HALF))
    assert described.model.name == "mine"


def test_an_ir_of_openvino_answers_as_in_keras(answers: Callable[..., Any], tmp_path: Path) -> None:
    from glimpse.server.runtime.openvino_library import openvino

    model = network()
    model.export(str(tmp_path / "saved"), verbose=False)
    openvino.save_model(openvino.convert_model(str(tmp_path / "saved")), tmp_path / "mine.xml", compress_to_fp16=False)
    found, _ = answers(tmp_path / "mine.xml", pictures(), 12, _HALF)
    same(found, of_keras(model, _HALF))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32"])
def test_a_quantised_tflite_answers_as_in_its_interpreter(
    dtype: str, answers: Callable[..., Any], tmp_path: Path
) -> None:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(network())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    rng = np.random.default_rng(5)
    shown = [*pictures(), *rng.integers(0, 256, (30, 224, 224, 3), np.uint8)]
    converter.representative_dataset = lambda: ([scaled(picture, _HALF)] for picture in shown)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, dtype)
    with quiet():
        (tmp_path / "quantised.tflite").write_bytes(converter.convert())
    found, _ = answers(tmp_path / "quantised.tflite", pictures(), 12, _HALF)
    same(found, interpreter(tmp_path / "quantised.tflite", _HALF), _STEPS)
