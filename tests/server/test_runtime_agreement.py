"""Every runtime and precision that can run here against TensorFlow in float32: real photographs, real weights."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.serving import logits_model, serving_outputs
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtime.openvino_graphs import convert
from glimpse.server.runtime.tensorflow import TensorFlowRuntime, with_values
from tests.conftest import ROOT, SHARED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the reference is TensorFlow"),
]
WEIGHTS = SHARED / "weights"
_PIECES = 128  # of photographs, for networks of 224 pixels
# Largest difference of a probability from TensorFlow's in float32, and least share of images with the same first class.
FLOAT32 = (1e-4, 0.999)
BFLOAT16 = (0.1, 0.97)
_MOBILENET = pytest.mark.xfail(
    reason="in bfloat16 MobileNet 0.25 keeps 80% (TensorFlow), 86% (JAX) and 88% (PyTorch) of its first classes on a "
    "CPU; the others keep 97.7% and more",
    raises=AssertionError,
)
_HALF = "mean = [127.5, 127.5, 127.5]\nstd = [127.5, 127.5, 127.5]\n"
_CAFFE = 'channels = "BGR"\nmean = [104, 117, 123]\n'
# Name, options, file, side, scaling.
_REAL = [
    ("mobilenet", {"alpha": 0.25}, "mobilenet_v1_0.25_224_imagenet.tflite", 224, _HALF),
    ("squeezenet1_0", {}, "squeezenet1_0_imagenet_caffe.safetensors", 227, _CAFFE),
    ("squeezenet1_1", {}, "squeezenet1_1_imagenet_fp16.onnx", 224, _CAFFE),
]
# Runs in a process of its own, for Keras has one backend in a process.
_RUN = """
import json, sys
from pathlib import Path
import numpy as np
from glimpse.server.runtime import selection
folder, name, precision = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
names = selection.choose(name)
from glimpse.models import sources
from tests.server.building import build
said = {}
for network, source in json.loads((folder / "sources.json").read_text()).items():
    paths = {key: Path(source[key]) for key in ("labels", "recipe") if key in source}
    bundle = sources.resolve(sources.ModelSource(**{**source, **paths}))
    runtime = build(bundle, *names, precision=precision).runtime
    pixels = np.load(folder / f"{network}.npy")
    parts = [runtime(pixels[begin : begin + 32])["probabilities"] for begin in range(0, len(pixels), 32)]
    np.save(folder / f"{network}-{name}-{precision}.npy", np.concatenate(parts))
    said[network] = [runtime.name, runtime.device, runtime.precision]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cifar10_test: Path) -> Path:
    """Networks with weights, images for each, and what TensorFlow says of them in float32."""
    if not WEIGHTS.is_dir():
        pytest.skip(f"the real weights are in {WEIGHTS}, which is not there")
    folder = tmp_path_factory.mktemp("agreement")
    labels = folder / "labels.txt"
    names = json.loads((WEIGHTS / "imagenet_class_index.json").read_text())
    labels.write_text("".join(f"{names[str(i)][1]}\t{names[str(i)][0]}\n" for i in range(1000)))
    sources: dict[str, dict[str, Any]] = {"embedded": {"weights": "cifar10"}}
    with zipfile.ZipFile(cifar10_test) as archive:
        files = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[::10]
        np.save(folder / "embedded.npy", np.stack([_rgb(archive.read(name)) for name in files]))
    for architecture, options, file, side, scaling in _REAL:
        recipe = folder / f"{architecture}.toml"
        recipe.write_text(f"height = {side}\nwidth = {side}\n{scaling}")
        np.save(folder / f"{architecture}.npy", _pieces(side))
        sources[architecture] = {
            "weights": str(WEIGHTS / file),
            "architecture": architecture,
            "options": options,
            "labels": str(labels),
            "recipe": str(recipe),
        }
    (folder / "sources.json").write_text(json.dumps(sources))
    _run(folder, "tensorflow", "float32")
    return folder


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("openvino", "float32"),
        ("openvino", "bfloat16"),
        pytest.param("tensorflow", "bfloat16", marks=_MOBILENET),
        ("jax", "float32"),
        pytest.param("jax", "bfloat16", marks=_MOBILENET),
        ("torch", "float32"),
        pytest.param("torch", "bfloat16", marks=_MOBILENET),
    ],
)
def test_a_runtime_agrees_with_tensorflow_in_float32(
    name: str, precision: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: see CONTRIBUTING.md, make test-parity")
    said = _run(folder, name, precision)
    difference, agreement = FLOAT32 if precision == "float32" else BFLOAT16
    found = {}
    for network, identity in said.items():
        assert (identity[0], identity[2]) == (name, precision)
        ours = np.load(folder / f"{network}-{name}-{precision}.npy")
        theirs = np.load(folder / f"{network}-tensorflow-float32.npy")
        found[network] = (float(np.abs(ours - theirs).max()), float((ours.argmax(1) == theirs.argmax(1)).mean()))
        with capsys.disabled():
            print(  # noqa: T201 - these figures are what the test is run for
                f"\n{name} {identity[1]} {precision}: {network}, {len(ours)} images: top-1 agreement "
                f"{found[network][1]:.2%}, largest difference {found[network][0]:.1e}",
                end="",
            )
    assert all(far <= difference and same >= agreement for far, same in found.values()), found


# A small row of each family, with every kind of block.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mnist_dnn", {}),
        ("basic_cnn", {}),
        ("se_resnet20", {}),
        ("squeezenet1_1", {}),
        ("resnet18", {}),
        ("resnext50", {}),
        ("se_resnext50", {}),
        ("googlenet", {}),
        ("inception_v2", {"se_ratio": 16}),
        ("inception_v4", {}),
        ("densenet121", {}),
        ("vgg16", {}),
        ("xception", {}),
        ("mobilenet", {"alpha": 0.25}),
        ("mobilenet_v2", {}),
    ],
)
def test_openvino_computes_every_family(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    assembly = assemble(find(name, None, options))
    height, width, channels = assembly.model.input_shape[1:]
    recipe = Recipe(
        height=height,
        width=width,
        channels="GRAY" if channels == 1 else "RGB",
        mean=(127.5,) * channels,
        std=(64.0,) * channels,
    )
    photos = [Image.fromarray(_resized(photo, height, width)) for photo in (data.chelsea(), data.coffee())]
    pixels = np.stack([host.fit(photo, recipe) for photo in photos])
    # Scores of random weights can be of any size. Divided by it, the softmax neither saturates nor levels them.
    spread = float(keras.ops.std(logits_model(assembly, recipe)(pixels, training=False)))
    model = serving_outputs(assembly, recipe, spread)
    graph = convert(with_values(model), tmp_path)
    asked = frozenset(model.output_names)
    found = OpenVINORuntime(graph, "float32")(pixels, asked), TensorFlowRuntime(model, "float32")(pixels, asked)
    np.testing.assert_allclose(found[0]["logits"] / spread, found[1]["logits"] / spread, rtol=1e-2, atol=1e-3)
    ours, theirs = (each["probabilities"] for each in found)
    np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-6)
    assert np.ptp(theirs[0]) > 1e-3, "it says nothing"


