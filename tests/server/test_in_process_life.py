"""How a `glimpse.Classifier` is loaded, shared, closed and dropped."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glimpse import Classifier, ImageRefusedError, ImageResult, UnavailableError
from glimpse.server.in_process.in_flight_limit import InFlightLimit
from glimpse.server.processes.startup import ModelLoadError
from tests.conftest import ROOT
from tests.models.graph_makers import CLASSES, SIZE, details, onnx_model, reference, saved

SMALL = 32  # sides of the network's input


@pytest.fixture(scope="module")
def classifier() -> Iterator[Classifier]:
    with Classifier.load("cifar10", compute_streams=1024) as loaded:
        yield loaded


def bits(result: ImageResult) -> list[tuple[int, str, int]]:
    """What was answered, with the bits of each probability as a float32."""
    return [(each.index, each.label, int(np.float32(each.probability).view(np.uint32))) for each in result.predictions]


def pixels(seed: int, side: int = SMALL) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)


def test_several_threads_and_event_loops_share_one(classifier: Classifier) -> None:
    wanted = {seed: classifier.classify(pixels(seed)).predictions[0].index for seed in range(8)}

    def many(seed: int) -> set[int]:
        return {result.predictions[0].index for result in classifier.classify_all(pixels(seed) for _ in range(20))}

    async def within_a_loop() -> list[int]:
        found = await asyncio.gather(*[asyncio.to_thread(classifier.classify, pixels(seed)) for seed in range(8)])
        here = classifier.classify(pixels(0))  # also where a loop runs in this very thread
        return [result.predictions[0].index for result in [*found, here]]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(many, range(8))) == [{wanted[seed]} for seed in range(8)]
    assert asyncio.run(within_a_loop()) == [*wanted.values(), wanted[0]]


def test_larger_images_are_taken_than_a_message_holds(classifier: Classifier) -> None:
    photo = Image.effect_noise((3000, 2500), 50)  # 22.5 MB in colour
    assert classifier.classify(photo).predictions
    assert classifier.classify(np.asarray(photo.convert("RGB"))).predictions


def test_limits_hold_before_an_image_is_read_or_copied(tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    with endless.open("wb") as file:
        file.truncate(1 << 40)
    with Classifier.load("cifar10", max_image_bytes=1000, max_image_pixels=900) as strict:
        for image, reason in (
            (endless, "IMAGE_BYTES_EXCEEDED"),
            (bytes(1001), "IMAGE_BYTES_EXCEEDED"),
            (np.broadcast_to(np.uint8(0), (1 << 20, 1 << 20, 3)), "IMAGE_PIXELS_EXCEEDED"),
            (Image.new("RGB", (31, 31)), "IMAGE_PIXELS_EXCEEDED"),
        ):
            with pytest.raises(ImageRefusedError) as caught:
                strict.classify(image)
            assert caught.value.reason == reason
        assert strict.classify(np.zeros((30, 30, 3), np.uint8)).predictions


@pytest.mark.ci
def test_a_limit_above_that_of_a_server_s_messages_can_be_set() -> None:
    with Classifier.load("cifar10", max_image_bytes=300 << 20, max_image_pixels=200_000_000) as large:
        with pytest.raises(ImageRefusedError) as caught:
            large.classify(bytes(299 << 20))
        assert caught.value.reason == "NOT_AN_IMAGE"
        assert large.classify(np.zeros((9000, 9000, 3), np.uint8)).predictions  # 243 MB
        assert large.describe().limits.max_image_bytes == 300 << 20


def test_a_closed_classifier_refuses_and_closes_again() -> None:
    loaded = Classifier.load("cifar10", runtime="openvino", precision="float32")
    assert loaded.describe().runtime.precision == "float32"
    results = loaded.classify_all(pixels(seed) for seed in range(9))
    first = next(results)
    loaded.close()
    loaded.close()
    assert first.predictions
    with pytest.raises(UnavailableError, match="closed") as caught:
        loaded.classify(pixels(1))
    assert caught.value.reason == "DRAINING"
    assert not loaded._pipeline._thread.is_alive()


def test_a_call_that_is_under_way_is_answered_by_a_close() -> None:
    loaded = Classifier.load("cifar10")
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(loaded.classify, pixels(seed, 2000)) for seed in range(8)]
        loaded.close()
    for call in calls:
        if call.exception() is None:
            assert call.result().predictions
        else:
            assert isinstance(call.exception(), UnavailableError)


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        pytest.param({"port": 1}, TypeError, "no argument 'port'", id="a setting of servers"),
        pytest.param({"max_batch": 1}, TypeError, "max_batch_size", id="a misspelt setting"),
        pytest.param({"runtime": "onnx"}, ValueError, "runtime", id="an unknown runtime"),
        pytest.param({"max_image_bytes": 0}, ValueError, "max_image_bytes", id="a limit of nothing"),
        pytest.param({"source": "nowhere"}, ModelLoadError, "nowhere", id="no such weights"),
        pytest.param({"model": "resnet51"}, ModelLoadError, "resnet50", id="no such architecture"),
    ],
)
def test_what_cannot_be_loaded_is_told(arguments: dict[str, Any], error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        Classifier.load(**{"source": "cifar10", **arguments})


def test_a_bundle_s_folder_is_loaded_and_gives_the_same_bits(classifier: Classifier, cat_photo: Path) -> None:
    with Classifier.load(ROOT / "models" / "bundles" / "se_resnet20_cifar10", compute_streams=1024) as own:
        assert bits(own.classify(cat_photo)) == bits(classifier.classify(cat_photo))


def test_a_graph_is_loaded_with_labels_and_recipe_from_elsewhere(tmp_path: Path) -> None:
    file = saved(onnx_model(), tmp_path / "graph", labels=None, recipe=None)
    details(tmp_path)
    with pytest.raises(ModelLoadError, match="needs a recipe") as caught:
        Classifier.load(file)
    assert any("Classifier.load(recipe=...)" in note for note in caught.value.__notes__)
    image = pixels(3, SIZE)
    with Classifier.load(
        file, labels=tmp_path / "labels.txt", recipe=str(tmp_path / "recipe.toml"), precision="float32"
    ) as own:
        found = own.classify(image, top_k=CLASSES).predictions
    scaled = ((image.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[np.newaxis]
    wanted = reference(onnx_model(), scaled)[0]
    assert {each.index: each.probability for each in found} == pytest.approx(dict(enumerate(wanted)), abs=1e-5)
    assert found[0].label == f"class {wanted.argmax()}"


def test_it_is_not_pickled_and_says_what_to_do(classifier: Classifier) -> None:
    with pytest.raises(TypeError, match=r"Call Classifier\.load\(\) in each process"):
        pickle.dumps(classifier)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_told_to_load_its_own(classifier: Classifier) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            classifier.classify(pixels(1))
        except RuntimeError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:  # noqa: PTH123 - a descriptor
        assert b"Load a classifier in each process" in told.read()
    os.waitpid(child, 0)


PROGRAM = """
import logging, sys
import glimpse
assert "glimpse.server" not in sys.modules and "numpy" not in sys.modules
classifier = glimpse.Classifier.load("cifar10")
print(classifier.classify("docs/chelsea.jpg").predictions[0].label)
loaded = {"grpc", "google.protobuf", "keras", "tensorflow", "starlette"} & set(sys.modules)
assert not loaded, loaded
import subprocess
assert not subprocess.run(["ps", "--ppid", str(__import__("os").getpid()), "-o", "comm="], capture_output=True,
                          text=True).stdout.replace("ps", "").strip()
