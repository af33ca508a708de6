"""Limits of a download: its least rate and its longest duration, whatever the publisher's server sends.

Bytes are counted as they come from the connection, because headers, the framing of chunks and trailers can be as slow,
or as endless, as the file itself. So a server cannot hold up a start by sending a byte now and then.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MORE = 1 << 20  # bytes of an attempt that are not the file's: headers, and some framing


class FetchError(RuntimeError):
    """A file cannot be brought here; the message says why, and what to do."""


class TryAgainError(Exception):
    """This attempt has failed; another one may do better."""

    def __init__(self, reason: object, wait: float = 0.0) -> None:
        """Begin with the reason, and the seconds for which the server asks."""
        super().__init__(str(reason) or type(reason).__name__)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient and how generous a download is.

    The largest checkpoint of the catalogue, 0.6 GB, comes at 28 kB/s or more within the time; what is slower goes on at
    the next start.
    """

    timeout: float = 30.0  # seconds without a byte until a connection counts as stalled
    attempts: int = 4  # in a row that bring the file no further at the least rate
    backoff: float = 1.0  # seconds before the second of them; twice as long before each one after it
    limit: int = 2 << 30  # bytes of a file; the largest checkpoint of the catalogue has 0.6 GB
    rate: float = 10_000.0  # bytes a second that a connection brings at the least, over each window of time
    window: float = 60.0  # seconds
    seconds: float = 6 * 3600.0  # of a whole download, with all attempts and pauses
    clock: Callable[[], float] = time.monotonic


class Pace:
    """The time of one download, over all of its attempts."""

    def __init__(self, url: str, policy: Policy, size: int) -> None:
        """The time begins, with so many bytes of the file there."""
        self._url = url
        self._policy = policy
        self._ends = policy.clock() + policy.seconds
        self._progress = (policy.clock(), size)  # when the file was last seen to grow at the least rate, and its size
        self._window = (0.0, 0)  # when it began, and the bytes of this attempt until then
        self._received = 0  # bytes of this attempt

    def attempt(self) -> None:
        """An attempt begins.

        Raises:
            FetchError: the whole time is over.
        """
        self._refuse_late()
        self._received = 0
        self._window = (self._policy.clock(), 0)

    def received(self, count: int) -> None:
        """So many bytes have come from the connection, of whatever.

        Raises:
            FetchError: the whole time is over.
            TryAgainError: too few of them come in a second, or more than a file of the largest size has.
        """
        now = self._refuse_late()
        self._received += count
        if self._received > self._policy.limit + _MORE:
            raise TryAgainError("the server sends more than a file of the largest size has")
        begun, before = self._window
        if now - begun >= self._policy.window:
            rate = (self._received - before) / (now - begun)
            if rate < self._policy.rate:
                raise TryAgainError(
                    f"the server sent {rate:,.0f} bytes a second for {now - begun:.0f} seconds, and "
                    f"{self._policy.rate:,.0f} are the least"
                )
            self._window = (now, self._received)

    def grew(self, size: int) -> bool:
        """Whether a file of this size has grown at the least rate since that was last so, over a second or more.

        Pauses count: a byte of each of many connections is no progress.
        """
        now, (then, before) = self._policy.clock(), self._progress
        if size <= before or size - before < self._policy.rate * max(1.0, now - then):
            return False
        self._progress = (now, size)
        return True

    def _refuse_late(self) -> float:
        if (now := self._policy.clock()) >= self._ends:
            raise FetchError(
                f"{self._url} has not come within {self._policy.seconds:,.0f} seconds, the most that a download takes. "
                "Start again to go on with what has come, where the server allows that."
            )
        return now


def opener(pace: Pace, *handlers: type[urllib.request.BaseHandler]) -> urllib.request.OpenerDirector:
    """What opens addresses and counts what comes from every connection, those to a proxy included."""
    response = type("_Counted", (_Response,), {"pace": pace})
    return urllib.request.build_opener(_Http(response), _Https(response), *handlers)


class _Response(http.client.HTTPResponse):
    pace: Pace

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Raw(self.fp.detach(), self.pace))


class _Raw(io.RawIOBase):
    """A connection's bytes, counted as they come."""

    def __init__(self, connection: io.RawIOBase, pace: Pace) -> None:
        self._connection = connection
        self._pace = pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        count: int | None = self._connection.readinto(buffer)
        self._pace.received(count or 0)
        return count

    def fileno(self) -> int:
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()
        super().close()


class _Http(urllib.request.HTTPHandler):
    def __init__(self, response: type[http.client.HTTPResponse]) -> None:
        super().__init__()
        self._response = response

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_connection, http.client.HTTPConnection, self._response), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, response: type[http.client.HTTPResponse]) -> None:
        self._trusted = ssl.create_default_context()
        super().__init__(context=self._trusted)
        self._response = response

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(
            partial(_connection, http.client.HTTPSConnection, self._response), req, context=self._trusted
        )


def _connection(
    kind: type[http.client.HTTPConnection], response: type[http.client.HTTPResponse], host: str, **options: Any
) -> http.client.HTTPConnection:
    connection = kind(host, **options)
    connection.response_class = response
    return connection
