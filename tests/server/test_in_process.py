"""`glimpse.Classifier`: the server's answers without a server."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glimpse import Classifier, Client, ImageRefusedError, ImageResult, InvalidRequestError, UnavailableError
from glimpse.server.in_process.room import Room
from glimpse.server.startup import ModelLoadError
from tests.conftest import ROOT, RunningServer
from tests.models.graph_makers import CLASSES, SIZE, details, onnx_model, reference, saved
from tests.variations import mostly_in_ci

SMALL = 32  # sides of the network's input


@pytest.fixture(scope="module")
def classifier() -> Iterator[Classifier]:
    with Classifier.load("cifar10") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target) as calling:
        yield calling


def bits(result: ImageResult) -> list[tuple[int, str, int]]:
    """What was answered, with the bits of each probability as a float32."""
    return [(each.index, each.label, int(np.float32(each.probability).view(np.uint32))) for each in result.predictions]


def pixels(seed: int, side: int = SMALL) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)


def unthreaded(result: ImageResult) -> dict[str, Any]:
    """A result without its times, which differ at every turn."""
    return {each.name: getattr(result, each.name) for each in fields(result) if each.name != "timing"}


@pytest.mark.parametrize("geometry", mostly_in_ci(["", "letterbox"], ""))
def test_each_way_of_giving_an_image_gets_the_server_s_bits(
    classifier: Classifier, start_server: Any, client: Client, cat_photo: Path, geometry: str
) -> None:
    photo = Image.open(cat_photo)
    ways: list[Any] = [
        cat_photo,
        str(cat_photo),
        cat_photo.read_bytes(),
        photo,
        np.asarray(photo),
        np.asarray(photo.convert("L")),
    ]
    if geometry:
        running = start_server(f"--allow-geometries={geometry}")
        running.wait_for("serving")
        client = Client(running.target)
    for image in ways:
        wanted = client.classify(image, top_k=10, geometry=geometry)
        found = classifier.classify(image, top_k=10, geometry=geometry)
        assert bits(found) == bits(wanted)
        assert unthreaded(found) == unthreaded(wanted)
        assert found.timing is not None
        assert found.timing.batch_size == 1
        assert found.timing.total_seconds > 0


def test_it_describes_itself_as_the_server_does(classifier: Classifier, client: Client) -> None:
    found, wanted = classifier.describe(), client.describe()
    assert (found.model, found.classes, found.pre_stem, found.runtime) == (
        wanted.model,
        wanted.classes,
        wanted.pre_stem,
        wanted.runtime,
    )
    assert set(found.limits.geometries) == {"crop", "squash", "letterbox", "pad"}


def test_a_bad_image_has_the_server_s_error_alone_and_in_a_list(classifier: Classifier, client: Client) -> None:
    bad = [b"", b"no photo", b"\x89PNG\r\n\x1a\n" + bytes(20), b"II*\x00" + bytes(100), b"\xff\xd8\xff" + bytes(9)]
    for image in bad:
        with pytest.raises(ImageRefusedError) as wanted:
            client.classify(image)
        with pytest.raises(ImageRefusedError) as found:
            classifier.classify(image)
        assert (found.value.code, found.value.reason, found.value.message) == (
            wanted.value.code,
            wanted.value.reason,
            wanted.value.message,
        )
    good = pixels(1)
    results = classifier.classify([good, *bad, good])
    assert [result.error is None for result in results] == [True, *[False] * len(bad), True]
    assert results[0].predictions


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"top_k": 11},
        {"min_probability": 1.5},
        {"roll_up": 2.0},
        {"allow": ["lion"]},
        {"outputs": ["maps"]},
    ],
)
def test_an_option_out_of_range_has_the_server_s_error(
    classifier: Classifier, client: Client, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequestError) as wanted:
        client.classify(pixels(1), **options)
    for ask in (
        lambda: classifier.classify(pixels(1), **options),
        lambda: classifier.classify([pixels(1)], **options),
        lambda: list(classifier.classify_all([pixels(1)], **options)),
    ):
        with pytest.raises(InvalidRequestError) as found:
            ask()
        assert (found.value.reason, found.value.field) == (wanted.value.reason, wanted.value.field)


def test_embeddings_logits_and_chosen_classes_are_the_server_s(
    classifier: Classifier, client: Client, cat_photo: Path
) -> None:
    asked: dict[str, Any] = {"outputs": ["embedding", "logits"], "allow": ["dog", "cat", "ship"], "deny": ["ship"]}
    found, wanted = classifier.classify(cat_photo, **asked), client.classify(cat_photo, **asked)
    assert unthreaded(found) == unthreaded(wanted)
    assert found.embedding is not None
    assert [each.label for each in found.predictions] == ["cat", "dog"]
    (listed,) = classifier.classify([cat_photo], **asked)
    assert listed.logits == found.logits


@pytest.mark.parametrize("asked", [{"novelty": True}, {"require_known": True}])
def test_what_shows_none_of_the_classes_is_unknown_as_to_the_server(
    classifier: Classifier, client: Client, asked: dict[str, Any]
) -> None:
    found, wanted = classifier.classify(pixels(1), **asked), client.classify(pixels(1), **asked)
    assert unthreaded(found) == unthreaded(wanted)
    assert found.novelty is not None


def test_an_option_that_there_is_not_is_told_with_those_that_there_are(classifier: Classifier) -> None:
    with pytest.raises(TypeError, match=r"no option 'topk'\. There are: top_k, "):
        classifier.classify(pixels(1), topk=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"allow must be a list of names, such as \['cat'\]"):
        classifier.classify_all([pixels(1)], allow="cat")


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        pytest.param({"allow": [3]}, r"allow must be a list of names, such as \['3'\]. Received: \[3\]", id="an index"),
        pytest.param({"top_k": "3"}, "top_k must be a whole number. Received: '3'", id="a text for a number"),
        pytest.param({"roll_up": None}, "roll_up must be a number. Received: None", id="nothing for a number"),
    ],
)
def test_an_option_of_another_kind_is_told(classifier: Classifier, asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        classifier.classify(pixels(1), **asked)


def test_an_unknown_geometry_is_refused_with_those_that_there_are(classifier: Classifier) -> None:
    with pytest.raises(InvalidRequestError, match="crop, letterbox, pad, squash") as caught:
        classifier.classify(pixels(1), geometry="zoom")
    assert caught.value.reason == "GEOMETRY_NOT_ALLOWED"


def test_what_is_no_image_is_an_error_of_the_caller_s_code(classifier: Classifier) -> None:
    with pytest.raises(TypeError, match="int"):
        classifier.classify(5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="uint8"):
        classifier.classify([np.zeros((4, 4, 3), np.float32)])
    with pytest.raises(FileNotFoundError):
        classifier.classify("nowhere.jpg")


def test_files_that_cannot_be_read_are_results_among_others(
    classifier: Classifier, tmp_path: Path, cat_photo: Path
) -> None:
    results = classifier.classify([cat_photo, tmp_path, tmp_path / "nowhere.jpg", cat_photo])
    assert [None if each.error is None else each.error.reason for each in results] == [
        None,
        "NOT_A_FILE",
        "FILE_NOT_FOUND",
        None,
    ]


def test_many_images_keep_their_order_and_their_keys(classifier: Classifier) -> None:
    images = [pixels(seed, side) for seed, side in zip(range(60), itertools.cycle([SMALL, 300, 50]), strict=False)]
    wanted = [classifier.classify(image).predictions[0] for image in images]
    results = list(classifier.classify_many(enumerate(images)))
    assert [key for key, _ in results] == list(range(60))
    for (_, found), alone in zip(results, wanted, strict=True):
        # The last digits of a probability depend on the batch that the image rode in.
        assert found.predictions[0].index == alone.index
        assert found.predictions[0].probability == pytest.approx(alone.probability, abs=5e-3)
    assert max(result.timing.batch_size for _, result in results if result.timing) > 1


def test_no_more_images_are_taken_than_may_be_in_flight(classifier: Classifier) -> None:
    taken = 0

    def endless() -> Iterator[Any]:
        nonlocal taken
        for seed in itertools.count():
            taken += 1
            yield pixels(seed)

    results = classifier.classify_all(endless(), in_flight=5)
    assert taken == 0
    for number in range(1, 20):
        assert next(results).error is None
        assert taken <= number + 5
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert classifier.classify(pixels(1)).predictions  # what was in flight does no harm


def test_a_result_need_not_wait_for_images_that_are_long_in_coming(classifier: Classifier) -> None:
    got: list[ImageResult] = []

    def camera() -> Iterator[Any]:
        yield pixels(0)
        for seed in range(20):  # meanwhile the first image is computed
            classifier.classify(pixels(seed))
        yield pixels(1)
        assert len(got) == 1
        yield pixels(2)

    for result in classifier.classify_all(camera()):
        got.append(result)  # noqa: PERF402 - the camera looks at it meanwhile
    assert len(got) == 3


def test_what_the_iterable_raises_arrives(classifier: Classifier) -> None:
    def broken() -> Iterator[Any]:
        yield pixels(0)
        raise LookupError("the disk is gone")

    with pytest.raises(LookupError, match="the disk is gone"):
        list(classifier.classify_all(broken()))
    with pytest.raises(ValueError, match="in_flight must be at least 1"):
        list(classifier.classify_all([pixels(0)], in_flight=0))


def test_an_array_may_be_changed_as_soon_as_the_next_is_taken(classifier: Classifier) -> None:
    shared = np.zeros((SMALL, SMALL, 3), np.uint8)

    def frames() -> Iterator[Any]:
        for seed in range(20):
            shared[:] = pixels(seed)
            yield shared

    found = [result.predictions[0].index for result in classifier.classify_all(frames())]
    assert found == [classifier.classify(pixels(seed)).predictions[0].index for seed in range(20)]


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
    with Classifier.load(ROOT / "models" / "bundles" / "se_resnet20_cifar10") as own:
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
    room, entered = Room(2, 100), threading.Event()
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
        room = pipeline._room = Room(1, 1)
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
    assert line.startswith("glimpse.server.loading: ")
