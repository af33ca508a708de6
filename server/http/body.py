"""The body of a request: read in its turn, within the limit of bytes, and never decompressed."""

from __future__ import annotations

from typing import Any, NamedTuple

from starlette.requests import Request

from glimpse.server.errors import shown
from glimpse.server.http.problems import BodyTooLargeError, UnsupportedEncodingError


class CallerLeftError(Exception):
    """The connection ended before the body did; nobody is there to be told."""


class Limit(NamedTuple):
    """How large a body may be."""

    most: int = 0  # bytes
    setting: str = ""  # that says so


NO_BODY = Limit()


def check_head(request: Request, limit: Limit) -> None:
    """Refuse by its head a request whose body is compressed or too large.

    Raises:
        BodyTooLargeError, UnsupportedEncodingError: expected.
    """
    encoding = request.headers.get("content-encoding", "identity").strip()
    if encoding.lower() not in {"", "identity"}:
        raise UnsupportedEncodingError(shown(encoding))
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit.most:
        raise BodyTooLargeError(*limit)


async def read_body(receive: Any, limit: Limit) -> bytes:
    """The whole body.

    Args:
        receive: of ASGI.
        limit: how large it may be.

    Raises:
        BodyTooLargeError: expected; it has more, which its head did not say.
        CallerLeftError: expected; the connection has ended.
    """
    body = bytearray()  # and no list: a body that comes byte by byte would take fifty times its size
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerLeftError
        body += message.get("body", b"")
        if len(body) > limit.most:
            raise BodyTooLargeError(*limit)
        if not message.get("more_body", False):
            return bytes(body)
