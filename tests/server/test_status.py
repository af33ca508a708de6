"""From an error to a gRPC status with details."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from glimpse.server import errors
from glimpse.server.errors import InvalidRequestError, OverloadedError, Reason
from glimpse.server.grpc import status


def unpacked(error: errors.ServiceError) -> tuple[status_pb2.Status, dict[str, str | bytes]]:
    trailers = dict(status.trailers(error, error.field))
    details = trailers[status.DETAILS_KEY]
    assert isinstance(details, bytes)
    return status_pb2.Status.FromString(details), trailers


def test_details_name_the_reason_and_the_field() -> None:
    rich, trailers = unpacked(InvalidRequestError(Reason.TOP_K_OUT_OF_RANGE, "too many", field="options.top_k"))
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert (rich.code, rich.message) == (3, "too many")
    assert rich.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("TOP_K_OUT_OF_RANGE", "glimpse")
    assert rich.details[1].Unpack(request)
    assert request.field_violations[0].field == "options.top_k"
    assert status.PUSHBACK_KEY not in trailers


@pytest.mark.parametrize(("seconds", "milliseconds"), [(1.5, 1500), (0.0101, 11), (0.0, 1)])
def test_a_refusal_for_now_tells_when_to_come_back(seconds: float, milliseconds: int) -> None:
    rich, trailers = unpacked(OverloadedError(Reason.QUEUE_FULL, "full", retry_after=seconds))
    retry = error_details_pb2.RetryInfo()
    assert rich.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == milliseconds
    assert trailers[status.PUSHBACK_KEY] == str(milliseconds)


def test_every_code_of_ours_is_grpcs_own() -> None:
    assert {code.name for code in errors.Code} == {status.CODES[int(code)].name for code in errors.Code}
    assert status.code(OverloadedError(Reason.QUEUE_FULL, "")) is grpc.StatusCode.RESOURCE_EXHAUSTED
