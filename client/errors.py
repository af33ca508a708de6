"""Everything that a call to Glimpse can raise, as one tree.

    GlimpseError
    ├── UnavailableError            UNAVAILABLE          no server answers at the target, or it loads or shuts down
    ├── StreamBrokenError           any                  one stream after the other ended, and images are unanswered
    ├── DeadlineExceededError       DEADLINE_EXCEEDED    the answer did not come in time
    ├── OverloadedError             RESOURCE_EXHAUSTED   the server has no room; try again after `retry_after`
    ├── RequestRefusedError         the others           the request is at fault, the same one will fail again
    │   ├── InvalidRequestError     INVALID_ARGUMENT
    │   ├── ModelNotFoundError      NOT_FOUND
    │   └── AccessDeniedError       UNAUTHENTICATED, PERMISSION_DENIED   the token or the client's certificate
    ├── ImageRefusedError           any                  this one image cannot be classified
    └── ServerFaultError            INTERNAL, UNKNOWN    an internal error of the server

Nothing here loads gRPC, so that code which only handles errors stays cheap to import.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """The gRPC status codes by their numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GlimpseError(Exception):
    """A call that failed: the base class of all errors of this package.

    Attributes:
        code: gRPC status code.
        reason: for programs to switch on; classifier.proto lists the server's. "" where the server gave none.
        message: for people: what was wrong, what was received, what to do.
        field: path of the offending request field, "" where there is none.
        retry_after: seconds after which the same call may succeed; None where waiting does not help.
    """

    def __init__(
        self, code: Code, reason: str, message: str, *, field: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(code, reason, message)
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} [{self.reason or self.code.name}]"


class UnavailableError(GlimpseError):
    """No server answers at the target, or it is loading its model or shutting down. Try later, or another server."""


class StreamBrokenError(GlimpseError):
    """Images are unanswered although they were sent over several streams. Earlier results are valid."""


class DeadlineExceededError(GlimpseError):
    """The answer did not come within the timeout."""


class OverloadedError(GlimpseError):
    """The server has no room. Try again after `retry_after`, if set."""


class RequestRefusedError(GlimpseError):
    """The request is wrong, and the same one will be refused again. Correct your code or your options."""


class InvalidRequestError(RequestRefusedError):
    """An option or the request as a whole is not valid."""


class ModelNotFoundError(RequestRefusedError):
    """The server has no model of this name and version."""


class AccessDeniedError(RequestRefusedError):
    """Access denied: the token or the client certificate is missing, unknown, expired, or does not allow this call."""


class ImageRefusedError(GlimpseError):
    """The image cannot be classified. Expect this error wherever images come from outside."""


class ServerFaultError(GlimpseError):
    """An internal error of the server. Its log says more."""


_CLASSES: dict[Code, type[GlimpseError]] = {
    Code.UNAVAILABLE: UnavailableError,
    Code.DEADLINE_EXCEEDED: DeadlineExceededError,
    Code.RESOURCE_EXHAUSTED: OverloadedError,
    Code.INVALID_ARGUMENT: InvalidRequestError,
    Code.NOT_FOUND: ModelNotFoundError,
    Code.PERMISSION_DENIED: AccessDeniedError,
    Code.UNAUTHENTICATED: AccessDeniedError,
    Code.UNIMPLEMENTED: RequestRefusedError,
    Code.FAILED_PRECONDITION: RequestRefusedError,
    Code.OUT_OF_RANGE: RequestRefusedError,
    Code.INTERNAL: ServerFaultError,
    Code.UNKNOWN: ServerFaultError,
    Code.DATA_LOSS: ServerFaultError,
}


def of_code(code: Code) -> type[GlimpseError]:
    """The exception of the tree that stands for a status code."""
    return _CLASSES.get(code, GlimpseError)
