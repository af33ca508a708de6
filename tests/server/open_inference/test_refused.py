"""What is no request of the Open Inference Protocol, or not for this model: refused with a reason for programs."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from glimpse.server.open_inference import open_inference_pb2 as pb
from tests.server.conftest import rich_status
from tests.server.open_inference.caller import MODEL, OpenInferenceCaller, numbers, photos, pixels, prefixed, typed

ARRAY = np.zeros((1, 32, 32, 3), np.uint8)
Change = Callable[[pb.ModelInferRequest], object]


def with_input(**fields: object) -> Change:
    """Change the input."""

    def change(request: pb.ModelInferRequest) -> None:
        for name, value in fields.items():
            if name == "shape":
                del request.inputs[0].shape[:]
                request.inputs[0].shape.extend(value)  # type: ignore[arg-type]
            else:
                setattr(request.inputs[0], name, value)

    return change


def with_raw(*contents: bytes) -> Change:
    """Change the raw contents."""

    def change(request: pb.ModelInferRequest) -> None:
        del request.raw_input_contents[:]
        request.raw_input_contents.extend(contents)

    return change


def with_parameter(name: str, kind: str, value: object) -> Change:
    """Give the request a parameter."""
    return lambda request: setattr(request.parameters[name], f"{kind}_param", value)


def with_contents(kind: str, *values: object) -> Change:
    """Send typed contents instead."""

    def change(request: pb.ModelInferRequest) -> None:
        del request.raw_input_contents[:]
        getattr(request.inputs[0].contents, kind).extend(values)

    return change


def without(*fields: str) -> Change:
    """Leave out what a request has."""
    return lambda request: [request.ClearField(each) for each in fields]  # type: ignore[func-returns-value]


def both(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.bytes_contents.append(b"x")


def two_inputs(request: pb.ModelInferRequest) -> None:
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(b"")


def wanting(*names: str, **parameters: int | str) -> Change:
    """Ask for outputs, each with these parameters."""

    def change(request: pb.ModelInferRequest) -> None:
        for name in names:
            output = request.outputs.add(name=name)
            for key, value in parameters.items():
                kind = "int64_param" if isinstance(value, int) else "string_param"
                setattr(output.parameters[key], kind, value)

    return change


def shared_memory(request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].parameters["shared_memory_region"].string_param = "mine"


# By what is wrong: the change to a good request, the reason, and the field that is to blame.
PHOTOS: dict[str, tuple[Change, str, str]] = {
    "no input": (without("inputs", "raw_input_contents"), "INVALID_TENSOR", "inputs"),
    "two inputs": (two_inputs, "INVALID_TENSOR", "inputs"),
    "name": (with_input(name="photo"), "INVALID_TENSOR", "inputs[0].name"),
    "type of pixels": (with_input(datatype="UINT8"), "INVALID_TENSOR", "inputs[0].datatype"),
    "no type": (with_input(datatype=""), "INVALID_TENSOR", "inputs[0].datatype"),
    "negative": (with_input(shape=[-1]), "INVALID_TENSOR", "inputs[0].shape"),
    "two a row": (with_input(shape=[1, 2]), "INVALID_TENSOR", "inputs[0].shape"),
    "many sides": (with_input(shape=[1] * 100), "INVALID_TENSOR", "inputs[0].shape"),
    "more than there are": (with_input(shape=[2]), "INVALID_TENSOR", "raw_input_contents[0]"),
    "none": (with_input(shape=[0]), "INVALID_TENSOR", "raw_input_contents[0]"),
    "none at all": (
        lambda r: (with_input(shape=[0])(r), with_raw(b"")(r)),
        "NO_IMAGES",
        "inputs[0].shape",
    ),
    "too many": (with_input(shape=[65]), "TOO_MANY_IMAGES", "inputs[0].shape"),
    "far too many": (with_input(shape=[2**63 - 1, 1]), "TOO_MANY_IMAGES", "inputs[0].shape"),
    "no prefix": (with_raw(b"\xff\xd8\xff\xe0" * 9), "INVALID_TENSOR", "raw_input_contents[0]"),
    "half a prefix": (with_raw(b"\x00\x00"), "INVALID_TENSOR", "raw_input_contents[0]"),
    "bytes behind": (with_raw(prefixed(b"x") + b"x"), "INVALID_TENSOR", "raw_input_contents[0]"),
    "raw for two inputs": (with_raw(b"", b""), "INVALID_TENSOR", "raw_input_contents"),
    "no contents": (with_raw(), "INVALID_TENSOR", "raw_input_contents[0]"),
    "both": (both, "INVALID_TENSOR", "inputs[0].contents"),
    "numbers for bytes": (with_contents("uint_contents", 1), "INVALID_TENSOR", "inputs[0].contents.uint_contents"),
    "typed, too many": (
        with_contents("bytes_contents", b"", b""),
        "INVALID_TENSOR",
        "inputs[0].contents.bytes_contents",
    ),
    "shared memory": (shared_memory, "INVALID_PARAMETER", "inputs[0].parameters['shared_memory_region']"),
    "output": (wanting("softmax"), "INVALID_TENSOR", "outputs[0].name"),
    "output twice": (wanting("logits", "logits"), "INVALID_TENSOR", "outputs[1].name"),
    "output in shared memory": (
        wanting("probabilities", shared_memory_region="x"),
        "INVALID_PARAMETER",
        "outputs[0].parameters['shared_memory_region']",
    ),
    "classification as text": (
        wanting("probabilities", classification="3"),
        "INVALID_PARAMETER",
        "outputs[0].parameters['classification']",
    ),
    "negative classification": (
        wanting("probabilities", classification=-1),
        "INVALID_PARAMETER",
        "outputs[0].parameters['classification']",
    ),
    "top_k as text": (with_parameter("top_k", "string", "3"), "INVALID_PARAMETER", "parameters['top_k']"),
    "top_k as truth": (with_parameter("top_k", "bool", value=True), "INVALID_PARAMETER", "parameters['top_k']"),
    "top_k without a value": (lambda r: r.parameters["top_k"], "INVALID_PARAMETER", "parameters['top_k']"),
    "top_k of 0": (with_parameter("top_k", "int64", 0), "TOP_K_OUT_OF_RANGE", "parameters['top_k']"),
    "top_k above the classes": (with_parameter("top_k", "uint64", 11), "TOP_K_OUT_OF_RANGE", "parameters['top_k']"),
    "min_probability as text": (
        with_parameter("min_probability", "string", "0.5"),
        "INVALID_PARAMETER",
        "parameters['min_probability']",
    ),
    "min_probability above 1": (
        with_parameter("min_probability", "double", 1.5),
        "MIN_PROBABILITY_OUT_OF_RANGE",
        "parameters['min_probability']",
    ),
    "min_probability that is no number": (
        with_parameter("min_probability", "double", float("nan")),
        "MIN_PROBABILITY_OUT_OF_RANGE",
        "parameters['min_probability']",
    ),
    "geometry as number": (with_parameter("geometry", "int64", 1), "INVALID_PARAMETER", "parameters['geometry']"),
    "geometry": (with_parameter("geometry", "string", "pad"), "GEOMETRY_NOT_ALLOWED", "parameters['geometry']"),
    "priority as text": (with_parameter("priority", "string", "1"), "INVALID_PARAMETER", "parameters['priority']"),
    "negative timeout": (with_parameter("timeout", "int64", -1), "INVALID_PARAMETER", "parameters['timeout']"),
    "timeout as fraction": (with_parameter("timeout", "double", 0.5), "INVALID_PARAMETER", "parameters['timeout']"),
    "long id": (lambda r: setattr(r, "id", "x" * 5000), "MALFORMED_MESSAGE", "id"),
}
OF_PIXELS: dict[str, tuple[Change, str, str]] = {
    "type of photos": (with_input(datatype="BYTES"), "INVALID_TENSOR", "inputs[0].datatype"),
    "name of photos": (with_input(name="image"), "INVALID_TENSOR", "inputs[0].name"),
    "floats": (with_input(datatype="FP32"), "INVALID_TENSOR", "inputs[0].datatype"),
    "floats as contents": (
        lambda r: (with_input(datatype="FP32")(r), with_contents("fp32_contents", 0.5)(r)),
        "INVALID_TENSOR",
        "inputs[0].datatype",
    ),
    "no batch": (with_input(shape=[32, 32, 3]), "INVALID_TENSOR", "inputs[0].shape"),
    "NCHW": (with_input(shape=[1, 3, 32, 32]), "INVALID_TENSOR", "inputs[0].shape"),
    "four channels": (with_input(shape=[1, 32, 24, 4]), "INVALID_TENSOR", "inputs[0].shape"),
    "larger": (with_input(shape=[1, 33, 32, 3]), "INVALID_TENSOR", "raw_input_contents[0]"),
    "huge": (with_input(shape=[1, 2**62, 2**62, 3]), "INVALID_TENSOR", "raw_input_contents[0]"),
    "negative": (with_input(shape=[1, -32, -32, 3]), "INVALID_TENSOR", "inputs[0].shape"),
    "a byte less": (with_raw(bytes(32 * 32 * 3 - 1)), "INVALID_TENSOR", "raw_input_contents[0]"),
    "no rows": (
        lambda r: (with_input(shape=[1, 0, 32, 3])(r), with_raw(b"")(r)),
        "RAW_PIXELS_MISMATCH",
        "inputs[0].shape",
    ),
    "too many": (with_input(shape=[65, 32, 32, 3]), "TOO_MANY_IMAGES", "inputs[0].shape"),
    "above 255": (
        with_contents("uint_contents", *[256] * 32 * 32 * 3),
        "INVALID_TENSOR",
        "inputs[0].contents.uint_contents",
    ),
    "too few numbers": (with_contents("uint_contents", 1), "INVALID_TENSOR", "inputs[0].contents.uint_contents"),
    "signed numbers": (with_contents("int_contents", 1), "INVALID_TENSOR", "inputs[0].contents.int_contents"),
}


def refusal(caller: OpenInferenceCaller, request: pb.ModelInferRequest) -> tuple[grpc.StatusCode, str, str]:
    """Status, reason and field of a request that is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        caller.infer(request)
    status, info = rich_status(refused.value)
    assert info.domain == "glimpse"
    fault = error_details_pb2.BadRequest()
    field = fault.field_violations[0].field if len(status.details) > 1 and status.details[1].Unpack(fault) else ""
    assert len(status.message) < 500, "what was sent is repeated only in part"
    return refused.value.code(), info.reason, field


