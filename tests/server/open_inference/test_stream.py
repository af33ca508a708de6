"""Streams of the Open Inference Protocol: answered in the order of their requests, which need no ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from glimpse.server.open_inference import open_inference_pb2 as pb
from tests.server.conftest import TIMEOUT
from tests.server.open_inference.caller import OpenInferenceCaller, numbers, occupy, photos, pixels
from tests.server.rig import SIZE, Rig

ARRAY = np.zeros((1, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with pytest.MonkeyPatch.context() as patch:
        running = Rig(patch, batch_sizes=(1,))
        yield running
        running.close()


def test_answers_come_in_the_order_of_the_requests(caller: OpenInferenceCaller, file: Callable[[int], bytes]) -> None:
    """Whatever their ids: several clients send none, or the same for all."""
    requests = [photos(file(seed), id="same" if seed % 2 else "") for seed in range(12)]
    expected = [numbers(caller.infer(each)) for each in requests]
    answers = list(caller.stream(requests))
    assert [each.error_message for each in answers] == [""] * 12
    assert [each.infer_response.id for each in answers] == [each.id for each in requests]
    for answer, values in zip(answers, expected, strict=True):
        np.testing.assert_allclose(numbers(answer.infer_response), values, atol=1e-5)


def test_a_request_that_fails_has_its_error_and_the_stream_goes_on(
    caller: OpenInferenceCaller, file: Callable[[int], bytes]
) -> None:
    bad = [
        photos(b"no image", id="a"),
        photos(file(1), model_name="nosuch", id="b"),
        photos(file(1), shape=[9], id="c"),
        photos(file(1), id="d"),
    ]
    bad[3].parameters["top_k"].int64_param = 0
    good = photos(file(1), id="e")
    answers = list(caller.stream([*bad, good]))
    assert [each.infer_response.id for each in answers] == ["a", "b", "c", "d", "e"]
    assert [bool(each.error_message) for each in answers] == [True, True, True, True, False]
    told = [{k: v.string_param for k, v in each.infer_response.parameters.items()} for each in answers[:4]]
    assert told == [
        {"code": "INVALID_ARGUMENT", "reason": "NOT_AN_IMAGE", "field": "raw_input_contents[0][0]"},
        {"code": "NOT_FOUND", "reason": "MODEL_NOT_FOUND", "field": "model_name"},
        {"code": "INVALID_ARGUMENT", "reason": "INVALID_TENSOR", "field": "raw_input_contents[0]"},
        {"code": "INVALID_ARGUMENT", "reason": "TOP_K_OUT_OF_RANGE", "field": "parameters['top_k']"},
    ]
    assert numbers(answers[4].infer_response).shape == (1, 10)


def test_an_answer_waits_for_those_before_it(rig: Rig) -> None:
    """The first request of the stream is computed last."""
    rig.network.hold()
    read: list[str] = []

    def collect(answers: Iterator[pb.ModelStreamInferResponse]) -> None:
        read.extend(each.infer_response.id for each in answers)

    def request(number: int) -> pb.ModelInferRequest:
        asked = pixels(ARRAY, id=str(number))
        asked.parameters["priority"].uint64_param = 1 if number else 9
        return asked

    with grpc.insecure_channel(rig.target) as channel, ThreadPoolExecutor(16) as pool:
        caller = OpenInferenceCaller(channel)
        busy = occupy(rig, lambda: pool.submit(caller.infer, pixels(ARRAY)))
        reading = pool.submit(collect, caller.stream(request(number) for number in range(4)))
        rig.wait_until(lambda: rig.gauge("glimpse_images_in_flight") == busy + 4)
        rig.network.let(busy + 3)
        rig.wait_until(lambda: rig.gauge("glimpse_images_total", outcome="classified") == busy + 3)
        assert read == []
        rig.network.let()
        reading.result(TIMEOUT)
    assert read == ["0", "1", "2", "3"]
    rig.wait_until(lambda: not any(rig.held().values()))
