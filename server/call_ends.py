"""How a call ended, as far as gRPC shows it, and what is wrong with bytes that are no message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from server import status
from server.doors.unpacking import TooLargeError
from server.errors import InvalidRequestError, Reason, ServiceError


def parsed(message: bytes, parse: Callable[[bytes], Any] | None) -> Any:
    """The message of a call.

    Raises:
        InvalidRequestError: expected; the bytes are none.
    """
    try:
        return message if parse is None else parse(message)
    except DecodeError as error:
        raise malformed(f"These {len(message)} bytes are no message of this method.") from error


def malformed(what: str) -> InvalidRequestError:
    """What a caller is told whose bytes are no message."""
    return InvalidRequestError(
        Reason.MALFORMED_MESSAGE, f"{what} Send one message, as glimpse/v1/classifier.proto defines it."
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


def refused_in_stream(error: BaseException) -> ServiceError | None:
    """Why the task that reads a stream ended it; None: not because of what came."""
    ended = only(_expected, error)
    if isinstance(ended, ServiceError):
        return ended
    return None if only(_cannot_parse, error) is None else malformed("A message of this stream cannot be read.")


def too_large(error: BaseException) -> bool:
    """Whether a compressed message is larger than a message may be."""
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
