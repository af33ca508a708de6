"""From a `ServiceError` to an HTTP response: a status, when to come back, and a JSON object for programs and people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from http import HTTPStatus

from starlette.responses import Response

from glimpse.server.errors import Code, InvalidRequestError, Reason, ServiceError

_STATUS = {
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}
JSON = "application/json"


class BodyTooLargeError(ServiceError):
    """The body is larger than a message may be; as over gRPC, that is refused before it is read."""

    code = Code.RESOURCE_EXHAUSTED

    def __init__(self, most: int, setting: str) -> None:
        """`most`: bytes that a body may have, as a setting says, or none."""
        limit = f"{setting} ({most})" if setting else f"{most} bytes, the most that this path takes"
        advice = "Send fewer or smaller images at once." if setting else "Send several requests."
        super().__init__(Reason.MALFORMED_MESSAGE, f"The body is larger than {limit}. {advice}")


class UnsupportedEncodingError(InvalidRequestError):
    """The body is compressed, so that its size says nothing of what it becomes."""

    def __init__(self, encoding: str) -> None:
        """`encoding`: what the request's Content-Encoding says, as it may be shown."""
        super().__init__(
            Reason.MALFORMED_MESSAGE,
            f"The body must not be compressed: image files are compressed already. Received Content-Encoding: "
            f"{encoding}. Send it without.",
            field="content-encoding",
        )


def malformed(what: str, *, field: str = "") -> InvalidRequestError:
    """What a caller is told whose body, header or query is not what the method takes."""
    return InvalidRequestError(Reason.MALFORMED_MESSAGE, what, field=field)


def status_of(error: ServiceError) -> HTTPStatus:
    """The HTTP status of an error."""
    if isinstance(error, BodyTooLargeError):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    if isinstance(error, UnsupportedEncodingError):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    if error.reason is Reason.UPLOAD_TOO_SLOW:
        return HTTPStatus.REQUEST_TIMEOUT
    return _STATUS[error.code]


def response(error: ServiceError, field: str = "") -> Response:
    """The response to a request that failed; `field` is what the error is about, as the caller wrote it.

    `error` is the text, as both inference protocols have it; beside it are the reason and the code that gRPC's
    ErrorInfo and status have. `Retry-After` is in whole seconds, `retry_after_seconds` is exact.
    """
    content: dict[str, object] = {"error": error.message, "reason": error.reason.value, "code": error.code.name}
    headers: dict[str, str] = {}
    if field:
        content["field"] = field
    if error.retry_after is not None:
        content["retry_after_seconds"] = error.retry_after
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.code is Code.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncodingError):
        headers["accept-encoding"] = "identity"
    return Response(json.dumps(content), status_of(error), headers, JSON)


def no_such_path(path: str, known: str) -> Response:
    """The response to a path that does not exist."""
    text = f"There is no {path}. {known}"
    return Response(json.dumps({"error": text, "reason": "", "code": "UNIMPLEMENTED"}), 404, None, JSON)


def wrong_verb(received: str, allowed: Sequence[str]) -> Response:
    """The response to a method of HTTP that a path does not have."""
    text = f"This path takes {' and '.join(allowed)}. Received: {received}."
    content = {"error": text, "reason": "", "code": "UNIMPLEMENTED"}
    return Response(json.dumps(content), 405, {"allow": ", ".join(allowed)}, JSON)
