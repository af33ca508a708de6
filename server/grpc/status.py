"""From a `ServiceError` to a gRPC status with details that programs can switch on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from glimpse.server.errors import ServiceError

DOMAIN = "glimpse"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

CODES = {code.value[0]: code for code in grpc.StatusCode}


def code(error: ServiceError) -> grpc.StatusCode:
    """The gRPC status code of an error."""
    return CODES[int(error.code)]


def trailers(error: ServiceError, field: str) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata of a refused call: the rich status, and when to retry.

    `google.rpc.Status` with ErrorInfo, BadRequest where a field is to blame, RetryInfo where coming back helps;
    `grpc-retry-pushback-ms` as of gRFC A6, which gRPC clients with a retry policy honour by themselves. `field` is what
    the error is about, as the method's messages call it.
    """
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN)]
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    pushback: tuple[tuple[str, str | bytes], ...] = ()
    if error.retry_after is not None:
        milliseconds = max(1, math.ceil(error.retry_after * 1000))
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(milliseconds)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        pushback = ((PUSHBACK_KEY, str(milliseconds)),)
    status = status_pb2.Status(code=int(error.code), message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return (DETAILS_KEY, status.SerializeToString()), *pushback
