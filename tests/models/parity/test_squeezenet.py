"""SqueezeNet equals torchvision's, and says of real photographs what its published weights say elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe
from tests.models.parity.reference import Case, check

_WEIGHTS = Path(__file__).parents[4] / "shared" / "weights"
_MEAN = np.array([104.0, 117.0, 123.0], np.float32)  # blue, green, red
_CAT, _ESPRESSO = 285, 967

CASES = [
    Case(
        architecture=name,
        variant="torchvision",
        reference=f"torchvision:{name}",
        stages={
            "stem": "features.1",
            **{f"group{n}": f"features.{position}" for n, position in enumerate(positions, start=1)},
            "classifier": "",  # the whole network: its answer is flattened
        },
    )
    for name, positions in (("squeezenet1_0", (5, 10, 12)), ("squeezenet1_1", (4, 7, 12)))
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_squeezenet_equals_its_reference(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def published(name: str) -> Path:
    path = _WEIGHTS / name
    if not path.exists():
        pytest.skip(f"needs the real weights {path}")
    return path


def photographs(side: int, crop_share: float) -> NDArray[np.float32]:
    """A cat and a cup of espresso as Caffe's networks take them: BGR, less the mean of ImageNet."""
    data = pytest.importorskip("skimage.data", reason="the photographs are scikit-image's")
    recipe = Recipe(height=side, width=side, crop_share=crop_share)
    pixels = np.stack([host.fit(Image.fromarray(image), recipe) for image in (data.chelsea(), data.coffee())])
    return pixels[..., ::-1].astype(np.float32) - _MEAN


def probabilities(model: keras.Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    softmax = keras.ops.softmax(model(images, training=False))
    return np.asarray(keras.ops.convert_to_numpy(softmax))


@pytest.mark.parametrize("variant", ["caffe", "torchvision", "handbook"])
def test_published_weights_of_1_0_know_a_cat_and_an_espresso(variant: str) -> None:
    path = published("squeezenet1_0_imagenet_caffe.safetensors")
    images = photographs(227, crop_share=0.875)
    row = find("squeezenet1_0", variant)
    model = assemble(row, input_shape=images.shape[1:]).model
    assert weights.load(model, path, row.layouts()) == "torchvision"
    assert probabilities(model, images).argmax(axis=1).tolist() == [_CAT, _ESPRESSO]


def test_the_border_of_the_authors_network_makes_it_less_certain() -> None:
    path = published("squeezenet1_0_imagenet_caffe.safetensors")
    images = photographs(227, crop_share=0.875)
    certainty = {}
    for variant in ("caffe", "torchvision"):
        row = find("squeezenet1_0", variant)
        model = assemble(row, input_shape=images.shape[1:]).model
        weights.load(model, path, row.layouts())
        certainty[variant] = probabilities(model, images).max(axis=1)
    assert (certainty["caffe"] < certainty["torchvision"]).all()


def test_published_weights_of_1_1_agree_with_their_own_interpreter() -> None:
    path = published("squeezenet1_1_imagenet_fp16.onnx")
    pytest.importorskip("onnx", reason="ONNX files are read with the package onnx")
    images = photographs(224, crop_share=1)
    row = find("squeezenet1_1")
    model = assemble(row).model
    assert weights.load(model, path, row.layouts()) == "caffe"
    ours = probabilities(model, images)
    assert ours.argmax(axis=1).tolist() == [_CAT, _ESPRESSO]
    theirs = _interpreted(path, images)
    assert np.abs(ours - theirs).max() < 1e-4


def _interpreted(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime makes of the images with the file's graph and weights.

    The file asks for answers in float16, whose steps near 1 are larger than the differences looked for: here the same
    graph and the same weights are told to be float32.
    """
    import onnx

    onnxruntime: Any = pytest.importorskip("onnxruntime", reason="the interpreter of ONNX files")
    model = onnx.load(path)
    for initializer in model.graph.initializer:
        wide = onnx.numpy_helper.to_array(initializer).astype(np.float32)
        initializer.CopyFrom(onnx.numpy_helper.from_array(wide, initializer.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    del model.graph.value_info[:]  # the types of what is between
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = [session.run(None, {"data_0": image.transpose(2, 0, 1)[None]})[0].reshape(-1) for image in images]
    return np.stack(answers)
