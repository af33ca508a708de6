"""ONNX and TFLite whose tensors only their graph tells apart: folded, nameless, quantised, and in which network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.bundle import BundleError
from glimpse.models.catalogue import find
from glimpse.models.files import digests
from glimpse.models.sources import ModelSource, resolve
from glimpse.models.spec import Architecture
from glimpse.models.weights import WeightsError, WeightsMismatchError, read
from tests.models.weight_makers import (
    Table,
    disturbed,
    flatbuffer,
    folded_onnx,
    onnx_bytes,
)
from tests.variations import mostly_in_ci

onnx = pytest.importorskip("onnx", reason="ONNX files are read with the package onnx")
_SIDE = 64


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same weights in every run: how far rounding carries depends on them."""
    keras.utils.set_random_seed(7)


def built(row: Architecture, classes: int = 5) -> keras.Model:
    return assemble(row, classes=classes, input_shape=(_SIDE, _SIDE, 3)).model


def answers(model: keras.Model) -> NDArray[np.float32]:
    x = np.random.default_rng(0).normal(0, 1, (2, _SIDE, _SIDE, 3)).astype(np.float32)
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.softmax(model(x, training=False))))


def written(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


# Each with something that the others lack: shortcuts with projections, depthwise convolutions, concatenations,
# recalibrated channels, batch norm in front of convolutions, branches that only their concatenation tells apart.
_NETWORKS: Mapping[str, tuple[str, str | None, dict[str, Any]]] = {
    "resnet20": ("resnet20", None, {}),
    "se_resnet20": ("se_resnet20", None, {}),
    "mobilenet": ("mobilenet", "keras", {"alpha": 0.25}),
    "mobilenet_v2": ("mobilenet_v2", "torchvision", {"alpha": 0.35}),
    "squeezenet": ("squeezenet1_1", None, {}),
    "googlenet": ("googlenet", "torchvision", {}),
}
_SLOW: Mapping[str, tuple[str, str | None, dict[str, Any]]] = {
    "densenet": ("densenet121", "torchvision", {}),
    "resnext": ("resnext50", "torchvision", {}),
    "xception": ("xception", "keras", {}),
    "resnet of keras, biases beside batch norm": ("resnet50", "keras", {}),
    "inception": ("inception_v3", "keras", {}),
}


def _check(network: tuple[str, str | None, dict[str, Any]], folder: Path) -> None:
    row = find(*network)
    reference = disturbed(built(row))
    path = written(folded_onnx(reference), folder / "m.onnx")
    ours, said = built(row), list[str]()
    assert weights.load(ours, path, row.layouts(), row=row, say=said.append) == "graph"
    np.testing.assert_allclose(answers(ours), answers(reference), rtol=0, atol=1e-5)
    assert "matched by their positions in its graph" in said[0]


@pytest.mark.parametrize("name", mostly_in_ci(_NETWORKS, "resnet20", "squeezenet"))
def test_an_onnx_file_without_names_and_batch_norm_is_understood_by_its_graph(name: str, tmp_path: Path) -> None:
    _check(_NETWORKS[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("network", _SLOW.values(), ids=_SLOW.keys())
def test_a_large_onnx_file_without_names_and_batch_norm_is_read_by_its_graph(
    network: tuple[str, str | None, dict[str, Any]], tmp_path: Path
) -> None:
    """A large ONNX file without names and batch normalisation is understood by its graph."""
    _check(network, tmp_path)


def test_a_graph_that_scales_its_input_says_so(tmp_path: Path) -> None:
    row = find("resnet20")
    reference = disturbed(built(row))
    model = folded_onnx(reference)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "std"))
    model.graph.node.insert(0, onnx.helper.make_node("Div", ["pixels", "std"], ["input.1"]))
    ours, said = built(row), list[str]()
    weights.load(ours, written(model, tmp_path / "m.onnx"), say=said.append)
    np.testing.assert_allclose(answers(ours), answers(reference), rtol=0, atol=1e-5)
    assert "scales its input before" in said[1]


def test_a_graph_of_another_network_is_refused_with_the_one_that_it_is_of(tmp_path: Path) -> None:
    path = written(folded_onnx(built(find("mobilenet_v2", "torchvision", {"alpha": 0.35}))), tmp_path / "m.onnx")
    row = find("resnet20")
    with pytest.raises(
        WeightsMismatchError, match=r"it is mobilenet_v2 \(\w+\) with alpha=0\.35 of 5 classes"
    ) as error:
        weights.load(built(row), path, row.layouts(), row=row)
    assert len(str(error.value)) < 600


def test_a_network_whose_strides_are_elsewhere_is_not_taken_for_the_same(tmp_path: Path) -> None:
    """Their kernels are the same, their answers are not."""
    row = find("resnet20", None, {"projection": "forced"})
    reference = folded_onnx(built(row))
    strided = next(node for node in reference.graph.node if node.op_type == "Conv" and "group2" in node.output[0])
    del strided.attribute[:]
    with pytest.raises(WeightsMismatchError, match="read by its graph"):
        weights.load(built(row), written(reference, tmp_path / "m.onnx"), row=row)


def test_branches_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    image = keras.Input((_SIDE, _SIDE, 3))
    branches = [keras.layers.Conv2D(4, 3, name=name)(image) for name in ("one_conv", "other_conv")]
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()(branches))
    model = keras.Model(image, keras.layers.Dense(2, name="classifier_logits")(x))
    with pytest.raises(
        WeightsMismatchError, match=r"missing: \w+_conv \(several places of the graph are alike\), \w+_conv"
    ):
        weights.load(model, written(folded_onnx(model), tmp_path / "m.onnx"))


