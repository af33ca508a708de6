"""A connection on which anything can be said: gRPC and HTTP/2 by their bytes, right ones and wrong ones.

A client of a library cannot be made to break the protocol. This one says what it is told to, frame by frame or byte by
byte, and tells how a stream or the connection ended, in one word or two:

    OK, INVALID_ARGUMENT ...    the call's status
    HTTP 415                    an answer that is not gRPC's
    RST CANCEL                  the stream was reset, with this code
    GOAWAY PROTOCOL_ERROR       the server says good-bye to the connection, with this code
    closed                      the connection is gone without a word
    waits                       the server has read everything, and waits for the rest
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import grpc
from h2.errors import ErrorCodes
from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.server.conftest import TIMEOUT

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CLASSIFY = "/glimpse.v1.ImageClassifier/Classify"
STREAM = "/glimpse.v1.ImageClassifier/ClassifyStream"
DESCRIBE = "/glimpse.v1.ImageClassifier/DescribeModel"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
_PATIENCE = 2.0  # seconds, until a server that does not read is said to have stopped
_FRAME = 16_384  # bytes of a frame, unless the other side allows more
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}

Headers = Sequence[tuple[str | bytes, str | bytes]]


def call(path: str = CLASSIFY, *more: tuple[str | bytes, str | bytes]) -> list[tuple[str | bytes, str | bytes]]:
    """The headers of a good call, and `more` behind them."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "127.0.0.1"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]


def but(headers: Headers, name: str, value: str | bytes | None) -> list[tuple[str | bytes, str | bytes]]:
    """The headers with another value of one of them; None: without it."""
    return [(key, value if key == name else old) for key, old in headers if key != name or value is not None]  # type: ignore[misc]


