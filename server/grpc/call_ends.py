"""The status with which a call ended, as far as gRPC shows it, and errors for bytes that are no valid message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from glimpse.server.errors import InvalidRequestError, Reason, ServiceError
from glimpse.server.grpc import status
from glimpse.server.grpc.decompression import TooLargeError
from glimpse.server.nouns import noun


def parsed(message: bytes, parse: Callable[[bytes], Any] | None) -> Any:
    """The message of a call.

    Raises:
        InvalidRequestError: expected; the bytes are none.
    """
    try:
        return message if parse is None else parse(message)
    except DecodeError as error:
        size = f"{len(message)} {noun(len(message), 'byte')}"
        raise malformed(f"What was received, {size}, is not a message of this method.") from error


def malformed(what: str) -> InvalidRequestError:
    """What a caller is told whose bytes are no message."""
    return InvalidRequestError(
        Reason.MALFORMED_MESSAGE, f"{what} Send one message, as the .proto of the method defines it."
    )


def ended_by_peer(context: Any) -> grpc.StatusCode:
    """CANCELLED or DEADLINE_EXCEEDED: gRPC ends the handler alike, but only an expired deadline leaves no time."""
    remaining = context.time_remaining()
    expired = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED


def only(kind: Callable[[BaseException], bool], error: BaseException) -> BaseException | None:
    """The error of that kind, also where several tasks of a stream met it at once; None where there is any other."""
    if isinstance(error, BaseExceptionGroup):
        leaves = [only(kind, each) for each in error.exceptions]
        return leaves[0] if all(leaf is not None for leaf in leaves) else None
    return error if kind(error) else None


def content_refused(error: BaseException) -> tuple[grpc.StatusCode, str, ServiceError | TooLargeError | None]:
    """How a call ends whose message, or a task that reads a stream, met `error`: status, reason, and what is told.

    A compressed message that is too large is refused as gRPC refuses one that is not, without a reason. None: it was
    nothing that came, but a defect of ours.
    """
    ended = only(_too_large, error) or only(_expected, error)
    if ended is None and only(_cannot_parse, error) is not None:
        ended = malformed("A message of this call cannot be read.")
    if ended is not None and ended is not error:
        ended.__cause__ = error  # so that whoever lets go of the one lets go of the other
    if isinstance(ended, TooLargeError):
        return grpc.StatusCode.RESOURCE_EXHAUSTED, "", ended
    if isinstance(ended, ServiceError):
        return status.code(ended), ended.reason.value, ended
    return grpc.StatusCode.INTERNAL, Reason.INTERNAL.value, None


def _too_large(error: BaseException) -> bool:
    return isinstance(error, TooLargeError)


def _expected(error: BaseException) -> bool:
    return isinstance(error, ServiceError)


def _cannot_parse(error: BaseException) -> bool:
    return isinstance(error, DecodeError)


def cannot_send(error: BaseException) -> bool:
    """gRPC's error for a call that is over. It has no public name, so it is known by the one that it has."""
    return any(each.__name__ == "ExecuteBatchError" for each in type(error).__mro__)


def status_of(value: Any) -> grpc.StatusCode:
    """grpc.aio hands back the number of the code that it was given."""
    return value if isinstance(value, grpc.StatusCode) else status.CODES[int(value)]
