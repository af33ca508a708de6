"""One call at a time, over a real socket."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from glimpse.client import (
    AccessDeniedError,
    Client,
    Code,
    DeadlineExceededError,
    GlimpseError,
    ImageRefusedError,
    InvalidRequestError,
    ModelIdentity,
    ModelNotFoundError,
    OverloadedError,
    Prediction,
    RequestRefusedError,
    ServerFaultError,
    Timing,
    UnavailableError,
)
from glimpse.client.image_input import MAX_IMAGE_BYTES
from glimpse.v1 import classifier_pb2 as pb
from tests.client.scripted import Context, ScriptedServer, abort, response


def test_an_answer_comes_back_as_values_with_all_that_the_wire_holds(scripted: ScriptedServer) -> None:
    with Client(scripted.target) as client:
        result = client.classify(b"cat")

    assert result.predictions == (Prediction(0, "cat", 0.75, "n0"), Prediction(1, "other", 0.25, ""))
    assert result.error is None
    assert result.timing == Timing(0.1, 0.2, 0.3, 0.4, 5)
    assert result.model == ModelIdentity("scripted", "7", "sha256:abc")


def test_all_stages_that_a_server_tells_come_back_and_add_up(scripted: ScriptedServer) -> None:
    def told(request: pb.ClassifyRequest, _: Context) -> pb.ClassifyResponse:
        answer = response(request)
        timing = answer.results[0].timing
        timing.decode_wait_seconds, timing.receive_seconds = 0.5, 0.6
        timing.admission_seconds, timing.reply_seconds = 0.7, 0.8
        return answer

    scripted.classify = told
    with Client(scripted.target) as client:
        timing = client.classify(b"cat").timing
    assert timing == Timing(0.1, 0.2, 0.3, 0.4, 5, 0.5, 0.6, 0.7, 0.8)
    assert timing.total_seconds == pytest.approx(3.6)


def test_options_travel_with_the_request(scripted: ScriptedServer) -> None:
    with Client(scripted.target) as client:
        client.classify(b"cat", top_k=1, min_probability=0.5, geometry="pad", model="other", version="2")

    [request] = scripted.requests
    assert request.options == pb.ClassifyOptions(top_k=1, min_probability=0.5, geometry="pad")
    assert request.model == pb.ModelSelector(name="other", version="2")


def test_options_left_out_stay_unset_so_that_the_server_chooses(scripted: ScriptedServer) -> None:
    with Client(scripted.target) as client:
        client.classify(b"cat")

    assert not scripted.requests[0].options.HasField("top_k")


def test_a_path_a_string_and_bytes_are_sent_as_the_same_file(scripted: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"cat")
    with Client(scripted.target) as client:
        for source in (file, str(file), b"cat", bytearray(b"cat"), np.frombuffer(b"cat", np.uint8)):
            client.classify(source)

    assert [request.images[0].encoded for request in scripted.requests] == [b"cat"] * 5


def test_an_array_is_sent_as_raw_pixels_row_by_row_however_it_lies_in_memory(scripted: ScriptedServer) -> None:
    pixels = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(4, 2, 3).transpose(1, 0, 2)
    with Client(scripted.target) as client:
        client.classify(pixels)

    assert scripted.requests[0].images[0].raw == pb.RawPixels(height=2, width=4, data=pixels.tobytes())


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.zeros((4, 4, 3), np.float32), id="floats"),
        pytest.param(np.zeros((4, 4, 3), np.int8), id="signed"),
        pytest.param(np.zeros((4, 4, 4), np.uint8), id="with an alpha channel"),
        pytest.param(np.zeros((4, 4, 2), np.uint8), id="grey with an alpha channel"),
        pytest.param(np.zeros((1, 4, 4, 3), np.uint8), id="a batch"),
        pytest.param(np.zeros(4, np.float32), id="a row of floats"),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused_with_what_was_received(
    scripted: ScriptedServer, pixels: np.ndarray
) -> None:
    with Client(scripted.target) as client, pytest.raises(ValueError, match=r"uint8 \[height, width, 3\].*Received"):
        client.classify(pixels)
    assert not scripted.requests


def test_something_that_is_no_image_at_all_is_a_type_error(scripted: ScriptedServer) -> None:
    with Client(scripted.target) as client, pytest.raises(TypeError, match="Received: int"):
        client.classify(42)  # type: ignore[arg-type]


def test_a_missing_file_is_the_error_that_python_programmers_know(scripted: ScriptedServer, tmp_path: Path) -> None:
    with Client(scripted.target) as client, pytest.raises(FileNotFoundError):
        client.classify(tmp_path / "missing.jpg")


@pytest.mark.parametrize("source", [bytes(MAX_IMAGE_BYTES + 1), "/dev/zero"], ids=["bytes", "a file without end"])
def test_an_image_that_fits_into_no_message_is_refused_before_it_is_sent(
    scripted: ScriptedServer, source: bytes | str
) -> None:
    with Client(scripted.target) as client, pytest.raises(ImageRefusedError) as caught:
        client.classify(source)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"
    assert not scripted.requests


def test_the_largest_image_that_is_let_through_does_fit(scripted: ScriptedServer) -> None:
    scripted.classify = lambda *_: response(pb.ClassifyRequest(images=[pb.Image(encoded=b"cat")]))
    with Client(scripted.target) as client:
        assert client.classify(bytes(MAX_IMAGE_BYTES), model="m" * 1000).predictions[0].label == "cat"


def test_an_image_that_the_server_refuses_is_raised_with_its_reason(scripted: ScriptedServer) -> None:
    with Client(scripted.target) as client, pytest.raises(ImageRefusedError, match="bad is no image") as caught:
        client.classify(b"bad")
    assert (caught.value.code, caught.value.reason) == (Code.INVALID_ARGUMENT, "NOT_AN_IMAGE")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, ModelNotFoundError),
        (grpc.StatusCode.UNAUTHENTICATED, AccessDeniedError),
        (grpc.StatusCode.PERMISSION_DENIED, AccessDeniedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (grpc.StatusCode.INTERNAL, ServerFaultError),
        (grpc.StatusCode.ABORTED, GlimpseError),
    ],
)
def test_each_status_is_an_exception_of_its_own_with_all_details(
    scripted: ScriptedServer, status: grpc.StatusCode, kind: type[GlimpseError]
) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="options.top_k", description="bad")
    details = (
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000)),
    )
    scripted.classify = lambda _, context: abort(context, status, "SOME_REASON", *details, pushback_ms=-1)

    with Client(scripted.target) as client, pytest.raises(GlimpseError) as caught:
        client.classify(b"cat")

    error = caught.value
    assert type(error) is kind
    assert error.code.name == status.name
    assert (error.reason, error.message, error.field) == ("SOME_REASON", "as scripted", "options.top_k")
    assert error.retry_after == 2.5


def test_damaged_details_cost_the_details_and_not_the_error(scripted: ScriptedServer) -> None:
    def classify(_: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "damaged")
        raise AssertionError

    scripted.classify = classify
    with Client(scripted.target) as client, pytest.raises(InvalidRequestError, match="damaged"):
        client.classify(b"cat")


def test_a_top_k_that_no_message_can_hold_fails_as_one_that_the_server_refuses(
    scripted: ScriptedServer,
) -> None:
    """A `top_k` that no message can hold is the same error as one that the server refuses."""
    with Client(scripted.target) as client, pytest.raises(InvalidRequestError) as caught:
        client.classify(b"cat", top_k=-1)
    assert caught.value.reason == "TOP_K_OUT_OF_RANGE"


@pytest.mark.parametrize(
    "status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED]
)
def test_a_call_without_room_is_repeated_when_told_even_for_a_large_photo(
    scripted: ScriptedServer, status: grpc.StatusCode
) -> None:
    """A call for which there is no room is repeated when the server says, even for a large photo."""

    def classify(request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        if len(scripted.requests) < 3:
            abort(context, status, "QUEUE_FULL", pushback_ms=1)
        return response(request)

    scripted.classify = classify
    with Client(scripted.target) as client:
        label = client.classify(b"x" * 2_000_000).predictions[0].label

    assert len(label) == 2_000_000
    assert len(scripted.requests) == 3


def test_a_call_is_not_repeated_when_the_server_says_not_to_come_back(scripted: ScriptedServer) -> None:
    scripted.classify = lambda _, context: abort(context, grpc.StatusCode.UNAVAILABLE, "DRAINING", pushback_ms=-1)
    with Client(scripted.target) as client, pytest.raises(UnavailableError) as caught:
        client.classify(b"cat")
    assert caught.value.reason == "DRAINING"
    assert len(scripted.requests) == 1


def test_nobody_at_the_target_is_said_so(nowhere: str) -> None:
    with Client(nowhere) as client, pytest.raises(UnavailableError, match=f"No Glimpse server answers at {nowhere}"):
        client.classify(b"cat")


def test_a_server_of_another_kind_is_said_so() -> None:
    from concurrent.futures import ThreadPoolExecutor

    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        with Client(f"127.0.0.1:{port}") as client, pytest.raises(RequestRefusedError, match="does not offer"):
            client.classify(b"cat")
    finally:
        other.stop(None).wait()


def test_a_slow_answer_ends_with_the_timeout(scripted: ScriptedServer) -> None:
    over = threading.Event()

    def classify(request: pb.ClassifyRequest, _: Context) -> pb.ClassifyResponse:
        over.wait(60)
        return response(request)

    scripted.classify = classify
    try:
        with Client(scripted.target) as client, pytest.raises(DeadlineExceededError):
            client.classify(b"cat", timeout=0.2)
    finally:
        over.set()


def test_a_description_comes_back_as_values(scripted: ScriptedServer) -> None:
    with Client(scripted.target) as client:
        description = client.describe()

    assert description.architecture == "plain2"
    assert [stage.output_shape for stage in description.stages] == [(8, 8, 16), (2,)]
    assert sum(stage.parameters for stage in description.stages) == description.parameters == 1234
    assert [each.label for each in description.classes] == ["cat", "dog"]
    assert description.pre_stem.mean == (127.5, 127.5, 127.5)
    assert description.output == "probabilities"
    assert description.runtime.batch_sizes == (1, 8)
    agreement = description.runtime.agreement
    assert agreement is not None
    assert (agreement.precision, agreement.top1, agreement.pictures, agreement.unclear) == ("bfloat16", 0.9, 200, 7)
    assert description.limits.formats == ("JPEG", "PNG")


@pytest.mark.parametrize("timeout", [math.inf, 1e12])
def test_a_timeout_that_no_clock_can_hold_means_a_long_one(scripted: ScriptedServer, timeout: float) -> None:
    with Client(scripted.target, timeout=timeout) as client:
        assert client.classify(b"cat").predictions[0].label == "cat"
        assert [key for key, _ in client.classify_many([(1, b"cat")])] == [1]
        assert client.health(timeout=timeout).serving


def test_a_timeout_that_is_no_number_is_refused_before_anything_is_sent(scripted: ScriptedServer) -> None:
    with pytest.raises(ValueError, match="Received: nan"):
        Client(scripted.target, timeout=math.nan)
    with Client(scripted.target) as client, pytest.raises(ValueError, match="Received: nan"):
        client.classify(b"cat", timeout=math.nan)
    assert not scripted.requests
