"""The same photo gets the same probabilities over every protocol and without one, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from glimpse import Classifier
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of
from tests.server.http.asking import V1, V2, ask, binary, form, inference, instances, post
from tests.variations import ONE_PROCESS_AND_TWO_WORKERS

CLASSES = 10


@pytest.fixture(scope="module", params=ONE_PROCESS_AND_TWO_WORKERS)
def running(request: pytest.FixtureRequest, server: RunningServer) -> Iterator[RunningServer]:
    """A server with an HTTP port, of one process or of several."""
    if request.param == 1:
        yield server
        return
    started = RunningServer("--http-port=0", f"--workers={request.param}")
    try:
        started.wait_for("serving", seconds=280)
        yield started
    finally:
        started.close()


def bits(pairs: dict[int, float]) -> list[int]:
    """The probabilities of all classes, as the bits of float32."""
    values = np.array([pairs[index] for index in range(CLASSES)])
    assert (values == values.astype(np.float32)).all(), "more digits than float32 has"
    return [int(each) for each in values.astype(np.float32).view(np.uint32)]


def of_results(results: list[dict[str, list[dict[str, float]]]]) -> list[int]:
    (result,) = results
    return bits({int(each["index"]): each["probability"] for each in result["predictions"]})


def test_all_protocols_and_a_classifier_give_the_same_bits(running: RunningServer, cat_photo: Path) -> None:
    photo = cat_photo.read_bytes()
    port = int(running.http.rpartition(":")[2])
    with grpc.insecure_channel(running.target) as channel:
        request = pb.ClassifyRequest(images=[pb.Image(encoded=photo)], options=pb.ClassifyOptions(top_k=CLASSES))
        answer = ImageClassifierStub(channel).Classify(request, timeout=TIMEOUT)
    wanted = bits({each.index: each.probability for each in answer.results[0].predictions})
    with Classifier.load("cifar10", compute_streams=1024) as classifier:
        alone = classifier.classify(photo, top_k=CLASSES)
    assert bits({each.index: each.probability for each in alone.predictions}) == wanted
    body, headers = form(("image", photo, "photo.jpg"), ("top_k", str(CLASSES).encode(), ""))
    assert of_results(ask(port, f"/classify?top_k={CLASSES}", photo).json["results"]) == wanted
    assert of_results(ask(port, "/classify", body, headers).json["results"]) == wanted
    asked = instances(photo, parameters={"top_k": CLASSES})
    assert of_results(post(port, V1, asked).json["predictions"]) == wanted
    (output,) = post(port, V2, inference(photo)).json["outputs"]
    assert bits(dict(enumerate(output["data"]))) == wanted
    body, headers = binary(photo, parameters={"binary_data_output": True})
    raw = ask(port, V2, body, headers)
    values = np.frombuffer(raw.body[int(raw.headers["inference-header-content-length"]) :], "<u4")
    assert values.tolist() == wanted


def test_calls_over_http_are_in_the_metrics_of_the_server(running: RunningServer, cat_photo: Path) -> None:
    port = int(running.http.rpartition(":")[2])
    name = 'grpc_server_handled_total{grpc_code="OK",grpc_method="Classify",grpc_service="http",grpc_type="unary"}'
    before = metrics_of(running).get(name, 0.0)
    for _ in range(8):  # of several workers, the kernel chooses one for each connection
        assert ask(port, "/classify", cat_photo.read_bytes()).status == 200
    assert metrics_of(running)[name] == before + 8
