"""From a gRPC status and its details to an exception of this package."""

from __future__ import annotations

import contextlib
import re
from typing import cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from glimpse.client import proxy
from glimpse.client.channel import SERVICE
from glimpse.client.errors import Code, GlimpseError, ImageRefusedError, RequestRefusedError, of_code
from glimpse.client.messages import to_code
from glimpse.v1 import classifier_pb2

_Status = grpc.Call | grpc.aio.AioRpcError

_DOMAIN = "glimpse"
TOO_LARGE = "MESSAGE_TOO_LARGE"
# How gRPC tells, under RESOURCE_EXHAUSTED, of a message above a limit: the server's limit, or our own where it says so.
_TOO_LARGE = re.compile(r"message larger than max(?: \(\d+ vs\. (?P<limit>\d+)\))?", re.IGNORECASE)
_OURS = "CLIENT:"
# gRPC has UNAVAILABLE for all that keeps it from a server; its message tells which. By a part of that message, for
# people only: where another release words it otherwise, they read the message itself.
_CAUSES = {
    "backend unhealthy": "The server at {target} is not serving: it is loading its model, or shutting down",
    "health check call failed": "The server at {target} does not let this client watch its health",
    "CERTIFICATE_VERIFY_FAILED": "The certificate of {target} was issued by an authority that is not trusted here",
    "Hostname Verification Check failed": "The certificate of {target} was issued for another name",
    "WRONG_VERSION_NUMBER": "The server at {target} does not speak TLS",
    "http1.x server": "{target} answers HTTP and not gRPC; give the gRPC port, 50051 unless GLIMPSE_PORT is set",
    "errors resolving": "The host name in {target} cannot be found",
    "Socket closed": "The server at {target} closed the connection; it may require TLS or a client certificate",
}


def from_rpc_error(error: grpc.RpcError, target: str, *, service: str = SERVICE) -> GlimpseError:
    """The exception for a call that ended with a status other than OK.

    Args:
        error: what grpcio raised: the call itself, or asyncio's error, with its code, details and trailing metadata.
        target: the address that was called, for the message.
        service: that was called, likewise.
    """
    if not isinstance(error, (grpc.Call, grpc.aio.AioRpcError)):
        return GlimpseError(Code.UNKNOWN, "", str(error) or repr(error))
    code = to_code(error.code().value[0])
    told = pushback(error)
    reason, field, retry_after = "", "", told if told is None or told >= 0.0 else None
    for detail in _details(error):
        if isinstance(detail, error_details_pb2.ErrorInfo) and detail.domain == _DOMAIN:
            reason = detail.reason
        elif isinstance(detail, error_details_pb2.BadRequest) and detail.field_violations:
            field = detail.field_violations[0].field
        elif isinstance(detail, error_details_pb2.RetryInfo):
            retry_after = detail.retry_delay.ToTimedelta().total_seconds()
    message = error.details() or code.name
    if not reason and code is Code.RESOURCE_EXHAUSTED and _TOO_LARGE.search(message):
        return _too_large(message, target)
    if not reason:  # then the status is not Glimpse's own but gRPC's, or somebody else's
        message = _explain(code, message, target, service)
    return of_code(code)(code, reason, message, field=field, retry_after=retry_after)


def largest_taken(error: grpc.RpcError) -> int | None:
    """Bytes of the largest message that a server takes, by its refusal of a larger one; None where it does not say."""
    found = _TOO_LARGE.search((error.details() or "") if isinstance(error, (grpc.Call, grpc.aio.AioRpcError)) else "")
    return int(found["limit"]) if found is not None and found["limit"] else None


def _too_large(message: str, target: str) -> GlimpseError:
    """A message that is too large stays so: this is not the lack of room that the code stands for otherwise."""
    if _OURS in message:
        advice = "Raise max_message_bytes (--max-message-bytes), or ask for less at once."
        text = f"The answer of {target} is larger than this client takes ({message}). {advice}"
        return RequestRefusedError(Code.RESOURCE_EXHAUSTED, TOO_LARGE, text)
    text = f"The image does not fit into a message that {target} takes ({message}). Send a smaller one."
    return ImageRefusedError(Code.INVALID_ARGUMENT, TOO_LARGE, text)


def from_request_error(error: classifier_pb2.RequestError) -> GlimpseError:
    """The exception for a request that was refused on a stream."""
    code = to_code(error.code)
    return of_code(code)(code, error.reason, error.message, retry_after=error.retry_after_seconds or None)


def _details(call: _Status) -> list[Message]:
    """Those of `google.rpc.Status.details` that the contract speaks of; none where they are missing or damaged."""
    details: list[Message] = []
    with contextlib.suppress(DecodeError, ValueError):  # ValueError: its code or message is not the status's
        status: status_pb2.Status | None = rpc_status.from_call(cast("grpc.Call", call))
        for packed in status.details if status is not None else ():
            for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                detail = kind()
                if packed.Unpack(detail):
                    details.append(detail)
    return details


def pushback(error: grpc.RpcError) -> float | None:
    """Seconds of `grpc-retry-pushback-ms`; None without it, negative where it says not to come back."""
    if isinstance(error, (grpc.Call, grpc.aio.AioRpcError)):
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-retry-pushback-ms":
                with contextlib.suppress(ValueError):
                    return int(value) / 1000
    return None


def _explain(code: Code, message: str, target: str, service: str) -> str:
    if code is Code.UNAVAILABLE:
        for part, meaning in _CAUSES.items():
            if part in message:
                return f"{meaning.format(target=target)} ({message}).{proxy.explanation(target)}"
        return f"No Glimpse server answers at {target} ({message}).{proxy.explanation(target)}"
    if code is Code.UNIMPLEMENTED:
        return f"The server at {target} does not offer {service} ({message})."
    if code is Code.DEADLINE_EXCEEDED:
        return f"No answer from {target} within the timeout ({message}).{proxy.explanation(target)}"
    return message
