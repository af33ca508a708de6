"""Many callers at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of


def test_of_200_callers_good_images_get_their_answers_and_bad_ones_their_errors(
    start_server: Callable[..., RunningServer], picture: Callable[[int], pb.Image]
) -> None:
    """Of 200 callers, every good image gets its answer, and every bad one its error."""
    server = start_server()  # of its own: it counts every batch
    server.wait_for("serving")

    def caller(number: int) -> str:
        image = pb.Image(encoded=b"not an image") if number % 10 == 0 else picture(number)
        # A connection each, as separate clients have.
        with grpc.insecure_channel(server.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            request = pb.ClassifyRequest(images=[image])
            result = ImageClassifierStub(channel).Classify(request, timeout=TIMEOUT, wait_for_ready=True).results[0]
        return result.error.reason or f"{len(result.predictions)} predictions"

    with ThreadPoolExecutor(200) as callers:
        outcomes = list(callers.map(caller, range(200)))
    assert outcomes == ["NOT_AN_IMAGE" if number % 10 == 0 else "5 predictions" for number in range(200)]

    metrics = metrics_of(server)
    batches = metrics["glimpse_batch_size_count"]
    assert metrics["glimpse_batch_size_sum"] == 180
    assert batches < 180, "no batch was ever formed"
    assert metrics['glimpse_batch_size_bucket{le="1.0"}'] < batches, "every batch held a single image"
    assert metrics["glimpse_images_in_flight"] == 0
