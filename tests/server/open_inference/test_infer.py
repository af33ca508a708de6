"""Photos and pixels through the Open Inference Protocol: the same answers as from the project's own API."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from glimpse.v1 import classifier_pb2 as glimpse_pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.conftest import TIMEOUT, rich_status
from tests.server.open_inference.caller import (
    MODEL,
    PIXELS,
    OpenInferenceCaller,
    numbers,
    photos,
    pixels,
    prefixed,
    texts,
    typed,
)

CLASSES = 10
File = Callable[[int], bytes]


def own(stub: ImageClassifierStub, *images: glimpse_pb.Image) -> list[list[float]]:
    """The probabilities of all classes, by index, from the project's own API."""
    options = glimpse_pb.ClassifyOptions(top_k=CLASSES)
    answer = stub.Classify(glimpse_pb.ClassifyRequest(images=images, options=options), timeout=TIMEOUT)
    return [[p.probability for p in sorted(result.predictions, key=lambda p: p.index)] for result in answer.results]


def test_a_photo_gets_the_same_probabilities_to_the_last_bit(
    caller: OpenInferenceCaller, stub: ImageClassifierStub, cat_photo: Path
) -> None:
    response = caller.infer(photos(cat_photo.read_bytes()))
    expected = own(stub, glimpse_pb.Image(encoded=cat_photo.read_bytes()))
    assert numbers(response).tolist() == expected
    assert (response.model_name, response.outputs[0].name) == (MODEL, "probabilities")


def test_pixels_get_the_same_probabilities_to_the_last_bit(
    caller: OpenInferenceCaller, stub: ImageClassifierStub
) -> None:
    """In the network's own size, in another one, which is fitted, and grey."""
    rng = np.random.default_rng(3)
    for shape in ((1, 32, 32, 3), (1, 50, 41, 3), (1, 32, 32, 1)):
        array = rng.integers(0, 256, shape, np.uint8)
        raw = glimpse_pb.RawPixels(height=shape[1], width=shape[2], channels=shape[3], data=array.tobytes())
        assert numbers(caller.infer(pixels(array))).tolist() == own(stub, glimpse_pb.Image(raw=raw))


def test_many_images_are_answered_in_their_order(caller: OpenInferenceCaller, file: File) -> None:
    files = [file(seed) for seed in range(5)]
    together = numbers(caller.infer(photos(*files)))
    assert together.shape == (5, CLASSES)
    for row, each in zip(together, files, strict=True):
        np.testing.assert_allclose(numbers(caller.infer(photos(each)))[0], row, atol=1e-5)


@pytest.mark.parametrize("shape", [[], [1], [1, 1]])
def test_one_photo_may_be_sent_in_any_shape_of_one_element(
    caller: OpenInferenceCaller, file: File, shape: list[int]
) -> None:
    assert numbers(caller.infer(photos(file(1), shape=shape))).shape == (1, CLASSES)


def test_typed_contents_are_as_good_as_raw_ones(caller: OpenInferenceCaller, file: File) -> None:
    files = [file(1), file(2)]
    expected = numbers(caller.infer(photos(*files, shape=[2, 1])))
    response = caller.infer(typed(*files))
    np.testing.assert_allclose(numbers(response), expected, atol=1e-5)
    assert not response.outputs[0].HasField("contents")

    array = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = numbers(caller.infer(pixels(array)))
    request = pixels(array)
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend(array.ravel().tolist())
    np.testing.assert_allclose(numbers(caller.infer(request)), expected, atol=1e-5)


def test_an_output_may_be_told_as_its_highest_classes(caller: OpenInferenceCaller, cat_photo: Path) -> None:
    """As Triton tells it: value, index and label, the highest first, and no more than there are."""
    request = photos(cat_photo.read_bytes())
    request.outputs.add(name="probabilities").parameters["classification"].int64_param = 3
    response = caller.infer(request)
    values = numbers(caller.infer(photos(cat_photo.read_bytes())))[0]
    found = [text.split(":") for text in texts(response)]
    assert list(response.outputs[0].shape) == [1, 3]
    assert found[0][2] == "cat"
    assert [int(index) for _, index, _ in found] == np.argsort(-values)[:3].tolist()
    assert [value for value, _, _ in found] == [f"{values[int(index)]:.6f}" for _, index, _ in found]

    request.outputs[0].parameters["classification"].int64_param = 1000
    assert list(caller.infer(request).outputs[0].shape) == [1, CLASSES]


