"""Samples and feedback over the wire: a whole server, with one process and with two workers."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import skimage.data
from PIL import ExifTags, Image

from glimpse import Client
from glimpse.client import AccessDeniedError, FeedbackResult, TrueClass
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of, rich_status
from tests.server.open_inference.caller import OpenInferenceCaller, photos
from tests.variations import ONE_PROCESS_AND_TWO_WORKERS

MODEL = 'model="se_resnet20_cifar10"'
Start = Callable[..., RunningServer]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server of most tests keeps its samples."""
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="module")
def running(kept: Path) -> Iterator[RunningServer]:
    """A server that keeps every image and takes everybody's feedback."""
    server = RunningServer("--feedback=*", f"--samples={kept}", "--samples-share=1", "--http-port=0")
    server.wait_for("serving")
    yield server
    server.close()


def started(start_server: Start, folder: Path | None, *arguments: str, feedback: str = "*") -> RunningServer:
    samples = [] if folder is None else [f"--samples={folder}"]
    running = start_server(f"--feedback={feedback}", *samples, *arguments)
    running.wait_for("serving")
    return running


def photo(seed: int = 0) -> bytes:
    """A JPEG of a part of a cat, which says where it was taken."""
    left = int(np.random.default_rng(seed).integers(0, 100))
    fields = Image.Exif()
    fields.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAreaInformation] = b"at home"
    file = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()[:250, left : left + 250]).save(file, "JPEG", exif=fields)
    return file.getvalue()


def sides(folder: Path) -> list[dict[str, Any]]:
    """What the JSON files say."""
    return [json.loads(each.read_text()) for each in sorted(folder.glob("*.json"))]


def wait(running: RunningServer, condition: Callable[[], bool]) -> None:
    """Wait for something that comes about while the server goes on."""
    for _ in range(3000):
        if condition():
            return
        metrics_of(running)
    raise AssertionError("it did not come about")


@pytest.mark.parametrize("start_server", ONE_PROCESS_AND_TWO_WORKERS, indirect=True)
def test_a_sample_is_kept_and_gets_its_true_class(tmp_path: Path, start_server: Start) -> None:
    """Also where the feedback comes to another worker than the request."""
    running = started(start_server, tmp_path, "--samples-share=1", "--samples-reasons=random")
    with Client(running.target) as client:
        result = client.classify(photo())
        pixels = client.classify(np.zeros((7, 5, 3), np.uint8))
    wait(running, lambda: len(sides(tmp_path)) == 2)
    side = next(each for each in sides(tmp_path) if each["request_id"] == result.request_id)
    assert result.model is not None
    assert side["model"]["weights_digest"] == result.model.weights_digest
    assert [each["label"] for each in side["first"]] == [each.label for each in result.predictions]
    assert side["reasons"] == ["random"]
    assert side["true_class"] is None
    kept = (tmp_path / side["file"]).read_bytes()
    assert b"at home" not in kept
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept))), np.asarray(Image.open(io.BytesIO(photo()))))
    assert not {"127.0.0.1", "at home"} & set("".join(each.read_text("latin-1") for each in tmp_path.iterdir()).split())
    outcomes = []
    for _ in range(6):  # a connection each, so that both workers are asked
        with Client(running.target) as client:
            outcomes += client.feedback([TrueClass(result, result.predictions[0].label)])
    assert outcomes == [FeedbackResult("first", sampled=True), *[FeedbackResult("repeated", sampled=True)] * 5]
    with Client(running.target) as client:
        wrong = client.feedback([TrueClass(pixels, pixels.predictions[-1].label)])
    assert wrong == [FeedbackResult("among_five", sampled=True)]
    assert {each["true_class"] for each in sides(tmp_path)} == {
        result.predictions[0].label,
        pixels.predictions[-1].label,
    }
    wait(running, lambda: metrics_of(running)['glimpse_feedback_refused_total{reason="repeated"}'] == 5)
    found = metrics_of(running)
    assert found['glimpse_samples_total{reason="random"}'] == 2
    assert found["glimpse_samples_images"] == 2
    outcomes_of = {
        each: found[f'glimpse_feedback_images_total{{{MODEL},outcome="{each}",version="1"}}']
        for each in ("first", "among_five", "other")
    }
    assert outcomes_of == {"first": 1, "among_five": 1, "other": 0}


def test_feedback_says_of_each_image_what_became_of_it(running: RunningServer) -> None:
    with Client(running.target) as client:
        results = [result for _, result in client.classify_many((each, photo(each)) for each in range(5))]
        assert len({each.request_id for each in results}) == 5
        names = [{each.label for each in result.predictions} for result in results]
        classes = [each.label for each in client.describe().classes]
        missed = next(each for each in classes if each not in names[1])
        told = client.feedback(
            [
                TrueClass(results[0], results[0].predictions[0].label.upper()),
                TrueClass(results[1], missed),
                TrueClass(results[2], "griffin"),
                TrueClass(results[2], "griffin", new_class=True),
                TrueClass(results[3], str(results[3].predictions[1].index)),
                TrueClass("nobody", "cat"),
                TrueClass(results[4], "cat", image=1),
            ]
        )
        assert [each.outcome for each in told] == [
            *("first", "other", "unknown_class", "other", "among_five", "unknown_request", "unknown_request")
        ]
        assert [each.sampled for each in told] == [each.outcome in {"first", "other", "among_five"} for each in told]
        many = client.feedback([TrueClass("nobody" * 9, "cat")] * 150)
        assert len(many) == 150


