"""Small classifiers as graphs of other frameworks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from glimpse.models.bundle import Bundle
from glimpse.models.sources import ModelSource, resolve

SIZE, CLASSES = 12, 4
NAMES = ["cat", "dog", "cow", "hen"]
RECIPE = {"height": SIZE, "width": SIZE, "mean": [127.5] * 3, "std": [127.5] * 3}
_ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def onnx_model(
    *,
    channels_first: bool = True,
    dtype: str = "float32",
    batch: int | None = None,
    size: int | None = SIZE,
    depth: int = 3,
    end: str = "Softmax",
    classes: int = CLASSES,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """A convolution, a mean over the picture and a dense layer, which end in `end`: an operator, or nothing."""
    rng = np.random.default_rng(7)
    sides: list[Any] = [size or "height", size or "width"]
    shape = [batch or "batch", depth, *sides] if channels_first else [batch or "batch", *sides, depth]
    floats = _ELEMENTS["float16" if dtype == "float16" else "float32"]
    weights: dict[str, Any] = {
        "kernel": rng.normal(0, 0.4, (6, depth, 3, 3)),
        "shift": rng.normal(0, 0.2, 6),
        "dense": rng.normal(0, 6.0, (6, classes)),
        "bias": rng.normal(0, 1.0, classes),
    }
    nodes, image = [], "image"
    if dtype == "uint8":
        nodes += [
            helper.make_node("Cast", [image], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["cast", "factor"], ["floats"]),
        ]
        weights["factor"] = np.array(1 / 64)
        image = "floats"
    if not channels_first:
        nodes.append(helper.make_node("Transpose", [image], ["turned"], perm=[0, 3, 1, 2]))
        image = "turned"
    last = "scores" if end else "answer"
    nodes += [
        helper.make_node("Conv", [image, "kernel", "shift"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "dense", "bias"], [last]),
    ]
    if end:
        nodes.append(helper.make_node(end, ["scores"], ["answer"]))
    kind = np.float16 if dtype == "float16" else np.float32
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", _ELEMENTS[dtype], shape)],
        [helper.make_tensor_value_info("answer", floats, [batch or "batch", classes])],
        [numpy_helper.from_array(np.asarray(value, kind), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests")
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return model


def reference(model: Any, images: NDArray[Any], output: str = "answer") -> NDArray[np.float32]:
    """What a graph or a node within gives, by ONNX's own evaluator, one image at a time."""
    evaluator: Any = ReferenceEvaluator(model)
    return np.concatenate(
        [np.asarray(evaluator.run([output], {"image": image[np.newaxis]})[0]) for image in images]
    ).astype(np.float32)


def saved(
    model: Any,
    folder: Path,
    *,
    name: str = "model.onnx",
    labels: int | None = CLASSES,
    recipe: Mapping[str, Any] | None = RECIPE,
) -> Path:
    """A graph in a folder, with labels and a recipe beside it unless they are None; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / name)
    details(folder, labels=labels, recipe=recipe)
    return folder / name


def details(folder: Path, *, labels: int | None = CLASSES, recipe: Mapping[str, Any] | None = RECIPE) -> None:
    """Labels and a recipe in a folder."""
    if labels is not None:
        (folder / "labels.txt").write_text("".join(f"class {number}\n" for number in range(labels)))
    if recipe is not None:
        lines = (
            f"{name} = {str(value).lower() if isinstance(value, bool) else _toml(value)}"
            for name, value in recipe.items()
        )
        (folder / "recipe.toml").write_text("\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def found(path: Path, **settings: Any) -> Bundle:
    """What the library finds there, as it does for a server with these settings."""
    return resolve(ModelSource(weights=str(path), **settings))


def labels(path: Path) -> list[str]:
    """The labels that it finds there."""
    return [each.label for each in found(path).labels]


def keras_model(*, grey: bool = False) -> Any:
    """The same with Keras, for what TensorFlow and OpenVINO make of it."""
    import keras

    keras.utils.set_random_seed(7)
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 1 if grey else 3), name="image")
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu6")(image)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(CLASSES, kernel_initializer=keras.initializers.RandomNormal(stddev=6.0))(x)
    return keras.Model(image, layers.Softmax()(x))