def test_own_options_are_parameters_of_the_request(caller: OpenInferenceCaller, cat_photo: Path) -> None:
    request = photos(cat_photo.read_bytes(), cat_photo.read_bytes())
    request.parameters["top_k"].int64_param = 2
    assert [text.split(":")[2] for text in texts(caller.infer(request))][0::2] == ["cat", "cat"]
    request.parameters["min_probability"].double_param = 0.5
    cat, nothing, *_ = texts(caller.infer(request))
    assert cat.endswith(":cat")
    assert nothing == "", "places of classes that are left out stay, because a tensor has a shape"

    del request.parameters["top_k"]
    values = numbers(caller.infer(request))
    assert np.count_nonzero(values) == 2


def test_logits_are_told_to_those_who_ask_for_them(caller: OpenInferenceCaller, file: File) -> None:
    request = photos(file(1), file(2))
    request.outputs.add(name="logits")
    request.outputs.add(name="probabilities").parameters["classification"].int64_param = 1
    response = caller.infer(request)
    logits = numbers(response)
    assert [each.name for each in response.outputs] == ["logits", "probabilities"]
    assert logits.shape == (2, CLASSES)
    assert [int(text.split(":")[1]) for text in texts(response, 1)] == logits.argmax(1).tolist()


def test_an_id_and_a_version_come_back(caller: OpenInferenceCaller, file: File) -> None:
    first = caller.infer(photos(file(1), id="mine"))
    assert first.id == "mine"
    assert caller.infer(photos(file(1), model_version=first.model_version)).model_version == first.model_version


def test_an_empty_name_means_the_default_model(caller: OpenInferenceCaller, file: File) -> None:
    assert caller.infer(photos(file(1), model_name="")).model_name == MODEL
    array = np.zeros((1, 32, 32, 3), np.uint8)
    assert caller.infer(pixels(array, model_name=".pixels")).model_name == PIXELS


def test_novelty_is_an_output_more_where_a_parameter_asks_for_it(caller: OpenInferenceCaller, cat_photo: Path) -> None:
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(noise, "png")
    request = photos(cat_photo.read_bytes(), noise.getvalue())
    usual = caller.infer(request)
    request.parameters["novelty"].bool_param = True
    response = caller.infer(request)
    assert [each.name for each in usual.outputs] == ["probabilities"]
    assert [each.name for each in response.outputs] == ["probabilities", "novelty"]
    cat, unknown = numbers(response, 1).tolist()
    assert cat[0] < cat[1] == unknown[1] < unknown[0]
    assert (cat[2], unknown[2]) == (1, 0)
    request.parameters["novelty"].bool_param = False
    assert len(caller.infer(request).outputs) == 1
    request.parameters["novelty"].int64_param = 1
    with pytest.raises(grpc.RpcError, match="The parameter novelty must be true or false"):
        caller.infer(request)


def test_parameters_of_others_are_ignored(caller: OpenInferenceCaller, file: File) -> None:
    request = photos(file(1))
    request.parameters["sequence_id"].int64_param = 7
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    request.parameters["content_type"].string_param = "np"
    request.inputs[0].parameters["content_type"].string_param = "np"
    assert numbers(caller.infer(request)).shape == (1, CLASSES)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(b"no image", "NOT_AN_IMAGE"), (b"", "EMPTY_IMAGE"), (b"\xff\xd8\xff\xe0", "TRUNCATED_IMAGE")],
)
def test_a_bad_photo_fails_its_request_with_its_own_reason(
    caller: OpenInferenceCaller, stub: ImageClassifierStub, file: File, broken: bytes, reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        caller.infer(photos(file(1), broken, file(2)))
    status, info = rich_status(refused.value)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    images = [glimpse_pb.Image(encoded=broken)]
    (result,) = stub.Classify(glimpse_pb.ClassifyRequest(images=images), timeout=TIMEOUT).results
    assert (info.domain, info.reason) == ("glimpse", result.error.reason) == ("glimpse", reason)
    assert status.message == f"Image 2 of 3: {result.error.message}"


def test_the_largest_photo_that_fits_into_a_message_is_taken(caller: OpenInferenceCaller) -> None:
    """Raw contents hold it with a prefix, and the message around it is small."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (2000, 2000, 3), np.uint8)).save(buffer, "BMP")
    assert len(buffer.getvalue()) > 11 << 20
    request = photos(buffer.getvalue())
    assert request.raw_input_contents[0] == prefixed(buffer.getvalue())
    assert numbers(caller.infer(request)).shape == (1, CLASSES)
