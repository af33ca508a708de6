"""A worker's end of the socket to an engine: records out, no more often than once a turn of the event loop, and in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Sequence

from glimpse.server.engine.records import Inbox, Record

_log = logging.getLogger(__name__)

_READ = 256 << 10  # bytes at once: the answers of a large batch
_NO_WAIT = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # joined once: enumerations take a while for it


class Link:
    """At most one connection at a time. What is marked so is to be called with the lock, by any thread.

    Of what the event loop says the engine is told once a turn; other threads tell it at once.
    """

    def __init__(
        self, lock: threading.Lock, *, heard: Callable[[Sequence[Record]], object], lost: Callable[[], object]
    ) -> None:
        """Make one without a connection. Needs a running event loop.

        Args:
            lock: guards what is said, together with what its owner keeps of it.
            heard: called on the event loop with what has come.
            lost: called on the event loop when the connection has ended by itself.
        """
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._lock, self._heard, self._lost = lock, heard, lost
        self._socket: socket.socket | None = None
        self._inbox = Inbox()
        self._out: list[bytes] = []  # records that are not sent yet
        self._scheduled = self.blocked = False  # whether what is said waits for the loop; for the socket to take it

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._socket is not None

    @property
    def on_loop(self) -> bool:
        """Whether this is the event loop's thread."""
        return threading.get_ident() == self._thread

    def open(self, connected: socket.socket) -> None:
        """With the lock: use a connection from now on, on the event loop; `greet` says what comes first.

        `connected`: a Unix socket, a stream, which belongs to the link from now on.
        """
        connected.settimeout(0.0)
        self._socket, self._inbox, self.blocked = connected, Inbox(), False
        self._out.clear()
        self._loop.add_reader(connected, self._readable)

    def greet(self, first: bytes, file: int) -> None:
        """With the lock: send the first record of a connection, and a file beside it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the engine is gone already, which reading will tell
                socket.send_fds(self._socket, [first], [file], _NO_WAIT)

    def say(self, record: bytes) -> None:
        """With the lock: tell the engine, at the end of the event loop's turn where that is who asks, else now."""
        self._out.append(record)
        if self.blocked:
            return
        if threading.get_ident() != self._thread:
            self._send()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def say_before(self, record: bytes) -> None:
        """With the lock: tell the engine with whatever is said next."""
        self._out.append(record)

    def disconnect(self) -> socket.socket | None:
        """With the lock: forget the connection, which is returned to be closed, and what was to be said over it."""
        connected, self._socket = self._socket, None
        self._out.clear()
        self.blocked = False
        return connected

    def close(self, connected: socket.socket | None) -> None:
        """Close a connection that was forgotten; on the event loop."""
        if connected is not None:
            self._loop.remove_reader(connected)
            self._loop.remove_writer(connected)
            connected.close()

    def _flush(self) -> None:
        with self._lock:
            self._scheduled = False
            if not self.blocked:
                self._send()

    def _send(self) -> None:
        """With the lock: send what there is; what does not fit waits until the socket takes it."""
        if not self._out or self._socket is None:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        try:
            sent = self._socket.send(data, _NO_WAIT)
        except BlockingIOError:
            sent = 0
        except OSError:  # the engine is gone, which reading tells
            return
        if sent < len(data):
            self._out.append(data[sent:])
            if not self.blocked:
                self.blocked = True
                self._loop.call_soon_threadsafe(self._await_room, self._socket)

    def _await_room(self, connected: socket.socket) -> None:
        if connected is self._socket:
            self._loop.add_writer(connected, self._writable)

    def _writable(self) -> None:
        with self._lock:
            self._send()
            if not self._out and self._socket is not None:
                self.blocked = False
                self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            found = self._inbox.take(data)
        except ValueError:
            _log.exception("the engine says what cannot be; the connection to it is given up")
            data = b""
        if data:
            self._heard(found)
        else:
            self._lost()
