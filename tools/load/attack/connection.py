"""An attacker's side of HTTP/2: many connections driven by one thread, none of which ever waits for another.

A library's client keeps to the protocol and spends most of its time on it. Here whole calls are bytes that were put
together beforehand, so that an attack is fast and leaves the cores to the server and its neighbours. What HTTP/2 asks
of a client that wants to stay connected is done: settings and pings are acknowledged, and the windows of flow control
are kept to, unless an attack is about not doing so.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence

import grpc
from hpack import Decoder

from tests.server.hostile.wire import PREFACE, frame

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = struct.pack(">I", 8)
_INITIAL_WINDOW, _MAX_FRAME, _TABLE = 4, 5, 1  # of SETTINGS
_DEFAULT_WINDOW, _DEFAULT_FRAME, _LARGEST_FRAME = 65_535, 16_384, 1 << 20
LARGEST_WINDOW = 2**31 - 1
_CHUNK = 1 << 18  # bytes that are taken from uploads at a time
_DECODED = 200  # endings of a connection whose status is read; reading each would cost more than causing it
_CODES = {str(code.value[0]): code.name for code in grpc.StatusCode}

Fields = Sequence[tuple[str | bytes, str | bytes]]


def block(fields: Fields) -> bytes:
    """Headers that are said literally, so that they may be sent any number of times (RFC 7541, section 6.2.2)."""
    out = bytearray()
    for name, value in fields:
        out += b"\x00"
        for text in (name, value):
            raw = text.encode() if isinstance(text, str) else text
            out += _integer(len(raw)) + raw
    return bytes(out)


def _integer(value: int) -> bytes:
    """A length in seven bits and as many bytes more as it takes (RFC 7541, 5.1)."""
    if value < 127:
        return bytes((value,))
    out, value = bytearray((127,)), value - 127
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes((*out, value))


def head(stream: int, fields: bytes, *, end: bool) -> bytes:
    """A call's HEADERS, in one frame: `fields` has at most 16 KiB."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, fields)


