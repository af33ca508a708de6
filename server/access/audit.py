"""The audit log: a line of JSON a call, for whoever has to know afterwards who asked for what.

Nothing of an image is in it, and nothing of a token. Health checks are not: they reach no model, anybody may make them,
and there would be more of them than of all else. Nor are connections that never became a call. A connection has a line
where it was closed because its caller's certificate may no longer be good, or because of a flood.

All workers of a server append to the same file, whole lines each, and each opens it anew where it was renamed away.

What was let in has its line each time. Of those who were refused before they had shown who they are, the first few of
each address and reason have one, then one a second, with how many were left out: else strangers would fill the disk.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

import structlog

from glimpse.server.access.call_context import CallContext
from glimpse.server.floods.penalties import Penalty
from glimpse.server.processes.startup import StartupError
from glimpse.server.sampling import LeftOut, Sampled

_log = structlog.get_logger(__name__)

_WAITING = 10_000  # lines; some megabytes, while a disk does not answer
_LINE = "line"
# How a call ends that was let in; the last two, which a caller can bring about at any moment, if it had images by then.
_LET_IN = frozenset({"OK", "INTERNAL", "UNKNOWN", "DATA_LOSS"})
_LEFT = frozenset({"CANCELLED", "DEADLINE_EXCEEDED"})


class Audit:
    """Writes beside the event loop: no call waits for the disk, and none fails because of it."""

    def __init__(self, file: Path) -> None:
        """Open the file to append, readable for its owner alone where it is new.

        Raises:
            StartupError: expected; it cannot be opened.
        """
        try:
            handler = _File(file)
        except OSError as error:
            raise StartupError(
                f"The audit log {file} cannot be opened: {error.strerror}. Choose another GLIMPSE_AUDIT_LOG."
            ) from error
        handler.setFormatter(_Json())
        self._queue: queue.Queue[logging.LogRecord] = queue.Queue(_WAITING)
        self._listener = logging.handlers.QueueListener(self._queue, handler)
        self._handler = handler
        self._listener.start()
        self._full = False
        self._sampled = Sampled(self._tell_left_out)

    def write(self, call: CallContext, *, code: str, reason: str, seconds: float, stream_id: str | None = None) -> None:
        """Write down how a call ended, or one request of a stream."""
        left_out: int | None = 0
        if not (call.identity or code in _LET_IN or (code in _LEFT and call.images)):
            left_out = self._sampled.left_out(call.who, code, reason)
            if left_out is None:
                return
        line: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(),
            "request_id": call.request_id,
            "identity": call.identity,
            "peer": call.peer,
            **({"address": call.address} if call.address else {}),
            "method": call.method,
            **({} if stream_id is None else {"piece": stream_id}),
            "model": call.model,
            **({"detail": call.detail} if call.detail else {}),
            "images": call.images,
            "bytes": call.bytes,
            "code": code,
            "reason": reason,
            "seconds": round(seconds, 6),
            **({"left_out": left_out} if left_out else {}),
        }
        self._put(line)

    def connection_ended(self, peer: str, why: str) -> None:
        """Write down that the connection of a `peer`, `address:port`, was closed as its certificate may not be good."""
        self._put({"time": datetime.now(UTC).isoformat(), "event": "connection closed", "peer": peer, "detail": why})

    def closed(self, penalty: Penalty, connections: int) -> None:
        """Write down that so many connections of an address were closed, and for how long it may open no new ones."""
        self._put(
            {
                "time": datetime.now(UTC).isoformat(),
                "event": "connections closed",
                "address": penalty.address,
                "reason": penalty.reason,
                "connections": connections,
                "blocked_seconds": penalty.seconds,
            }
        )

    def _tell_left_out(self, left_out: LeftOut) -> None:
        self._put(
            {
                "time": datetime.now(UTC).isoformat(),
                "who": left_out.who,
                "code": left_out.code,
                "reason": left_out.reason,
                "left_out": left_out.lines,
            }
        )

    def _put(self, line: dict[str, object]) -> None:
        record = logging.makeLogRecord({_LINE: line})
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            if not self._full:
                _log.warning("audit lines are lost", detail="The disk is slower than the calls arrive.")
            self._full = True
        else:
            self._full = False

    def close(self) -> None:
        """Write what is left and close the file."""
        self._sampled.close()
        self._listener.stop()
        self._handler.close()


class _Json(logging.Formatter):
    """A record's line as JSON; made in the thread that writes it."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(record.__dict__[_LINE])


class _File(logging.handlers.WatchedFileHandler):
    """Opened anew when it was renamed away; warns once when it cannot be written, until it can."""

    def __init__(self, file: Path) -> None:
        self._failed = False
        super().__init__(file, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_private)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            self.reopenIfNeeded()
            if self.stream is None:
                self.stream = self._open()
            # By one call, to a file that is open to append: so the lines of several processes do not mix.
            left = memoryview(f"{self.format(record)}\n".encode())
            while left:  # more than once only where a disk becomes full
                left = left[os.write(self.stream.fileno(), left) :]
        except OSError as error:
            if not self._failed:
                _log.warning("audit lines are lost", detail=f"{self.baseFilename}: {error.strerror}")
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        """Close the file, even where what is left cannot be written."""
        try:
            super().close()
        except OSError as error:
            _log.warning("audit lines are lost", detail=f"{self.baseFilename}: {error.strerror}")


def _private(path: str, flags: int) -> int:
    # To open a named pipe that nobody reads would wait for a reader: here it is an error.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o600)
    os.set_blocking(descriptor, True)
    return descriptor
