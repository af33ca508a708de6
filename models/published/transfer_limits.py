"""Limits of a download: a minimum transfer rate, a maximum duration and a maximum size.

All bytes of a connection are counted, because headers, chunk framing and trailers can be as slow or as long as the file
itself. So a server cannot delay a start for ever by sending a byte now and then.
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
    """A file cannot be downloaded; the message says why, and what to do."""


class RetryableError(Exception):
    """An attempt has failed; another one may succeed."""

    def __init__(self, reason: object, wait: float = 0.0) -> None:
        """`wait` is the number of seconds that the server asks to wait."""
        super().__init__(str(reason) or type(reason).__name__)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadPolicy:
    """Time-outs, retries and limits of a download.

    The largest checkpoint of the catalogue, 0.6 GB, is downloaded within the maximum duration at 28 kB/s or more; a
    slower download is resumed at the next start.
    """

    timeout: float = 30.0  # seconds without a byte until a connection counts as stalled
    attempts: int = 4  # consecutive attempts without progress at the minimum rate
    backoff: float = 1.0  # seconds before the second attempt; doubled before each further one
    limit: int = 2 << 30  # bytes of a file; the largest checkpoint of the catalogue has 0.6 GB
    rate: float = 10_000.0  # minimum rate of a connection over each window, bytes a second
    window: float = 60.0  # seconds
    seconds: float = 6 * 3600.0  # maximum duration of a download, all attempts and pauses included
    clock: Callable[[], float] = time.monotonic


class TransferLimits:
    """Enforces the limits of one download over all of its attempts."""

    def __init__(self, url: str, policy: DownloadPolicy, size: int) -> None:
        """Start the clock; `size` is the number of bytes of the file that are present already."""
        self._url = url
        self._policy = policy
        self._ends = policy.clock() + policy.seconds
        self._progress = (policy.clock(), size)  # when the file was last seen to grow at the least rate, and its size
        self._window = (0.0, 0)  # when it began, and the bytes of this attempt until then
        self._received = 0  # bytes of this attempt

    def attempt(self) -> None:
        """Begin an attempt.

        Raises:
            FetchError: the maximum duration is exceeded.
        """
        self._refuse_late()
        self._received = 0
        self._window = (self._policy.clock(), 0)

    def received(self, count: int) -> None:
        """Count bytes that were received from the connection.

        Raises:
            FetchError: the maximum duration is exceeded.
            RetryableError: the rate is below the minimum, or more was received than the maximum size.
        """
        now = self._refuse_late()
        self._received += count
        if self._received > self._policy.limit + _MORE:
            raise RetryableError("the server sends more than the maximum size of a file")
        begun, before = self._window
        if now - begun >= self._policy.window:
            rate = (self._received - before) / (now - begun)
            if rate < self._policy.rate:
                raise RetryableError(
                    f"the server sent {rate:,.0f} bytes a second for {now - begun:.0f} seconds; the minimum is "
                    f"{self._policy.rate:,.0f}"
                )
            self._window = (now, self._received)

    def grew(self, size: int) -> bool:
        """Whether the file, now of this size, has grown at the minimum rate since the last progress.

        Pauses are part of the time: a byte from each of many connections is no progress.
        """
        now, (then, before) = self._policy.clock(), self._progress
        if size <= before or size - before < self._policy.rate * max(1.0, now - then):
            return False
        self._progress = (now, size)
        return True

    def _refuse_late(self) -> float:
        if (now := self._policy.clock()) >= self._ends:
            raise FetchError(
                f"{self._url} was not downloaded within {self._policy.seconds:,.0f} seconds, the maximum duration. "
                "Start again to resume the download, if the server supports that."
            )
        return now


def build_opener(limits: TransferLimits, *handlers: type[urllib.request.BaseHandler]) -> urllib.request.OpenerDirector:
    """An opener of URLs that counts the bytes of every connection, those to a proxy included."""
    response = type("_Counted", (_Response,), {"limits": limits})
    return urllib.request.build_opener(_Http(response), _Https(response), *handlers)


class _Response(http.client.HTTPResponse):
    limits: TransferLimits

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Raw(self.fp.detach(), self.limits))


class _Raw(io.RawIOBase):
    """A connection's bytes, counted as they come."""

    def __init__(self, connection: io.RawIOBase, limits: TransferLimits) -> None:
        self._connection = connection
        self._limits = limits

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        count: int | None = self._connection.readinto(buffer)
        self._limits.received(count or 0)
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