"""


@pytest.mark.ci
def test_a_program_stays_quiet_and_ends_without_a_close() -> None:
    """A model that is converted already needs neither gRPC nor a framework, nor another process."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "src", "GLIMPSE_WEIGHTS": "nowhere", "GLIMPSE_RUNTIME": "none of them"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("cat\n", "", 0)


@pytest.mark.ci
def test_images_are_decoded_in_processes_where_that_is_wanted(cat_photo: Path, classifier: Classifier) -> None:
    with Classifier.load("cifar10", decode_in="processes", decode_threads=1) as isolating:
        assert bits(isolating.classify(cat_photo)) == bits(classifier.classify(cat_photo))


def test_a_dropped_classifier_ends_its_threads() -> None:
    loaded = Classifier.load("cifar10")
    thread = loaded._pipeline._thread
    assert loaded.classify(pixels(1)).predictions
    del loaded
    thread.join(60)
    assert not thread.is_alive()


def test_room_is_for_so_many_images_and_bytes_and_always_for_one() -> None:
    room, entered = InFlightLimit(2, 100), threading.Event()
    room.take(1000)

    def second() -> None:
        room.take(1)
        entered.set()

    waiting = threading.Thread(target=second)
    waiting.start()
    assert not entered.wait(0.05)
    room.give_back(1000)
    waiting.join(60)
    assert entered.is_set()
    room.take(99)
    assert not room.take(1, 0.01)
    room.give_back(99)
    assert room.take(1, 0.01)


def test_who_waits_for_room_asks_whether_the_device_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the device has begun gives its room back only if somebody refuses it, where the device hangs."""
    with Classifier.load("cifar10") as loaded:
        pipeline, asked = loaded._pipeline, threading.Event()
        room = pipeline._room = InFlightLimit(1, 1)
        monkeypatch.setattr("glimpse.server.in_process.pipeline_thread._LOOKING_SECONDS", 0.01)
        room.take(1)

        def trouble() -> None:
            if not asked.is_set():
                asked.set()
                room.give_back(1)  # as what is refused does

        monkeypatch.setattr(pipeline.model.batcher, "trouble", trouble)
        assert loaded.classify(pixels(1)).predictions
        assert asked.is_set()


_LOGGING = """
import logging
logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
from glimpse import Classifier
Classifier.load("cifar10").close()
"""


def test_its_log_goes_to_python_s_logging() -> None:
    """In a process of its own, for a server that was in this one has had the log sent elsewhere."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(
        [sys.executable, "-c", _LOGGING], env=environment, check=True, stderr=subprocess.PIPE, text=True
    )
    (line,) = [each for each in ended.stderr.splitlines() if "model loaded" in each]
    assert line.startswith("glimpse.server.loading.loading: ")
