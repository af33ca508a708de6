"""Classify on the real server: good answers, and what bad input gets."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from PIL import Image

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.conftest import TIMEOUT, rich_status

Picture = Callable[[int], pb.Image]


def classify(
    stub: ImageClassifierStub, *images: pb.Image, top_k: int | None = None, min_probability: float = 0.0
) -> pb.ClassifyResponse:
    options = pb.ClassifyOptions(top_k=top_k, min_probability=min_probability)
    request = pb.ClassifyRequest(images=images, options=options)
    return stub.Classify(request, timeout=TIMEOUT)


def test_a_photo_of_a_cat_is_a_cat(stub: ImageClassifierStub, cat_photo: Path) -> None:
    answer = classify(stub, pb.Image(encoded=cat_photo.read_bytes()))
    best = answer.results[0].predictions[0]
    assert (best.label, best.index) == ("cat", 3)
    assert (answer.model.name, answer.model.version) == ("se_resnet20_cifar10", "1")
    assert answer.model.weights_digest.startswith("sha256:")


def test_probabilities_fall_and_add_up_to_one(stub: ImageClassifierStub, picture: Picture) -> None:
    predictions = classify(stub, picture(1), top_k=10).results[0].predictions
    values = [p.probability for p in predictions]
    assert values == sorted(values, reverse=True)
    assert math.isclose(sum(values), 1, abs_tol=1e-5)
    assert sorted(p.index for p in predictions) == list(range(10))


def test_five_predictions_unless_asked_otherwise(stub: ImageClassifierStub, picture: Picture) -> None:
    assert len(classify(stub, picture(1)).results[0].predictions) == 5
    assert len(classify(stub, picture(1), top_k=1).results[0].predictions) == 1


def test_a_minimum_probability_may_leave_nothing_and_is_no_error(stub: ImageClassifierStub, picture: Picture) -> None:
    result = classify(stub, picture(1), min_probability=1.0).results[0]
    assert not result.predictions
    assert not result.HasField("error")


def test_raw_pixels_get_the_answer_of_the_file_they_came_from(stub: ImageClassifierStub, cat_photo: Path) -> None:
    photo = Image.open(cat_photo)
    png = io.BytesIO()
    photo.save(png, "PNG")
    raw = pb.Image(raw=pb.RawPixels(height=photo.height, width=photo.width, data=photo.tobytes()))
    results = classify(stub, raw, pb.Image(encoded=png.getvalue())).results
    for ours, theirs in zip(results[0].predictions, results[1].predictions, strict=True):
        assert ours.index == theirs.index
        assert math.isclose(ours.probability, theirs.probability, abs_tol=1e-5)


def test_results_come_in_the_order_of_the_images(stub: ImageClassifierStub, picture: Picture) -> None:
    images = [picture(seed) for seed in range(40)]
    together = classify(stub, *images, top_k=10).results
    for image, result in zip(images, together, strict=True):
        alone = classify(stub, image, top_k=10).results[0]
        for ours, theirs in zip(result.predictions, alone.predictions, strict=True):
            assert math.isclose(ours.probability, theirs.probability, abs_tol=1e-4)


def test_the_reply_tells_where_the_time_went(stub: ImageClassifierStub, picture: Picture) -> None:
    timing = classify(stub, picture(1)).results[0].timing
    assert timing.decode_seconds > 0
    assert timing.pre_stem_seconds > 0
    assert timing.queue_seconds >= 0
    assert timing.compute_seconds > 0
    assert timing.batch_size == 1


def test_the_images_of_a_request_ride_together(stub: ImageClassifierStub, picture: Picture) -> None:
    results = classify(stub, *(picture(seed) for seed in range(32))).results
    assert max(result.timing.batch_size for result in results) > 1


BAD_IMAGES = {
    "empty": (pb.Image(encoded=b""), "EMPTY_IMAGE"),
    "no source": (pb.Image(), "EMPTY_IMAGE"),
    "text": (pb.Image(encoded=b"This is not a photo."), "NOT_AN_IMAGE"),
    "a PDF": (pb.Image(encoded=b"%PDF-1.7\n"), "UNSUPPORTED_FORMAT"),
    "too many bytes": (pb.Image(encoded=bytes(12 * 1024 * 1024 + 1)), "IMAGE_BYTES_EXCEEDED"),
    "raw pixels of the wrong length": (
        pb.Image(raw=pb.RawPixels(height=2, width=2, data=bytes(11))),
        "RAW_PIXELS_MISMATCH",
    ),
    "too many raw pixels": (pb.Image(raw=pb.RawPixels(height=2**31, width=2**31)), "IMAGE_PIXELS_EXCEEDED"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_gets_its_own_error_and_its_neighbours_their_answers(
    stub: ImageClassifierStub, picture: Picture, name: str
) -> None:
    bad, reason = BAD_IMAGES[name]
    before, result, after = classify(stub, picture(1), bad, picture(2)).results
    assert (result.error.code, result.error.reason) == (3, reason)
    assert result.error.message
    assert not result.predictions
    for neighbour in (before, after):
        assert len(neighbour.predictions) == 5
        assert not neighbour.HasField("error")


def test_a_truncated_photo_is_refused_as_truncated(stub: ImageClassifierStub, cat_photo: Path) -> None:
    data = cat_photo.read_bytes()
    result = classify(stub, pb.Image(encoded=data[: len(data) // 2])).results[0]
    assert (result.error.code, result.error.reason) == (3, "TRUNCATED_IMAGE")


SMALL = pb.Image(raw=pb.RawPixels(height=1, width=1, data=b"abc"))
BAD_REQUESTS = {
    "no images": (pb.ClassifyRequest(), grpc.StatusCode.INVALID_ARGUMENT, "NO_IMAGES"),
    "too many images": (pb.ClassifyRequest(images=[SMALL] * 65), grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_IMAGES"),
    "top_k of 0": (
        pb.ClassifyRequest(images=[SMALL], options=pb.ClassifyOptions(top_k=0)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "TOP_K_OUT_OF_RANGE",
    ),
    "top_k of 10,000": (
        pb.ClassifyRequest(images=[SMALL], options=pb.ClassifyOptions(top_k=10_000)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "TOP_K_OUT_OF_RANGE",
    ),
    "a probability of NaN": (
        pb.ClassifyRequest(images=[SMALL], options=pb.ClassifyOptions(min_probability=math.nan)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "MIN_PROBABILITY_OUT_OF_RANGE",
    ),
    "an unknown model": (
        pb.ClassifyRequest(images=[SMALL], model=pb.ModelSelector(name="vgg16")),
        grpc.StatusCode.NOT_FOUND,
        "MODEL_NOT_FOUND",
    ),
    "an unknown version": (
        pb.ClassifyRequest(images=[SMALL], model=pb.ModelSelector(name="se_resnet20_cifar10", version="9")),
        grpc.StatusCode.NOT_FOUND,
        "MODEL_NOT_FOUND",
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_ends_with_a_status_that_programs_can_switch_on(stub: ImageClassifierStub, name: str) -> None:
    request, code, reason = BAD_REQUESTS[name]
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(request, timeout=TIMEOUT)
    status, info = rich_status(refused.value)
    assert refused.value.code() is code
    assert (info.reason, info.domain) == (reason, "glimpse")
    assert status.message == refused.value.details()


def test_a_message_above_the_limit_is_refused_and_the_connection_goes_on(
    stub: ImageClassifierStub, picture: Picture
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        classify(stub, pb.Image(encoded=bytes(17 * 1024 * 1024)))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert classify(stub, picture(1)).results[0].predictions


def test_an_expired_deadline_is_deadline_exceeded(stub: ImageClassifierStub, picture: Picture) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(pb.ClassifyRequest(images=[picture(1)] * 64), timeout=0.001)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_callers_request_id_comes_back(stub: ImageClassifierStub, picture: Picture) -> None:
    _, call = stub.Classify.with_call(
        pb.ClassifyRequest(images=[picture(1)]), timeout=TIMEOUT, metadata=(("x-request-id", "mine-1"),)
    )
    assert ("x-request-id", "mine-1") in [tuple(pair) for pair in call.trailing_metadata()]


@pytest.mark.parametrize("name", ["x" * 100_000, "\u4f60" * 50_000], ids=["ASCII", "not ASCII"])
def test_a_name_of_any_length_is_not_found_and_repeated_only_in_part(stub: ImageClassifierStub, name: str) -> None:
    request = pb.ClassifyRequest(images=[SMALL], model=pb.ModelSelector(name=name))
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(request, timeout=TIMEOUT)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(rich_status(refused.value)[0].message) < 300


@pytest.mark.parametrize("sent", ["x" * 129, ""])
def test_a_request_id_that_cannot_be_is_replaced(stub: ImageClassifierStub, picture: Picture, sent: str) -> None:
    _, call = stub.Classify.with_call(
        pb.ClassifyRequest(images=[picture(1)]), timeout=TIMEOUT, metadata=(("x-request-id", sent),)
    )
    (found,) = (value for key, value in call.trailing_metadata() if key == "x-request-id")
    assert found != sent
    assert len(found) == 32
