"""What a process that the server began says on standard error: read by us, so that it never comes out unread.

Frameworks greet the world there before they can be told not to, and in a form of their own. What is a line of our own
structured log is logged again as that; all else is chatter, logged at debug. The last lines are kept: where the process
fails, they are part of the diagnosis.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from typing import IO

import structlog

_log = structlog.get_logger(__name__)
_chatter = logging.getLogger(__name__)  # the same one

_LINE = 2000  # bytes of a line that are read at once; more of it counts as another line
_KEPT = 20  # lines
_TOLD = 600  # characters of the diagnosis
_LEVELS = {"debug", "info", "warning", "error", "critical"}


class ChildOutput:
    """Reads one process's standard error to its end, in a thread of its own."""

    def __init__(self, stream: IO[bytes], who: str) -> None:
        """Begin to read; the stream is closed at its end.

        Args:
            stream: the pipe, from `subprocess.Popen`.
            who: the process, for the log.
        """
        self._stream = stream
        self._who = who
        self._last: deque[str] = deque(maxlen=_KEPT)
        self._thread = threading.Thread(target=self._read, name=f"output of {who}", daemon=True)
        self._thread.start()

    def tail(self, seconds: float = 1.0) -> str:
        """The last that was said, on one line and of bounded length; "" where nothing was.

        Args:
            seconds: to wait for the end of what is said; a process that has ended may have left the pipe to another.
        """
        self._thread.join(seconds)
        said = " | ".join(list(self._last))
        return said if len(said) <= _TOLD else "..." + said[-_TOLD:]

    def _read(self) -> None:
        with self._stream:
            try:
                while line := self._stream.readline(_LINE):
                    self._take(line.decode(errors="replace").strip())
            except (OSError, ValueError):  # closed by somebody else: nobody wants to hear more
                return

    def _take(self, line: str) -> None:
        if not line:
            return
        logged = _logged(line)
        if logged is None:
            self._last.append(line)
            _chatter.debug("said by a process", extra={"process_kind": self._who, "line": line})
            return
        level, event, fields = logged
        self._last.append(f"{event}: {fields['detail']}" if "detail" in fields else event)
        _log.log(level, event, **{**fields, "process_kind": self._who})


def _logged(line: str) -> tuple[int, str, dict[str, object]] | None:
    """Level, event and the rest of a line of our own log; None where it is something else."""
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    level, event = fields.pop("level", None), fields.pop("event", None)
    if not isinstance(level, str) or level not in _LEVELS or not isinstance(event, str):
        return None
    fields.pop("timestamp", None)
    return logging.getLevelNamesMapping()[level.upper()], event, fields