def test_nothing_is_kept_and_no_id_is_told_unless_it_is_asked_for(server: RunningServer) -> None:
    with Client(server.target) as client:
        result = client.classify(photo())
        assert result.request_id == ""
        with pytest.raises(ValueError, match="GLIMPSE_FEEDBACK"):
            client.feedback([TrueClass(result, "cat")])
        with pytest.raises(AccessDeniedError, match="GLIMPSE_FEEDBACK is not set"):
            client.feedback([TrueClass("0", "cat")])


def test_feedback_is_bounded_and_refused_by_reasons(running: RunningServer) -> None:
    with grpc.insecure_channel(running.target) as channel:
        stub = ImageClassifierStub(channel)
        for images, reason in ((0, "NO_IMAGES"), (65, "TOO_MANY_IMAGES")):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Feedback(pb.FeedbackRequest(images=[pb.TrueClass(request_id="1")] * images), timeout=TIMEOUT)
            assert rich_status(refused.value)[1].reason == reason
        with pytest.raises(grpc.RpcError, match="4096"):
            stub.Feedback(pb.FeedbackRequest(images=[pb.TrueClass(request_id="1" * 5000)]), timeout=TIMEOUT)


def test_feedback_over_http_is_the_same(running: RunningServer) -> None:
    url = f"http://{running.http}"

    def post(path: str, body: bytes) -> Any:
        with urllib.request.urlopen(urllib.request.Request(url + path, body), timeout=TIMEOUT) as answer:  # noqa: S310
            return json.load(answer)

    answer = post("/classify", photo())
    label = answer["results"][0]["predictions"][0]["label"]
    given = {
        "images": [{"request_id": answer["request_id"], "true_class": label}, {"request_id": "x", "true_class": "cat"}]
    }
    assert post("/feedback", json.dumps(given).encode()) == {
        "results": [{"outcome": "first", "sampled": True}, {"outcome": "unknown_request", "sampled": False}]
    }
    for wrong in ({"images": [{"request_id": "1"}]}, {"images": [{"request_id": "1", "true_class": "cat", "x": 1}]}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            post("/feedback", json.dumps(wrong).encode())
        assert refused.value.code == 400
        refused.value.close()  # it holds the connection
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=TIMEOUT) as answered:  # noqa: S310 - our own server
        assert "/feedback" in json.load(answered)["paths"]


def test_answers_to_calls_of_one_id_are_told_apart(running: RunningServer, kept: Path) -> None:
    """Two callers, or one of them twice, send the same `x-request-id`: it labels the sample of neither."""
    headers = (("x-request-id", "mine"),)
    with grpc.insecure_channel(running.target) as channel:
        classify = ImageClassifierStub(channel).Classify
        requests = [pb.ClassifyRequest(images=[pb.Image(encoded=photo(seed))]) for seed in (1, 2)]
        first, second = [classify(each, metadata=headers, timeout=TIMEOUT).request_id for each in requests]
        infer = OpenInferenceCaller(channel, headers).infer(photos(photo(3)))
        third = infer.parameters["request_id"].string_param
    url = f"http://{running.http}/v1/models/se_resnet20_cifar10:predict"
    body = json.dumps({"instances": [{"b64": base64.b64encode(photo(4)).decode()}]}).encode()
    asked = urllib.request.Request(url, body, dict(headers))
    with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:  # noqa: S310
        fourth = json.load(answer)["request_id"]
    url = f"http://{running.http}/v2/models/se_resnet20_cifar10/infer"
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(photo(5)).decode()]}
    asked = urllib.request.Request(url, json.dumps({"inputs": [tensor]}).encode(), dict(headers))  # noqa: S310
    with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:  # noqa: S310
        fifth = json.load(answer)["parameters"]["request_id"]
    ids = [first, second, third, fourth, fifth]
    assert len({each for each in ids if each.startswith("mine.")}) == 5
    with Client(running.target) as client:
        assert client.feedback([TrueClass("mine", "cat")]) == [FeedbackResult("unknown_request", sampled=False)]
        told = client.feedback([TrueClass(each, "griffin", new_class=True) for each in ids[1:]])
    assert told == [FeedbackResult("other", sampled=True)] * 4
    found = {each["request_id"]: each["true_class"] for each in sides(kept) if each["request_id"] in ids}
    assert found == {first: None, **dict.fromkeys(ids[1:], "griffin")}


def test_a_folder_that_cannot_be_used_costs_nobody_an_answer(tmp_path: Path, start_server: Start) -> None:
    (tmp_path / "file").write_text("")
    running = started(start_server, tmp_path / "file" / "samples", "--samples-share=1")
    with Client(running.target) as client:
        for number in range(3):
            result = client.classify(photo(number))
            assert client.feedback([TrueClass(result, result.predictions[0].label)])[0].outcome == "first"
    wait(running, lambda: metrics_of(running)['glimpse_samples_dropped_total{cause="disk"}'] == 3)
    assert len([line for line in running.log if line["event"] == "samples are lost"]) == 1


def test_feedback_finds_an_answer_that_only_the_sample_remembers(tmp_path: Path, start_server: Start) -> None:
    """As of a server that was started again."""
    running = started(start_server, tmp_path, "--samples-share=1")
    with Client(running.target) as client:
        result = client.classify(photo())
    wait(running, lambda: len(sides(tmp_path)) == 1)
    running.terminate()
    assert running.exit_code() == 0
    running = started(start_server, tmp_path)
    with Client(running.target) as client:
        given = TrueClass(result, result.predictions[0].label)
        assert client.feedback([given, given]) == [
            FeedbackResult("first", sampled=True),
            FeedbackResult("repeated", sampled=True),
        ]
    assert metrics_of(running)[f'glimpse_feedback_images_total{{{MODEL},outcome="first",version="1"}}'] == 1