class Connection:
    """One connection, from an address of the loopback."""

    def __init__(
        self,
        port: int,
        source: str,
        *,
        window: int = LARGEST_WINDOW,
        greeting: bytes | None = None,
        reads: bool = True,
    ) -> None:
        """Begin to connect.

        Args:
            port: where the server listens, on each address of the loopback.
            source: the address to come from: 127.0.0.1, 127.0.0.2 ... or ::1.
            window: bytes of answers that the server may send for a stream.
            greeting: what is said first, instead of what HTTP/2 wants.
            reads: whether anything of what the server says is ever read.
        """
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)  # noqa: FBT003 - the library's own
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.open, self.reads = True, reads
        self.endings: Counter[str] = Counter()  # what came of calls, and of the connection
        self.ended: Callable[[int], None] = lambda stream: None  # told of each call
        self.refill: Callable[[], bytes] | None = None  # asked for more whenever all is sent
        self._next = 1
        self._out = bytearray()
        self._in = b""
        self._decoder, self._decoded = Decoder(), 0
        self._connection_window, self._initial, self._largest = _DEFAULT_WINDOW, _DEFAULT_WINDOW, _DEFAULT_FRAME
        self._more: dict[int, int] = {}  # window of a stream beyond the initial one
        self._uploads: dict[int, tuple[memoryview, bool]] = {}
        if greeting is None:
            told = struct.pack(">HIHI", _TABLE, 0, _INITIAL_WINDOW, window)
            greeting = PREFACE + frame(SETTINGS, 0, 0, told)
            if window:
                greeting += frame(WINDOW, 0, 0, struct.pack(">I", LARGEST_WINDOW - _DEFAULT_WINDOW))
        self._out += greeting
        try:
            self.socket.bind((source, 0))
            self.socket.connect(("::1" if ":" in source else "127.0.0.1", port))
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(errno.errorcode.get(error.errno or 0, "error"))

    def stream(self) -> int:
        """The number of a new stream."""
        self._next += 2
        return self._next - 2

    def say(self, words: bytes) -> None:
        """Send bytes as they are, as soon as there is room."""
        self._out += words

    def call(self, fields: bytes, body: bytes | memoryview = b"", *, end: bool = True) -> int:
        """Begin a call with a body, which is sent as far as the server allows; its stream."""
        stream = self.stream()
        self._out += head(stream, fields, end=end and not body)
        if body:
            self.upload(stream, body, end=end)
        return stream

    def upload(self, stream: int, body: bytes | memoryview, *, end: bool) -> None:
        """Send more of a call."""
        self._uploads[stream] = memoryview(body), end

    @property
    def uploading(self) -> int:
        """Calls of whose bodies there is something left to send."""
        return len(self._uploads)

    def reset(self, stream: int) -> None:
        """Leave a call."""
        self._uploads.pop(stream, None)
        self._more.pop(stream, None)
        self._out += frame(RST, 0, stream, CANCEL)

    def wants(self) -> int:
        """What to wait for, in the words of `selectors`."""
        wanted = selectors.EVENT_READ if self.reads else 0
        if self._out or self._may_upload() or self.refill is not None:
            wanted |= selectors.EVENT_WRITE
        return wanted

    def write(self) -> None:
        """Send what there is to send."""
        try:
            while self.open:
                if not self._out:
                    self._take_uploads()
                if not self._out and self.refill is not None:
                    self._out += self.refill()
                if not self._out:
                    return
                sent = self.socket.send(self._out)
                del self._out[:sent]
                if self._out:
                    return
                if self.refill is not None:
                    return  # the others' turn
        except BlockingIOError:
            return
        except OSError as error:
            self._end(errno.errorcode.get(error.errno or 0, "error"))

    def read(self) -> None:
        """Take what has come, and do what HTTP/2 asks for."""
        try:
            more = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(errno.errorcode.get(error.errno or 0, "error"))
            return
        if not more:
            self._end("closed")
            return
        words, at = self._in + more, 0
        while len(words) - at >= 9:
            end = at + 9 + int.from_bytes(words[at : at + 3])
            if end > len(words):
                break
            self._hear(words[at + 3], words[at + 4], int.from_bytes(words[at + 5 : at + 9]), words[at + 9 : end])
            at = end
        self._in = words[at:]

    def close(self, *, reset: bool = False) -> None:
        """End it; `reset`: as a crash does."""
        if self.open:
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.open = False
        self.socket.close()

    def _hear(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == HEADERS:
            how = self._status(body)
            if flags & END_STREAM:
                self._call_ended(stream, how or "ended")
        elif kind == RST:
            if code := int.from_bytes(body[:4]):  # else it follows a status
                self._call_ended(stream, f"reset by the server ({code})")
        elif kind == SETTINGS and not flags & ACK:
            self._agree(body)
        elif kind == PING and not flags & ACK:
            self._out += frame(PING, ACK, 0, body)
        elif kind == WINDOW:
            self._widen(stream, int.from_bytes(body))
        elif kind == GOAWAY:
            self.endings["told to go away"] += 1

    def _agree(self, body: bytes) -> None:
        """Take the server's settings."""
        for number, value in struct.iter_unpack(">HI", body):
            if number == _INITIAL_WINDOW:
                self._initial = value
            elif number == _MAX_FRAME:
                self._largest = min(value, _LARGEST_FRAME)
        self._out += frame(SETTINGS, ACK, 0, b"")

    def _widen(self, stream: int, more: int) -> None:
        if stream:
            self._more[stream] = self._more.get(stream, 0) + more
        else:
            self._connection_window += more

    def _status(self, body: bytes) -> str:
        if self._decoded >= _DECODED:
            return ""
        self._decoded += 1
        fields = {str(name): str(value) for name, value in self._decoder.decode(body)}
        status = fields.get("grpc-status")
        if status is not None:
            return _CODES.get(status, status)
        return "" if fields.get(":status") == "200" else f"HTTP {fields.get(':status')}"

    def _call_ended(self, stream: int, how: str) -> None:
        self._uploads.pop(stream, None)
        self._more.pop(stream, None)
        self.endings[how] += 1
        self.ended(stream)

    def _window(self, stream: int) -> int:
        return min(self._connection_window, self._initial + self._more.get(stream, 0))

    def _may_upload(self) -> bool:
        return any(self._window(stream) > 0 for stream in self._uploads)

    def _take_uploads(self) -> None:
        """The next pieces of all bodies, as far as the windows allow."""
        for stream in list(self._uploads):
            body, end = self._uploads[stream]
            size = min(self._window(stream), len(body), _CHUNK)
            if size <= 0:
                continue
            for at in range(0, size, self._largest):
                piece = body[at : min(size, at + self._largest)]
                last = end and at + len(piece) == len(body)
                self._out += struct.pack(">I", len(piece))[1:] + struct.pack(
                    ">BBI", DATA, END_STREAM if last else 0, stream
                )
                self._out += piece
            self._connection_window -= size
            self._more[stream] = self._more.get(stream, 0) - size
            if size == len(body):
                del self._uploads[stream]
            else:
                self._uploads[stream] = body[size:], end
            if len(self._out) >= _CHUNK:
                return

    def _end(self, how: str) -> None:
        self.open = False
        self.endings[f"connection: {how}"] += 1


class Crowd:
    """Connections that are driven together."""

    def __init__(self) -> None:
        """Nobody is there."""
        self._selector = selectors.DefaultSelector()
        self.connections: list[Connection] = []
        self.endings: Counter[str] = Counter()  # of connections that are no longer there

    def add(self, connection: Connection) -> Connection:
        """Drive one more."""
        self.connections.append(connection)
        if connection.open:
            self._selector.register(connection.socket, connection.wants() or selectors.EVENT_WRITE, connection)
        return connection

    def remove(self, connection: Connection, *, reset: bool = False) -> None:
        """Close one and drive it no more; what came of it is kept."""
        self.connections.remove(connection)
        self.endings.update(connection.endings)
        if connection.socket.fileno() >= 0 and connection.socket in self._selector.get_map():
            self._selector.unregister(connection.socket)
        connection.close(reset=reset)

    def turn(self, patience: float) -> list[Connection]:
        """Let each do what it can, waiting for `patience` seconds at most; those that have ended by now."""
        end = time.monotonic() + patience
        for connection in self.connections:
            if not connection.open:
                continue
            wanted = connection.wants()
            key = self._selector.get_key(connection.socket)
            if wanted and wanted != key.events:
                self._selector.modify(connection.socket, wanted, connection)
        for key, events in self._selector.select(max(0.0, end - time.monotonic())):
            connection = key.data
            if events & selectors.EVENT_READ and connection.reads:
                connection.read()
            if events & selectors.EVENT_WRITE and connection.open:
                connection.write()
        return [connection for connection in self.connections if not connection.open]

    def close(self) -> Counter[str]:
        """End all of them as crashes do; what came of all calls and connections."""
        for connection in list(self.connections):
            self.remove(connection, reset=True)
        self._selector.close()
        return self.endings
