"""Real ImageNet weights, in the formats in which people have them, behind the running service."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from skimage import data

from glimpse.client import Client
from glimpse.server.runtime.agreement import REQUIRED_SHARE
from glimpse.server.runtime.openvino import OpenVINORuntime
from tests.conftest import SHARED, RunningServer

WEIGHTS = SHARED / "weights"
# Index and WordNet id of the right answer.
PHOTOS = {"chelsea": (285, "n02124075"), "coffee": (967, "n07920052")}
HALF = [127.5] * 3
CAFFE = 'channels = "BGR"\nmean = [104, 117, 123]\nsmaller = "resize"\n'


class Served(NamedTuple):
    """A file, what it belongs to, and the pre-stem that it was trained behind."""

    model: str
    options: dict[str, float]
    file: str
    recipe: str
    keeps: bool  # whether bfloat16 keeps its answers


SERVED = [
    pytest.param(
        Served(
            "mobilenet",
            {"alpha": 0.25},
            "mobilenet_v1_0.25_224_imagenet.tflite",
            f"height = 224\nwidth = 224\nmean = {HALF}\nstd = {HALF}\ncrop_share = 0.875\n",
            keeps=False,
        ),
        id="mobilenet-tflite",
        marks=pytest.mark.ci,
    ),
    pytest.param(
        Served(
            "squeezenet1_0",
            {},
            "squeezenet1_0_imagenet_caffe.safetensors",
            f"height = 227\nwidth = 227\ncrop_share = 0.875\n{CAFFE}",
            keeps=True,
        ),
        id="squeezenet1_0-safetensors",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        Served(
            "squeezenet1_1",
            {},
            "squeezenet1_1_imagenet_fp16.onnx",
            # The whole short side: in its centre 87.5% its own runtime, too, sees another kind of cat (282).
            f"height = 224\nwidth = 224\n{CAFFE}",
            keeps=True,
        ),
        id="squeezenet1_1-onnx",
        marks=pytest.mark.slow,
    ),
]


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """scikit-image's cat and coffee (CC0) as PNG files."""
    paths = {name: tmp_path / f"{name}.png" for name in PHOTOS}
    for name, path in paths.items():
        Image.fromarray(getattr(data, name)()).save(path)
    return paths


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"the real weights are in {WEIGHTS}, which is not there")
@pytest.mark.parametrize("served", SERVED)
def test_the_service_on_real_weights_knows_a_cat_from_a_coffee(
    served: Served, photos: dict[str, Path], tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    names = json.loads((WEIGHTS / "imagenet_class_index.json").read_text())
    labels = tmp_path / "imagenet.txt"
    labels.write_text("".join(f"{names[str(i)][1]}\t{names[str(i)][0]}\n" for i in range(len(names))))
    (tmp_path / "recipe.toml").write_text(served.recipe)
    server = start_server(
        *("--model", served.model, "--options", json.dumps(served.options), "--weights", str(WEIGHTS / served.file)),
        *("--labels", str(labels), "--recipe", str(tmp_path / "recipe.toml"), "--max-batch-size", "2"),
    )
    server.wait_for("serving")
    with Client(server.target) as client:
        for name, (index, class_id) in PHOTOS.items():
            best = client.classify(photos[name]).predictions[0]
            assert (best.index, best.class_id) == (index, class_id), f"{name}: {best}"
        description = client.describe()
    assert description.architecture == served.model
    assert len(description.classes) == 1000
    assert description.parameters == sum(stage.parameters for stage in description.stages)
    runtime, fastest = description.runtime, OpenVINORuntime.resolve("auto")
    if fastest == "float32":  # there was nothing to choose
        assert (runtime.precision, runtime.agreement) == ("float32", None)
        return
    assert runtime.agreement is not None
    assert (runtime.agreement.top1 >= REQUIRED_SHARE) == served.keeps
    assert runtime.precision == (fastest if served.keeps else "float32")
    fallen = [line for line in server.log if line["event"] == "precision falls back"]
    assert [f"{runtime.agreement.top1:.1%}; 99% are required" in line["detail"] for line in fallen] == (
        [] if served.keeps else [True]
    )