@pytest.mark.parametrize("name", PHOTOS)
def test_what_is_wrong_with_photos_has_a_reason_and_a_field(
    caller: OpenInferenceCaller, file: Callable[[int], bytes], name: str
) -> None:
    change, reason, field = PHOTOS[name]
    request = photos(file(1))
    change(request)
    assert refusal(caller, request) == (grpc.StatusCode.INVALID_ARGUMENT, reason, field)


@pytest.mark.parametrize("name", OF_PIXELS)
def test_what_is_wrong_with_pixels_has_a_reason_and_a_field(caller: OpenInferenceCaller, name: str) -> None:
    change, reason, field = OF_PIXELS[name]
    request = pixels(ARRAY)
    change(request)
    assert refusal(caller, request) == (grpc.StatusCode.INVALID_ARGUMENT, reason, field)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model_name": "nosuch"}, "model_name"),
        ({"model_name": f"{MODEL}.Pixels"}, "model_name"),
        ({"model_name": "x" * 100_000}, "model_name"),
        ({"model_version": "7"}, "model_version"),
    ],
)
def test_an_unknown_model_is_not_found(
    caller: OpenInferenceCaller, file: Callable[[int], bytes], fields: dict[str, str], field: str
) -> None:
    assert refusal(caller, photos(file(1), shape=None, **fields)) == (
        grpc.StatusCode.NOT_FOUND,
        "MODEL_NOT_FOUND",
        field,
    )


def test_millions_of_small_fields_are_refused_before_they_are_parsed(caller: OpenInferenceCaller) -> None:
    many = typed(*[b""] * 60_000)
    assert refusal(caller, many)[1] == "MALFORMED_MESSAGE"
    large = pixels(ARRAY, raw_input_contents=[])
    large.inputs[0].contents.int64_contents.extend([1] * 1_000_000)
    assert refusal(caller, large)[1] == "MALFORMED_MESSAGE"


def test_a_refused_request_leaves_nothing_behind(
    caller: OpenInferenceCaller, file: Callable[[int], bytes], scrape: Callable[[], dict[str, float]]
) -> None:
    with pytest.raises(grpc.RpcError):
        caller.infer(photos(b"no image"))
    assert numbers(caller.infer(photos(file(1)))).shape == (1, 10)
    assert scrape()["glimpse_images_in_flight"] == 0
