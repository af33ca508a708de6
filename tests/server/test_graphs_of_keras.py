"""Graphs that Keras has exported answer as it does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse.models import score_kinds
from glimpse.models.foreign import GraphError
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.runtime import UnsupportedNetworkError
from tests.models.graph_makers import CLASSES, RECIPE, SIZE, details, keras_model
from tests.server.converting import PLAIN, PROBABILITY, Array, Converted, scaled


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[Path], Converted]:
    return lambda path: Converted(path, tmp_path / "converted")


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
    np.testing.assert_allclose(found.probabilities(), of_keras(model, found), rtol=0, atol=PROBABILITY)
    assert (found.bundle.name, found.bundle.graph) == ("exported", "savedmodel")

    ir = tmp_path / "ir"
    openvino.save_model(openvino.convert_model(str(folder)), ir / "mine.xml", compress_to_fp16=False)
    details(ir)
    again = Converted(ir, tmp_path / "converted again")
    np.testing.assert_allclose(again.probabilities(), of_keras(model, again), rtol=0, atol=PROBABILITY)
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
@pytest.mark.parametrize(("dtype", "allowed"), [("float", PROBABILITY), ("uint8", 3 / 256), ("int8", 3 / 256)])
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
