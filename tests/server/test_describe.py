"""DescribeModel tells what was built, and its numbers add up."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import keras
import pytest

from glimpse import models
from glimpse.models import bundle as bundles
from glimpse.models import weights
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.app import Server
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.messages.describe import describe
from glimpse.server.settings import Settings
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.conftest import TIMEOUT

BUNDLE = Path(models.__file__).parent / "bundles" / "se_resnet20_cifar10"


@pytest.fixture(scope="module")
def description(stub: ImageClassifierStub) -> pb.DescribeModelResponse:
    return stub.DescribeModel(pb.DescribeModelRequest(), timeout=TIMEOUT)


def test_the_stages_add_up_to_the_parameter_total(description: pb.DescribeModelResponse) -> None:
    assert sum(stage.parameters for stage in description.stages) == description.parameters == 864_802
    # 442,368 + 14,155,968 + 49,810,432 + 40,723,648 + 1,120: the kernels at every position of their outputs.
    assert sum(stage.multiply_adds for stage in description.stages) == 105_133_536
    assert description.trainable_parameters < description.parameters


def test_the_macro_architecture_runs_from_the_stem_to_the_classes(description: pb.DescribeModelResponse) -> None:
    assert [(s.name, s.block, s.repeats, list(s.output_shape)) for s in description.stages] == [
        ("stem", "conv3x3", 1, [32, 32, 16]),
        ("group1", "se_basic", 3, [32, 32, 16]),
        ("group2", "se_basic", 3, [16, 16, 64]),
        ("group3", "se_basic", 3, [8, 8, 112]),
        ("classifier", "global_average_pooling+dense", 1, [10]),
    ]


def test_it_is_the_bundle_that_ships(description: pb.DescribeModelResponse) -> None:
    bundle = json.loads((BUNDLE / "model.json").read_text())
    assert description.model.weights_digest == bundle["weights_digest"]
    assert description.temperature == pytest.approx(bundle["temperature"])
    assert [c.label for c in description.classes] == (BUNDLE / "labels.txt").read_text().split()
    assert [c.index for c in description.classes] == list(range(10))
    assert (description.input.height, description.input.width, description.input.channels) == (32, 32, 3)
    assert (description.pre_stem.geometry, description.pre_stem.height) == (bundle["recipe"]["geometry"], 32)
    assert description.pre_stem.digest.startswith("sha256:")


def test_it_tells_how_the_model_runs_and_what_the_server_accepts(description: pb.DescribeModelResponse) -> None:
    assert (description.runtime.name, description.runtime.device) == ("openvino", "cpu")
    assert list(description.runtime.batch_sizes) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert description.limits.max_images_per_request == 64
    assert list(description.limits.formats) == ["JPEG", "PNG", "WEBP", "GIF", "BMP"]


# Keras hands TensorFlow's variables to NumPy, whose `__array__` is older than NumPy 2's `copy`; not ours to mend.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_it_tells_the_options_that_a_bundle_was_trained_with(tmp_path: Path) -> None:
    options: dict[str, Any] = {"width": 4, "hidden": [5]}
    keras.utils.set_random_seed(1)  # with some weights none of the five units would answer anything
    recipe = Recipe(height=8, width=8)
    weights.save(models.build("basic_cnn", classes=2, input_shape=(8, 8, 3), **options), tmp_path / bundles.WEIGHTS)
    bundles.write(
        tmp_path,
        name="small",
        version="1",
        architecture="basic_cnn",
        variant="handbook",
        options=options,
        input_shape=(8, 8, 3),
        labels=[bundles.ClassLabel("cat"), bundles.ClassLabel("dog")],
        recipe=recipe,
        temperature=1.0,
        metrics={},
    )
    settings: dict[str, Any] = {"weights": str(tmp_path), "runtime": "tensorflow", "precision": "float32"}

    async def loaded() -> LoadedModel:
        return Server(Settings(**settings)).models._prepare_and_load()

    model = asyncio.run(loaded())
    assert model.batcher.close(60)
    told = describe(model, pb.Limits())
    assert dict(told.options) == {"width": "4", "hidden": "[5]"}
    assert list(told.stages[0].output_shape)[-1] == 4


def test_a_model_without_options_tells_none(description: pb.DescribeModelResponse) -> None:
    assert not description.options
