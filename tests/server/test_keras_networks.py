"""A user's own network on real runtimes: Keras' answers on each of them, the next one where one fails, a cause told."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import keras
import numpy as np
import pytest
import structlog
from keras import layers
from numpy.typing import NDArray
from PIL import Image

from glimpse.models import outputs
from glimpse.models.messages import lacks_memory
from glimpse.models.sources import ModelSource, resolve
from glimpse.server.app import Server
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.processes.startup import MemoryShortError, ModelLoadError
from glimpse.server.runtime import (
    UnsupportedNetworkError,
    builder,
    conversion,
    conversion_worker,
    converted_cache,
    keras_conversion,
)
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtime.tensorflow import TensorFlowRuntime
from glimpse.server.settings import Settings
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import ROOT, RunningServer
from tests.models import keras_makers
from tests.models.keras_makers import CLASSES, PIXELS, PROBABILITIES, model, predicted, saved, trunk
from tests.server.building import build
from tests.server.conftest import TIMEOUT
from tests.variations import mostly_in_ci

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the runtimes build on TensorFlow")


@pytest.fixture(autouse=True)
def _seeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras.utils.set_random_seed(3)
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert in this process, which has the frameworks loaded; the real answer goes the real way."""

    def convert(bundle: Any, folder: Path, *, seconds: float) -> Any:
        answer = json.loads(json.dumps(conversion_worker._answer(bundle, folder)))
        if "error" in answer:
            raise conversion.ERRORS[answer["error"]](answer["message"])
        return converted_cache.read_summary(answer["network"])

    monkeypatch.setattr(conversion, "_convert_elsewhere", convert)


def load(weights: Path, **settings: Any) -> LoadedModel:
    """Load it as a server does; the errors are those that its exit code is from."""

    async def prepared() -> LoadedModel:
        return Server(Settings(weights=str(weights), precision="float32", **settings)).models._prepare_and_load()

    found = asyncio.run(prepared())
    assert found.batcher.close(60)
    return found


def answers(path: Path, runtime: str) -> NDArray[np.float32]:
    """What a named runtime gives for `PIXELS`."""
    with structlog.testing.capture_logs():
        bundle = resolve(ModelSource(weights=str(path)))
        made, _ = build(bundle, runtime, precision="float32")  # type: ignore[arg-type]  # one of its names
    return made(PIXELS)[outputs.PROBABILITIES]


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    **{name: PROBABILITIES[name] for name in ("nested", "average", "saturated")},
    **{name: partial(keras_makers.augmented, name) for name in ("RandomFlip", "MixUp", "CenterCrop", "Resizing")},
    "tutorial": lambda: keras_makers.tutorial(last=layers.Dense(CLASSES, activation="softmax"), open_inside=True),
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", mostly_in_ci(NETWORKS, "tutorial"))
def test_openvino_and_tensorflow_give_the_answers_of_predict(name: str, tmp_path: Path) -> None:
    made = NETWORKS[name]()
    path, expected = saved(made, tmp_path / "own"), predicted(made)
    np.testing.assert_allclose(answers(path, "openvino"), expected, atol=1e-5)
    np.testing.assert_allclose(answers(path, "tensorflow"), expected, atol=1e-5)


@pytest.mark.usefixtures("in_process")
def test_only_outputs_that_have_a_meaning_are_those_of_a_model(tmp_path: Path) -> None:
    """An engine asks for all of them at its start, and layers within the network name the same tensors."""
    found = load(saved(model(trunk), tmp_path / "own"), runtime="openvino")
    assert found.network.maps is not None
    assert found.outputs == {outputs.PROBABILITIES, outputs.LOGITS, outputs.EMBEDDING}