def message(payload: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message behind its prefix, which may lie about the length."""
    return struct.pack(">BI", flag, len(payload) if length is None else length) + payload


def frame(kind: int, flags: int, stream: int, payload: bytes, *, length: int | None = None) -> bytes:
    """Any HTTP/2 frame, of a kind that there need not be, and of a length that may lie."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Wire:
    """One connection."""

    def __init__(
        self, target: str, *, greeted: bool = True, settings: dict[int, int] | None = None, source: str = ""
    ) -> None:
        """Connect to `host:port`; `greeted`: and say what HTTP/2 begins with, with these `settings`.

        `source`: from this address of the machine, of which Linux has all of 127.0.0.0/8.
        """
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), TIMEOUT, (source, 0) if source else None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._encoder, self._decoder = Encoder(), Decoder()
        # What these tests put into headers shall be repeated as it is, and not by its number.
        self._encoder.header_table_size = 0
        self._read = b""
        self._statuses: dict[int, str] = {}
        self.closed = False
        self.frames: list[Frame] = []  # all that came
        if greeted:
            self.send(PREFACE, SettingsFrame(0, settings=settings or {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def cut(self) -> None:
        """End the connection as a crash does: with a reset, and not with a good-bye."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def send(self, *pieces: bytes | Frame) -> bool:
        """Send them; False where the server has closed the connection meanwhile, or takes no more."""
        try:
            self._socket.sendall(b"".join(p if isinstance(p, bytes) else p.serialize() for p in pieces))
        except OSError:
            return False
        return True

    def send_or_hear(self, words: bytes) -> None:
        """Send as much as the server takes, reading what it says meanwhile, so that neither waits for the other."""
        self._socket.setblocking(False)  # noqa: FBT003 - the library's own
        try:
            while words:
                readable, writable, _ = select.select([self._socket], [self._socket], [], _PATIENCE)
                if not readable and not writable:
                    return  # it reads no more: that is its answer
                if readable and not self._socket.recv(1 << 20):
                    return
                if writable:
                    words = words[self._socket.send(words[: 1 << 16]) :]
        except OSError:
            return
        finally:
            self._socket.settimeout(TIMEOUT)

    def headers(self, stream: int, headers: Headers, *, end: bool = False) -> bytes:
        """HEADERS, and CONTINUATION where they are many; `end`: and nothing follows."""
        block = self._encoder.encode(headers, huffman=False)
        parts = [block[at : at + _FRAME] for at in range(0, len(block), _FRAME)] or [b""]
        kinds = [1] + [9] * (len(parts) - 1)
        flags = [(1 if end else 0) if kind == 1 else 0 for kind in kinds]
        flags[-1] |= 4
        return b"".join(frame(k, f, stream, part) for k, f, part in zip(kinds, flags, parts, strict=True))

    def data(self, stream: int, payload: bytes, *, end: bool = True) -> bytes:
        """DATA, in as many frames as it takes."""
        parts = [payload[at : at + _FRAME] for at in range(0, len(payload), _FRAME)] or [b""]
        last = len(parts) - 1
        return b"".join(frame(0, 1 if end and n == last else 0, stream, part) for n, part in enumerate(parts))

    def begin(self, stream: int, body: bytes, *, headers: Headers | None = None, end: bool = True) -> bool:
        """A call with this body, as far as it fits into the windows of the beginning (64 KiB)."""
        return self.send(self.headers(stream, headers or call()), self.data(stream, body, end=end))

    def ending(self, stream: int = 1, *, ping: bool = False) -> str:
        """How the stream, or the connection with it, ended; with `ping`: `waits`, if that is answered first."""
        if stream in self._statuses:
            return self._statuses[stream]
        if ping:
            self.send(PingFrame(0, b"areyouup"))
        for each in self.read():
            if stream in self._statuses:
                return self._statuses[stream]
            if isinstance(each, GoAwayFrame) and (each.error_code or each.last_stream_id < stream):
                return f"GOAWAY {_name(each.error_code)}"
            if isinstance(each, PingFrame) and "ACK" in each.flags and each.opaque_data == b"areyouup":
                return "waits"
        return "closed"

    def alive(self) -> bool:
        """Whether the server still answers on this connection."""
        return self.ending(0, ping=True) == "waits"

    def read(self) -> Iterable[Frame]:
        """The frames as they come, until the connection ends; what HTTP/2 asks for is answered."""
        while True:
            while len(self._read) >= 9:
                head, length = Frame.parse_frame_header(memoryview(self._read[:9]))
                if len(self._read) < 9 + length:
                    break
                head.parse_body(memoryview(self._read[9 : 9 + length]))
                self._read = self._read[9 + length :]
                self._note(head)
                yield head
            try:
                more = self._socket.recv(65_536)
            except TimeoutError:
                raise AssertionError(f"No word from the server for {TIMEOUT:.0f} s; so far {self.frames}") from None
            except OSError:
                more = b""
            if not more:
                self.closed = True
                return
            self._read += more

    def _note(self, each: Frame) -> None:
        self.frames.append(each)
        if isinstance(each, SettingsFrame) and "ACK" not in each.flags:
            self.send(SettingsFrame(0, flags=["ACK"]))
        elif isinstance(each, HeadersFrame):
            fields = {str(name): str(value) for name, value in self._decoder.decode(each.data)}
            if "grpc-status" in fields:
                self._statuses[each.stream_id] = _CODES[int(fields["grpc-status"])]
            elif fields.get(":status", "200") != "200":
                self._statuses[each.stream_id] = f"HTTP {fields[':status']}"
        elif isinstance(each, RstStreamFrame):
            self._statuses.setdefault(each.stream_id, f"RST {_name(each.error_code)}")
        elif isinstance(each, PingFrame) and "ACK" not in each.flags:
            self.send(PingFrame(0, each.opaque_data, flags=["ACK"]))
        elif isinstance(each, DataFrame) and each.data:
            self.send(WindowUpdateFrame(0, window_increment=len(each.data)))


def plain(target: str, words: bytes) -> bytes:
    """What the server says to a connection that does not speak HTTP/2, until it closes it."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as connection:
        answer = b""
        try:
            connection.sendall(words)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65_536):
                answer += more
        except OSError as error:  # it may have closed before all was said
            if isinstance(error, TimeoutError):
                raise
        return answer


def _name(code: int) -> str:
    return ErrorCodes(code).name if code in set(ErrorCodes) else str(code)