# --- tensors beside the model


def _with_tensors_beside(folder: Path, name: str = "m.onnx") -> tuple[keras.Model, Path]:
    model = disturbed(built(find("resnet20")))
    path = folder / name
    onnx.save(folded_onnx(model), path, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    return model, path


def test_tensors_that_pytorch_puts_beside_a_model_are_read_and_in_its_digest(tmp_path: Path) -> None:
    model, path = _with_tensors_beside(tmp_path)
    ours = built(find("resnet20"))
    weights.load(ours, path)
    np.testing.assert_allclose(answers(ours), answers(model), rtol=0, atol=1e-5)
    before = digests.digest(path)
    beside = tmp_path / "m.onnx.data"
    beside.write_bytes(bytes(beside.stat().st_size))
    assert digests.digest(path) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), "which cannot be read"),
        (lambda file: file.write_bytes(b"short"), "claims more than"),
    ],
    ids=["missing", "short"],
)
def test_tensors_that_are_not_beside_their_model_are_refused_by_name(
    change: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    _, path = _with_tensors_beside(tmp_path)
    change(tmp_path / "m.onnx.data")
    with pytest.raises(WeightsError, match=message):
        read(path)


@pytest.mark.parametrize("location", ["../m.onnx.data", "/etc/hostname", "other.bin", ""])
def test_no_other_file_is_opened_for_a_model(location: str, tmp_path: Path) -> None:
    tensor = onnx.numpy_helper.from_array(np.ones(2, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "m.onnx").write_bytes(onnx_bytes([tensor]))
    with pytest.raises(WeightsError, match="kept in another file, which is not opened"):
        read(tmp_path / "m.onnx")


def test_a_graph_cannot_ask_for_its_constants_without_end(tmp_path: Path) -> None:
    initializers = [
        onnx.numpy_helper.from_array(np.ones(1 << 16, np.int8), "q"),
        onnx.numpy_helper.from_array(np.float32(1), "scale"),
    ]
    nodes = [onnx.helper.make_node("DequantizeLinear", ["q", "scale"], [f"w{n}"]) for n in range(1000)]
    output = onnx.helper.make_tensor_value_info("w0", 1, None)
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [output], initializers))
    with pytest.raises(WeightsError, match="more often than any network does"):
        read(written(model, tmp_path / "m.onnx"))


# --- quantised