@pytest.mark.ci
def test_a_served_network_tells_what_it_puts_out(start_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    made = PROBABILITIES["average"]()
    path = saved(made, tmp_path / "own")
    server = start_server(f"--weights={path}", "--precision=float32")
    server.wait_for("serving")
    assert next(line for line in server.log if line["event"] == "model loaded")["network_output"] == "probabilities"
    picture = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(picture, "PNG")
    with grpc.insecure_channel(server.target) as channel:
        stub = ImageClassifierStub(channel)
        assert stub.DescribeModel(pb.DescribeModelRequest(), timeout=TIMEOUT).output == "probabilities"
        request = pb.ClassifyRequest(
            images=[pb.Image(encoded=picture.getvalue())], options=pb.ClassifyOptions(top_k=CLASSES)
        )
        (result,) = stub.Classify(request, timeout=TIMEOUT).results
    found = {each.index: each.probability for each in result.predictions}
    np.testing.assert_allclose([found[i] for i in range(CLASSES)], predicted(made)[0], atol=1e-5)


@pytest.mark.usefixtures("in_process")
def test_what_openvino_computes_otherwise_goes_to_tensorflow(tmp_path: Path) -> None:
    # Where a picture has one colour, that layer divides nothing by nothing, which each of them takes in its own way.
    made = keras_makers.augmented("AutoContrast")
    path = saved(made, tmp_path / "own")
    with structlog.testing.capture_logs() as logs:
        found = load(path)
    assert found.runtime == "tensorflow"
    (line,) = (line for line in logs if line["event"] == "slower runtime")
    assert "openvino and Keras compute different results for this network" in line["detail"]
    np.testing.assert_allclose(answers(path, "tensorflow"), predicted(made), atol=1e-5)
    with pytest.raises(ModelLoadError, match="openvino and Keras compute different results"):
        load(path, runtime="openvino")


@pytest.mark.usefixtures("in_process")
def test_any_failed_conversion_is_told_by_its_cause_and_the_next_runtime_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise TypeError("unsupported operand type(s) for *: 'NoneType' and 'NoneType'")

    monkeypatch.setattr(keras_conversion, "serving_outputs", fails)
    path = saved(model(trunk), tmp_path / "own")
    with structlog.testing.capture_logs() as logs:
        assert load(path).runtime == "tensorflow"
    (line,) = (line for line in logs if line["event"] == "slower runtime")
    assert line["detail"].endswith("failed: unsupported operand type(s) for *: 'NoneType' and 'NoneType'")
    with pytest.raises(ModelLoadError, match="failed: unsupported operand"):
        load(path, runtime="openvino")
    assert not converted_cache.is_cached(resolve(ModelSource(weights=str(path)))), "another time it may not fail"


@pytest.mark.parametrize("where", ["__init__", "__call__"])
def test_a_runtime_that_fails_however_it_may_is_passed_over_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Exception from src/core.cpp:110:\nget_output_tensor() needs one output")

    monkeypatch.setattr(TensorFlowRuntime, where, fails)
    path = saved(model(trunk), tmp_path / "own")
    with pytest.raises(
        ModelLoadError, match=r"tensorflow cannot compute this network: get_output_tensor\(\) needs one"
    ):
        load(path, runtime="tensorflow")


@pytest.mark.usefixtures("in_process")
def test_a_runtime_that_fails_while_it_is_warmed_is_followed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(OpenVINORuntime, "alone", fails)
    path = saved(model(trunk), tmp_path / "own")
    with structlog.testing.capture_logs() as logs:
        assert load(path).runtime == "tensorflow"
    (line,) = (line for line in logs if line["event"] == "slower runtime")
    assert line["detail"] == "openvino cannot compute this network: no such kernel"


def test_only_a_lack_of_memory_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    exhausted = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
    torch = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
    assert all(lacks_memory(error) for error in (exhausted, torch, RuntimeError("std::bad_alloc"), MemoryError()))
    assert not lacks_memory(TypeError("NoneType * NoneType"))

    def fails(*_: Any, **__: Any) -> None:
        raise exhausted

    monkeypatch.setattr(TensorFlowRuntime, "__init__", fails)
    with pytest.raises(MemoryShortError, match="OOM when allocating"):
        load(saved(model(trunk), tmp_path / "own"), runtime="tensorflow")


@pytest.mark.ci
def test_what_nobody_thought_of_ends_as_a_model_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody thought of ends with the code of a model that cannot be loaded."""

    def fails(*_: Any, **__: Any) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(builder, "build", fails)
    with pytest.raises(ModelLoadError, match="Cannot load the model: KeyError: 'surprise'"):
        load(saved(model(trunk), tmp_path / "own"))


CONVERSION = """
import sys
sys.argv[1:] = [{folder!r}, "600"]
from glimpse.server.runtime import conversion_worker, keras_conversion
def fails(bundle):
    raise RecursionError("maximum recursion depth exceeded")
keras_conversion.load_bundle = fails
conversion_worker.main()
"""


@pytest.mark.ci
def test_an_exception_in_the_converting_process_does_not_end_it_unheard(tmp_path: Path) -> None:
    path = saved(model(trunk), tmp_path / "own")
    command = [sys.executable, "-c", CONVERSION.format(folder=str(tmp_path))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump(resolve(ModelSource(weights=str(path))), process.stdin)
        process.stdin.flush()  # it stays open: at its end the process ends, too
        answer = process.stdout.read()
        process.wait(TIMEOUT)  # before its input ends, or it might end for that
    assert process.returncode == 0
    assert json.loads(answer) == {"error": "failed", "message": "maximum recursion depth exceeded"}
    assert issubclass(conversion.ERRORS["failed"], UnsupportedNetworkError)
