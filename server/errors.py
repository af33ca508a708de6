"""Everything that can go wrong with a request, as one tree.

    ServiceError
    ├── InvalidRequestError     INVALID_ARGUMENT    the request as a whole
    ├── InvalidImageError       INVALID_ARGUMENT    one image; its neighbours are answered
    ├── ModelNotFoundError      NOT_FOUND
    ├── UnauthenticatedError    UNAUTHENTICATED     no token, or none that is known
    ├── PermissionDeniedError   PERMISSION_DENIED   the caller is known, and may not do that
    ├── FailedPreconditionError FAILED_PRECONDITION a model cannot be loaded
    ├── OverloadedError         RESOURCE_EXHAUSTED  come back after `retry_after`
    ├── UnavailableError        UNAVAILABLE         loading, draining or stuck
    ├── DeadlineExceededError   DEADLINE_EXCEEDED
    └── InternalError           INTERNAL            a defect of ours

The reasons are part of the contract: classifier.proto documents each of them.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Code(IntEnum):
    """The gRPC status codes in use, by their numbers, so that code without gRPC can name them."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Reason(StrEnum):
    """Why a request or an image failed, for programs to switch on."""

    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"
    NO_IMAGES = "NO_IMAGES"
    TOO_MANY_IMAGES = "TOO_MANY_IMAGES"
    TOP_K_OUT_OF_RANGE = "TOP_K_OUT_OF_RANGE"
    MIN_PROBABILITY_OUT_OF_RANGE = "MIN_PROBABILITY_OUT_OF_RANGE"
    GEOMETRY_NOT_ALLOWED = "GEOMETRY_NOT_ALLOWED"
    NO_NOVELTY_THRESHOLD = "NO_NOVELTY_THRESHOLD"
    UNKNOWN_OUTPUT = "UNKNOWN_OUTPUT"
    UNKNOWN_CLASS = "UNKNOWN_CLASS"
    ROLL_UP_OUT_OF_RANGE = "ROLL_UP_OUT_OF_RANGE"
    DUPLICATE_ID = "DUPLICATE_ID"
    CANNOT_EXPLAIN = "CANNOT_EXPLAIN"
    INVALID_TENSOR = "INVALID_TENSOR"
    INVALID_PARAMETER = "INVALID_PARAMETER"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_NOT_LOADED = "MODEL_NOT_LOADED"
    EMPTY_IMAGE = "EMPTY_IMAGE"
    IMAGE_BYTES_EXCEEDED = "IMAGE_BYTES_EXCEEDED"
    IMAGE_PIXELS_EXCEEDED = "IMAGE_PIXELS_EXCEEDED"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    TRUNCATED_IMAGE = "TRUNCATED_IMAGE"
    CORRUPT_IMAGE = "CORRUPT_IMAGE"
    DECODER_FAILED = "DECODER_FAILED"
    RAW_PIXELS_MISMATCH = "RAW_PIXELS_MISMATCH"
    TOKEN_MISSING = "TOKEN_MISSING"  # noqa: S105 - the name of a reason
    TOKEN_REFUSED = "TOKEN_REFUSED"  # noqa: S105 - the same
    NOT_PERMITTED = "NOT_PERMITTED"
    RATE_LIMITED = "RATE_LIMITED"
    QUEUE_FULL = "QUEUE_FULL"
    SHARE_FULL = "SHARE_FULL"
    MEMORY_FULL = "MEMORY_FULL"
    NOT_READY = "NOT_READY"
    DRAINING = "DRAINING"
    RUNTIME_STUCK = "RUNTIME_STUCK"
    UPLOAD_TOO_SLOW = "UPLOAD_TOO_SLOW"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"


# Those of single images.
IMAGE_REASONS = (
    Reason.EMPTY_IMAGE,
    Reason.IMAGE_BYTES_EXCEEDED,
    Reason.IMAGE_PIXELS_EXCEEDED,
    Reason.NOT_AN_IMAGE,
    Reason.UNSUPPORTED_FORMAT,
    Reason.TRUNCATED_IMAGE,
    Reason.CORRUPT_IMAGE,
    Reason.DECODER_FAILED,
    Reason.RAW_PIXELS_MISMATCH,
)
_SHOWN = 80  # characters


def shown(text: str) -> str:
    """A caller's text as a message may repeat it: quoted, and not so long that the message outgrows a header."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


class ServiceError(Exception):
    """A request or image that gets an error for an answer.

    Attributes:
        code: gRPC status code.
        reason: for programs.
        message: for people: what was wrong, what was received, what to do.
        field: what of the request was wrong: one of `server/fields.py`, or already the name that the callers of a
            transport use; "" where it is no single one.
        retry_after: seconds after which coming back may help; None: it will not.
    """

    code: Code

    def __init__(self, reason: Reason, message: str, *, field: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after = retry_after


class InvalidRequestError(ServiceError):
    """The request as a whole cannot be served; the caller must change it."""

    code = Code.INVALID_ARGUMENT


class InvalidImageError(ServiceError):
    """One image cannot be classified; the others of its request can."""

    code = Code.INVALID_ARGUMENT

    def of_request(self, field: str, number: int, images: int) -> InvalidImageError:
        """The same as the error of its whole request, in a protocol that has no place for the error of one image.

        Args:
            field: of the request, which held the image.
            number: of the image, from 0.
            images: how many the request had.
        """
        which = f"Image {number + 1} of {images}: " if images > 1 else ""
        return InvalidImageError(self.reason, f"{which}{self.message}", field=field)


class ModelNotFoundError(ServiceError):
    """No loaded model has the name and version asked for."""

    code = Code.NOT_FOUND


class UnauthenticatedError(ServiceError):
    """The caller has not shown who they are."""

    code = Code.UNAUTHENTICATED


class PermissionDeniedError(ServiceError):
    """The caller may not do what the call asks for."""

    code = Code.PERMISSION_DENIED


class FailedPreconditionError(ServiceError):
    """The server cannot do what the call asks for, as things stand with it."""

    code = Code.FAILED_PRECONDITION


class OverloadedError(ServiceError):
    """There is no room; refused at once instead of waiting."""

    code = Code.RESOURCE_EXHAUSTED


class UnavailableError(ServiceError):
    """The server is not ready yet, on its way out, or its runtime hangs."""

    code = Code.UNAVAILABLE


class DeadlineExceededError(ServiceError):
    """The caller's deadline passed, or the answer could not have been ready by it."""

    code = Code.DEADLINE_EXCEEDED

    def __init__(self, message: str, *, reason: Reason = Reason.DEADLINE_EXCEEDED) -> None:
        super().__init__(reason, message)


class InternalError(ServiceError):
    """A defect of the service; the log has the details under the request's id."""

    code = Code.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(Reason.INTERNAL, message)


def draining() -> UnavailableError:
    """What whoever comes during a drain is told.

    A fresh one each time: a raised exception keeps the frames that it passed through, requests and all.
    """
    return UnavailableError(Reason.DRAINING, "The server is shutting down. Use another server.")


def defect() -> InternalError:
    """What a caller is told of a defect of ours: where to look, and nothing of our insides."""
    return InternalError(
        "The server failed to process the request. Its log has the details under the x-request-id of this call."
    )
