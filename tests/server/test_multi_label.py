"""Multi-label and binary models on a server: what every protocol tells, and which options are refused."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glimpse.client import Client, FeedbackResult, InvalidRequestError, TrueClass
from glimpse.client.commands.render import facts
from glimpse.models import heads, score_kinds
from glimpse.models.heads import Head
from glimpse.models.outputs import PROBABILITIES
from glimpse.models.sources import ModelSource, resolve
from glimpse.server.answers.class_choice import Classes
from glimpse.server.answers.postprocessing import postprocess
from glimpse.server.domain import ClassChoice
from glimpse.server.processes.startup import GoldenError
from glimpse.server.runtime import agreement
from glimpse.server.runtime.golden_check import GoldenCheck
from glimpse.server.runtime.graph_conversion import convert_graph
from glimpse.server.runtime.openvino_graphs import compiled
from glimpse.v1 import classifier_pb2 as pb
from tests.conftest import CACHE, RunningServer
from tests.models import keras_makers
from tests.models.graph_makers import CLASSES, RECIPE, SIZE, onnx_model, reference, saved
from tests.server.open_inference.caller import OpenInferenceCaller, numbers, photos

THRESHOLDS = [0.5, 0.0, 1.0, 0.5]  # label 1 is always told, label 2 hardly ever
MULTI_LABEL = {**RECIPE, "head": "multi-label", "thresholds": THRESHOLDS}
HEAD = Head(kind="multi-label", temperatures=(1.0,) * 3, offsets=(0.0,) * 3, thresholds=(0.5, 0.25, 0.75))


def scaled(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    images = (pixels.transpose(0, 3, 1, 2).astype(np.float64) - 127.5) / 127.5
    return np.asarray(images, np.float32)


@pytest.fixture(scope="module")
def picture() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def expected(picture: bytes) -> NDArray[np.float32]:
    """The graph's own sigmoids of the picture."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)))[np.newaxis]
    return np.asarray(reference(onnx_model(end="Sigmoid"), scaled(pixels))[0], np.float32)