def test_quantised_tensors_of_onnx_are_what_they_stand_for(tmp_path: Path) -> None:
    """As onnxruntime's quantiser writes kernels: int8 with a scale for each output, behind a DequantizeLinear."""
    row = find("resnet20")
    reference = disturbed(built(row))
    model = folded_onnx(reference)
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    for initializer in list(model.graph.initializer):
        if initializer.name not in kernels:
            continue
        value = onnx.numpy_helper.to_array(initializer)
        scale = (np.abs(value).max(axis=(1, 2, 3)) / 127).astype(np.float32)
        whole = np.round(value / scale.reshape(-1, 1, 1, 1)).astype(np.int8)
        name = initializer.name
        initializer.CopyFrom(onnx.numpy_helper.from_array(whole, f"{name}_q"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}_scale"))
        zeros = np.zeros(len(scale), np.int8)
        model.graph.initializer.append(onnx.numpy_helper.from_array(zeros, f"{name}_zero"))
        inputs = [f"{name}_q", f"{name}_scale", f"{name}_zero"]
        model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", inputs, [name], axis=0))
    ours = built(row)
    weights.load(ours, written(model, tmp_path / "m.onnx"))
    # A kernel's numbers are half a step of 1/127 of its largest off.
    assert np.abs(answers(ours) - answers(reference)).max() < 0.05


def _quantised(kind: int, values: NDArray[Any], scales: list[float], zeros: list[int], axis: int) -> bytes:
    parameters = Table({2: np.array(scales, "<f4").view("<u4"), 3: np.array(zeros, "<i8"), 6: ("<i", axis)})
    tensor = Table(
        {
            0: np.array(values.shape, "<i4"),
            1: ("<b", kind),
            2: ("<I", 1),
            3: b"w",
            4: parameters,
        }
    )
    return flatbuffer(Table({0: ("<I", 3), 2: [Table({0: [tensor]})], 4: [Table({}), Table({0: values.tobytes()})]}))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((3, np.array([[0, 128, 255]], np.uint8), [0.5], [128], 0), [[-64, 0, 63.5]]),
        ((9, np.array([[-128, 0], [1, 127]], np.int8), [0.5, 2], [0, 0], 0), [[-64, 0], [2, 254]]),
        ((9, np.array([[-128, 0], [1, 127]], np.int8), [0.5, 2], [0, 1], 1), [[-64, -2], [0.5, 252]]),
        ((2, np.array([-1000, 1000], "<i4"), [0.001, 0.01], [0, 0], 0), [-1, 10]),
        ((7, np.array([-1000, 1000], "<i2"), [0.001], [0], 0), [-1, 1]),
    ],
    ids=["uint8", "int8 by output", "int8 by input", "bias", "int16"],
)
def test_quantised_tensors_of_tflite_are_what_they_stand_for(
    arguments: tuple[int, NDArray[Any], list[float], list[int], int], expected: Any, tmp_path: Path
) -> None:
    (tmp_path / "m.tflite").write_bytes(_quantised(*arguments))
    (found,) = read(tmp_path / "m.tflite").values()
    np.testing.assert_allclose(found.astype(np.float32), np.array(expected, np.float32), rtol=1e-6)
    assert found.dtype == np.float32