def _run(folder: Path, name: str, precision: str) -> dict[str, list[str]]:
    """Compute all networks with a runtime; what each runtime says of itself."""
    ended = subprocess.run(
        [sys.executable, "-c", _RUN, str(folder), name, precision],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot compute in bfloat16" in ended.stderr:
        pytest.skip(ended.stderr.splitlines()[-1])
    assert ended.returncode == 0, ended.stderr
    said: dict[str, list[str]] = json.loads(ended.stdout.splitlines()[-1])
    return said


def _pieces(side: int) -> NDArray[np.uint8]:
    """Square pieces of photographs, of any size and place, ``[_PIECES, side, side, 3]``."""
    rng = np.random.default_rng(0)
    photos = [data.chelsea(), data.coffee(), data.astronaut(), data.rocket(), data.immunohistochemistry()]
    pieces = []
    for number in range(_PIECES):
        photo = photos[number % len(photos)]
        edge = int(rng.integers(120, min(photo.shape[:2])))
        top, left = (int(rng.integers(0, length - edge + 1)) for length in photo.shape[:2])
        pieces.append(_resized(photo[top : top + edge, left : left + edge], side, side))
    return np.stack(pieces)


def _resized(photo: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(photo).resize((width, height)))


def _rgb(encoded: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(encoded)).convert("RGB"))