@pytest.fixture(scope="module")
def multi_label(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a graph with sigmoids, whose recipe states its head and thresholds."""
    path = saved(onnx_model(end="Sigmoid"), tmp_path_factory.mktemp("graph"), recipe=MULTI_LABEL)
    server = RunningServer(f"--weights={path}", "--precision=float32", "--http-port=0", environment={**CACHE})
    server.wait_for("serving")
    yield server
    server.close()


@pytest.mark.parametrize("end", ["Sigmoid", ""])
def test_sigmoids_of_a_graph_are_served_as_they_are(end: str, tmp_path: Path) -> None:
    """Their logits are what is in front of them."""
    made = onnx_model(end=end)
    bundle = resolve(ModelSource(weights=str(saved(made, tmp_path / "graph", recipe=MULTI_LABEL))))
    summary = convert_graph(bundle, tmp_path)
    pixels = score_kinds.pictures(bundle.recipe)
    found = compiled(tmp_path / "network.xml")(pixels)
    own = reference(made, scaled(pixels))
    np.testing.assert_allclose(found[PROBABILITIES], own if end else heads.sigmoid(own), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        found["logits"], reference(made, scaled(pixels), "scores" if end else "answer"), atol=1e-3
    )
    assert summary.output == "logits"


@pytest.mark.parametrize("end", ["Sigmoid", ""])
def test_a_single_score_of_a_graph_is_that_of_the_second_class(end: str, tmp_path: Path) -> None:
    made = onnx_model(end=end, classes=1)
    bundle = resolve(ModelSource(weights=str(saved(made, tmp_path / "graph", labels=2))))
    assert convert_graph(bundle, tmp_path).output == "binary"
    pixels = score_kinds.pictures(bundle.recipe)
    own = reference(made, scaled(pixels))[:, 0]
    second = own if end else heads.sigmoid(own)
    found = compiled(tmp_path / "network.xml")(pixels)[PROBABILITIES]
    np.testing.assert_allclose(found, np.asarray([1 - second, second]).T, rtol=0, atol=1e-5)


def test_a_dense_layer_of_one_unit_is_served_as_keras_computes_it(
    start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    keras.utils.set_random_seed(3)
    made = keras_makers.model(lambda x: keras_makers.trunk(x, 1, activation="sigmoid"))
    path = keras_makers.saved(made, tmp_path / "own", classes=2)
    server = start_server(f"--weights={path}", "--precision=float32")
    server.wait_for("serving")
    with Client(server.target) as client:
        description = client.describe()
        assert (description.head.kind, description.output) == ("binary", "binary")
        for pixels, second in zip(keras_makers.PIXELS, keras_makers.predicted(made)[:, 0], strict=True):
            found = {each.index: each.probability for each in client.classify(pixels).predictions}
            np.testing.assert_allclose([found[0], found[1]], [1 - second, second], rtol=0, atol=1e-5)
            only = client.classify(pixels, allow=["class 1"])
            assert only.predictions[0].probability == pytest.approx(1)
            assert only.predictions[0].over_threshold is None


def test_without_top_k_the_labels_over_their_thresholds_are_told(
    multi_label: RunningServer, picture: bytes, expected: NDArray[np.float32]
) -> None:
    with Client(multi_label.target) as client:
        told = client.classify(picture).predictions
        assert {each.index for each in told} == set(np.flatnonzero(expected >= THRESHOLDS).tolist())
        assert [each.probability for each in told] == sorted((each.probability for each in told), reverse=True)
        assert all(each.over_threshold for each in told)
        every = client.classify(picture, top_k=CLASSES).predictions
    found = {each.index: each for each in every}
    np.testing.assert_allclose([found[i].probability for i in range(CLASSES)], expected, rtol=0, atol=1e-5)
    assert [found[i].over_threshold for i in range(CLASSES)] == (expected >= THRESHOLDS).tolist()
    assert {True, False} == {each.over_threshold for each in every}


def test_a_choice_of_labels_changes_no_probability(
    multi_label: RunningServer, picture: bytes, expected: NDArray[np.float32]
) -> None:
    with Client(multi_label.target) as client:
        result = client.classify(picture, allow=["class 0", "class 2"], top_k=CLASSES)
        assert client.classify(picture, deny=["class 1"], min_probability=1.0).predictions == ()
    assert {each.index for each in result.predictions} == {0, 2}
    for each in result.predictions:
        assert each.probability == pytest.approx(float(expected[each.index]), abs=1e-5)
    assert result.probability_outside is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"roll_up": 0.5}, "ROLL_UP_OUT_OF_RANGE"),
        ({"novelty": True}, "NO_NOVELTY_THRESHOLD"),
        ({"require_known": True}, "NO_NOVELTY_THRESHOLD"),
    ],
)
def test_what_needs_classes_that_exclude_each_other_is_refused(
    options: dict[str, Any], reason: str, multi_label: RunningServer, picture: bytes
) -> None:
    with Client(multi_label.target) as client, pytest.raises(InvalidRequestError, match="multi-label") as refused:
        client.classify(picture, **options)
    assert refused.value.reason == reason


def test_a_description_tells_head_and_thresholds(multi_label: RunningServer) -> None:
    with Client(multi_label.target) as client:
        description = client.describe()
    head, told = description.head, facts(description)
    assert (head.kind, list(head.thresholds)) == ("multi-label", THRESHOLDS)
    assert (head.temperatures, head.offsets) == ((1.0,) * CLASSES, (0.0,) * CLASSES)
    assert told["head"] == "multi-label: an image may show several labels, or none"
    assert told["thresholds"] == "class 0 0.5, class 1 0, class 2 1, class 3 0.5"
    assert "temperature" not in told


def test_json_and_tensors_have_the_probabilities_of_each_label(
    multi_label: RunningServer, picture: bytes, expected: NDArray[np.float32]
) -> None:
    request = urllib.request.Request(f"http://{multi_label.http}/classify?top_k=4", picture)
    with urllib.request.urlopen(request) as response:  # noqa: S310 - our own server
        (told,) = json.load(response)["results"]
    passed = {each["index"]: each["over_threshold"] for each in told["predictions"]}
    assert [passed[i] for i in range(CLASSES)] == (expected >= THRESHOLDS).tolist()
    with grpc.insecure_channel(multi_label.target) as channel:
        found = numbers(OpenInferenceCaller(channel).infer(photos(picture, model_name="model")))
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)


def test_labels_are_told_by_their_thresholds_alone() -> None:
    probabilities = np.array([0.4, 0.3, 0.7], np.float32)
    labels = [pb.ClassLabel(label=name) for name in "abc"]
    arguments: dict[str, Any] = {"min_probability": 0.0, "thresholds": HEAD.limits}
    outputs = {PROBABILITIES: probabilities}
    told, _ = postprocess(outputs, labels, k=3, passed_only=True, **arguments)  # type: ignore[arg-type]  # named alike
    assert [(each.label, each.over_threshold) for each in told] == [("b", True)]
    every, _ = postprocess(outputs, labels, k=2, **arguments)  # type: ignore[arg-type]  # the same
    assert [(each.label, each.over_threshold) for each in every] == [("c", False), ("a", False)]


def test_recorded_answers_of_labels_need_not_add_up_to_1() -> None:
    recorded = np.array([[0.9, 0.8, 0.1]], np.float32)
    check = GoldenCheck(np.zeros((1, 4, 4, 3), np.uint8), ("a",), recorded, disabled=False, head=HEAD)
    check.check(recorded + np.float32(1e-6), runtime="openvino", precision="float32")
    with pytest.raises(GoldenError, match="from 0 to 1"):
        check.check(recorded + 1, runtime="openvino", precision="float32")
    with pytest.raises(GoldenError, match="differs from the recorded one"):
        check.check(np.array([[0.9, 0.2, 0.1]], np.float32), runtime="openvino", precision="float32")


def test_a_precision_earns_its_place_by_the_labels_that_it_tells() -> None:
    """A label near its threshold may change its side, one that is far may not."""
    right = np.array([0.9, 0.26, 0.1], np.float32)
    answers = {"float32": right, "near": right - np.float32(0.02), "far": np.array([0.9, 0.26, 0.8], np.float32)}

    def answer(precision: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(answers[precision], (len(pixels), 1))

    def pictures() -> Iterator[NDArray[np.uint8]]:
        while True:
            yield np.zeros((4, 4, 3), np.uint8)

    def measured(precision: str) -> agreement.Agreement:
        return agreement.measure(answer, pictures(), precision=precision, number=100, thresholds=HEAD.limits)

    assert (measured("near").share, measured("near").sufficient) == (1, True)
    assert (measured("far").share, measured("far").pictures) == (0, 100)
    assert "tells the same labels as float32 for 0 of 100 pictures" in str(measured("far"))


def test_pictures_without_a_clear_label_are_replaced_by_others() -> None:
    """A comparison of 100 pictures would otherwise have too few with a single unclear one."""

    def answer(_: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.where(pixels[:, 0, 0, :1] == 0, HEAD.limits, np.array([0.9, 0.9, 0.1], np.float32))

    pictures = (np.full((4, 4, 3), number % 50, np.uint8) for number in count())
    found = agreement.measure(answer, pictures, precision="int8", number=100, thresholds=HEAD.limits)
    assert (found.same, found.pictures, found.unclear, found.sufficient) == (100, 100, 4, True)


def test_classes_that_may_answer_keep_their_probabilities(tmp_path: Path) -> None:
    bundle = resolve(ModelSource(weights=str(saved(onnx_model(end="Sigmoid"), tmp_path, recipe=MULTI_LABEL))))
    chosen = Classes(bundle).chosen(ClassChoice(deny=("class 1",)))
    found, outside = chosen.probabilities({PROBABILITIES: np.array([0.9, 0.8, 0.7, 0.6], np.float32)})
    assert found.tolist() == pytest.approx([0.9, 0.0, 0.7, 0.6])
    assert outside is None


def test_labels_are_explained_kept_and_told_the_truth_of(tmp_path: Path, picture: bytes) -> None:
    """By occlusion, as any graph; and feedback names one of the labels that an image has."""
    path = saved(onnx_model(end="Sigmoid"), tmp_path / "graph", recipe=MULTI_LABEL)
    folder = tmp_path / "samples"
    arguments = ("--precision=float32", "--feedback=*", f"--samples={folder}", "--samples-share=1")
    server = RunningServer(f"--weights={path}", *arguments, environment={**CACHE})
    try:
        server.wait_for("serving")
        with Client(server.target) as client:
            found = client.classify(picture, explain="auto")
            assert found.explanation is not None
            assert (found.explanation.method, found.explanation.index) == ("occlusion", found.predictions[0].index)
            told = client.feedback([TrueClass(found, found.predictions[0].label)])
            # The sample is in the line of what is written before what is told of it.
            assert told == [FeedbackResult("first", sampled=True)]
    finally:
        server.close()
    (side,) = folder.glob("*.json")
    assert json.loads(side.read_text())["true_class"] == found.predictions[0].label
