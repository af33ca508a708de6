"""Mutated requests of the Open Inference Protocol: each is answered or refused with a reason, and harms nobody else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimpse.server.open_inference import open_inference_pb2 as pb
from glimpse.server.open_inference.servicer import SERVICE
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, rich_status
from tests.server.open_inference.caller import MODEL, PIXELS, OpenInferenceCaller, numbers, photos, pixels, typed
from tests.variations import mostly_in_ci

# What a caller may be told; anything else is a defect.
EXPECTED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
MOST = 65  # images

texts = st.sampled_from(["", "image", "pixels", "probabilities", "logits", "BYTES", "UINT8", "FP32"]) | st.text(
    max_size=9
)
models = st.sampled_from(["", MODEL, PIXELS, ".pixels"]) | texts
sides = st.sampled_from([0, 1, 1, 2, 3, 32, -1, MOST, 2**31, 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1)
values = st.one_of(
    st.builds(pb.InferParameter, bool_param=st.booleans()),
    st.builds(pb.InferParameter, int64_param=st.integers(-2, 12) | st.integers(-(2**63), 2**63 - 1)),
    st.builds(pb.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
    st.builds(pb.InferParameter, double_param=st.floats()),
    st.builds(pb.InferParameter, string_param=texts),
    st.builds(pb.InferParameter),
)
names = st.sampled_from(
    ["top_k", "min_probability", "geometry", "priority", "classification", "shared_memory_region", "sequence_id"]
)
parameters = st.dictionaries(names | texts, values, max_size=3)


@st.composite
def seeds(draw: st.DrawFn, file: bytes) -> pb.ModelInferRequest:
    """A request that is good."""
    array = np.zeros((draw(st.integers(1, 2)), 32, 32, 3), np.uint8)
    return draw(st.sampled_from([photos(file), photos(file, file), typed(file), pixels(array)]))


@st.composite
def mutated(draw: st.DrawFn, file: bytes) -> bytes:
    """A request of which up to three things have been changed, and sometimes some bytes of the message."""
    request = pb.ModelInferRequest()
    request.CopyFrom(draw(seeds(file)))
    for _ in range(draw(st.integers(0, 3))):
        change(draw, request)
    message = bytearray(request.SerializeToString())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, min(len(message), 200) - 1)) if message else 0
        message[at : at + 1] = draw(st.binary(max_size=3))
    return bytes(message)


def change(draw: st.DrawFn, request: pb.ModelInferRequest) -> None:  # noqa: C901, PLR0912 - a case for each field
    """Change one thing."""
    tensor = request.inputs[0] if request.inputs else request.inputs.add()
    raw, contents = request.raw_input_contents, tensor.contents
    match draw(st.integers(0, 13)):
        case 0:
            request.model_name = draw(models)
        case 1:
            request.model_version = draw(texts)
        case 2:
            request.id = draw(texts)
        case 3:
            tensor.name = draw(texts)
        case 4:
            tensor.datatype = draw(texts)
        case 5:
            del tensor.shape[:]
            tensor.shape.extend(draw(st.lists(sides, max_size=5)))
        case 6:
            put(request.parameters, draw(parameters))
        case 7:
            put(tensor.parameters, draw(parameters))
        case 8:
            put(request.outputs.add(name=draw(texts)).parameters, draw(parameters))
        case 9:
            request.inputs.add().CopyFrom(tensor)
        case 10:
            request.ClearField(draw(st.sampled_from(["inputs", "raw_input_contents", "model_name"])))
        case 11:
            raw.append(draw(st.binary(max_size=12)))
        case 12 if raw:
            raw[0] = draw(st.sampled_from([raw[0][:-1], raw[0] + b"x", raw[0][4:], b"", b"\xff" * 9]))
        case _:
            contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=9), max_size=3)))
            contents.uint_contents.extend(draw(st.lists(st.integers(0, 2**32 - 1), max_size=3)))


def put(where: object, found: dict[str, pb.InferParameter]) -> None:
    for name, value in found.items():
        where[name].CopyFrom(value)  # type: ignore[index]


def wrong(server: RunningServer, scrape: Callable[[], dict[str, float]]) -> list[str]:
    """What went wrong by the server's own fault, in its metrics and its log."""
    own = re.compile('grpc_code="(INTERNAL|UNKNOWN)"|glimpse_images_total{outcome="failed"}')
    counted = [f"{name} {value}" for name, value in scrape().items() if value and own.search(name)]
    return counted + [str(line) for line in server.log if line["level"] == "error"] + server.stray


def reason_of(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)
    assert error.code() in EXPECTED, error
    return str(rich_status(error)[1].reason)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("requests", [*mostly_in_ci([100, 300], 100), pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_mutated_request_is_answered_or_refused_for_a_reason(
    server: RunningServer,
    caller: OpenInferenceCaller,
    file: Callable[[int], bytes],
    scrape: Callable[[], dict[str, float]],
    requests: int,
) -> None:
    ends: Counter[str] = Counter()
    before, good = wrong(server, scrape), numbers(caller.infer(photos(file(1))))
    with grpc.insecure_channel(server.target) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, pb.ModelInferResponse] = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", None, pb.ModelInferResponse.FromString
        )

        @settings(max_examples=requests, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(mutated(file(1)))
        def send(message: bytes) -> None:
            try:
                response = infer(message, timeout=TIMEOUT)
            except grpc.RpcError as error:
                ends[reason_of(error)] += 1
            else:
                assert len(response.outputs) == len(response.raw_output_contents) >= 1
                ends["answered"] += 1

        send()
    assert ends.total() >= requests // 2, "hypothesis may find that it has tried all"
    assert ends["answered"] > requests // 50, ends
    assert {"INVALID_TENSOR", "MODEL_NOT_FOUND"} <= set(ends)
    assert wrong(server, scrape) == before
    assert scrape()["glimpse_images_in_flight"] == 0
    np.testing.assert_allclose(numbers(caller.infer(photos(file(1)))), good, atol=1e-5)