def test_quantised_tensors_with_another_number_of_scales_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(_quantised(9, np.zeros((2, 2), np.int8), [1, 1, 1], [0, 0, 0], 0))
    with pytest.raises(WeightsError, match="3 scales and 3 zero points"):
        read(tmp_path / "m.tflite")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "bounds"),
    [
        (("mobilenet", "keras", {"alpha": 0.25}), {"float32": 1e-5, "float16": 1e-5, "dynamic": 0.05, "int8": 0.05}),
        (("se_resnet20", None, {}), {"float32": 1e-5, "int8": 0.05}),
        (("squeezenet1_1", None, {}), {"float32": 1e-5, "float16": 1e-5}),
    ],
    ids=["mobilenet", "se_resnet20", "squeezenet"],
)
@pytest.mark.filterwarnings("ignore")  # of the converter and the interpreter, which are not ours
def test_what_tensorflow_s_converter_makes_answers_as_its_interpreter(
    network: tuple[str, str | None, dict[str, Any]], bounds: Mapping[str, float], tmp_path: Path
) -> None:
    """What TensorFlow's converter makes of a network answers as TensorFlow's interpreter does."""
    tf: Any = pytest.importorskip("tensorflow", reason="the converter and the interpreter are TensorFlow's")
    row = find(*network)
    reference = disturbed(built(row))
    x = np.random.default_rng(0).normal(0, 1, (2, _SIDE, _SIDE, 3)).astype(np.float32)
    for form, bound in bounds.items():
        converter = tf.lite.TFLiteConverter.from_keras_model(reference)
        converter.optimizations = [] if form == "float32" else [tf.lite.Optimize.DEFAULT]
        if form == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if form == "int8":
            converter.representative_dataset = lambda: ([image[None]] for image in x)
        (tmp_path / f"{form}.tflite").write_bytes(converter.convert())
        interpreter = tf.lite.Interpreter(str(tmp_path / f"{form}.tflite"), num_threads=1)
        interpreter.allocate_tensors()
        expected = []
        for image in x:
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
            interpreter.invoke()
            logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
            expected.append(np.asarray(keras.ops.convert_to_numpy(keras.ops.softmax(logits)))[0])
        ours = built(row)
        weights.load(ours, tmp_path / f"{form}.tflite", row.layouts(), row=row)
        assert np.abs(answers(ours) - np.stack(expected)).max() < bound, form


# --- which network it is


@pytest.mark.ci
@pytest.mark.parametrize("value", [0.5, 0.6], ids=["published", "one's own"])
def test_weights_of_another_width_name_the_option_and_its_value(value: float, tmp_path: Path) -> None:
    weights.save(built(find("mobilenet", None, {"alpha": value})), tmp_path / "w.safetensors")
    row = find("mobilenet", None, {"rho": 0.5})
    with pytest.raises(WeightsMismatchError) as error:
        weights.load(built(row), tmp_path / "w.safetensors", row.layouts(), row=row)
    message = str(error.value).removeprefix(str(tmp_path))
    assert f'The weights are for alpha={value}: set GLIMPSE_OPTIONS=\'{{"rho": 0.5, "alpha": {value}}}\'.' in message
    assert len(message) < 400


def test_weights_of_other_options_name_the_option_and_its_value(tmp_path: Path) -> None:
    weights.save(built(find("se_resnet20")), tmp_path / "w.safetensors")
    row = find("resnet20")
    with pytest.raises(WeightsMismatchError, match=r"The weights are for se_ratio=8: set GLIMPSE_OPTIONS|se_resnet20"):
        weights.load(built(row), tmp_path / "w.safetensors", row.layouts(), row=row)


def test_weights_of_another_number_of_classes_say_so(tmp_path: Path) -> None:
    row = find("mobilenet", None, {"alpha": 0.25})
    weights.save(built(row, classes=7), tmp_path / "w.safetensors")
    with pytest.raises(
        WeightsMismatchError, match=r"The weights are for 7 classes, but 5 labels were given. Give one label"
    ):
        weights.load(built(row), tmp_path / "w.safetensors", row.layouts(), row=row)


_LIKELY = r"it is mobilenet \(keras\) with alpha=0\.25 of 7 classes"


def test_a_file_without_an_architecture_is_told_which_it_may_be(tmp_path: Path) -> None:
    weights.save(built(find("mobilenet", None, {"alpha": 0.25}), classes=7), tmp_path / "w.safetensors")
    with pytest.raises(BundleError, match=rf"GLIMPSE_MODEL.* {_LIKELY}"):
        resolve(ModelSource(weights=str(tmp_path / "w.safetensors")))


def test_the_weights_of_an_onnx_file_tell_which_network_they_may_be_of(tmp_path: Path) -> None:
    written(folded_onnx(built(find("mobilenet", None, {"alpha": 0.25}), classes=7)), tmp_path / "w.onnx")
    assert re.search(_LIKELY, weights.likely_networks(tmp_path / "w.onnx"))


def test_a_file_without_an_architecture_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(
        BundleError, match="needs an architecture, given with GLIMPSE_MODEL, and cannot be read as weights"
    ):
        resolve(ModelSource(weights=str(tmp_path / "w.pth")))
