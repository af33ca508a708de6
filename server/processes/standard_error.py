"""Standard error as a log of JSON alone: what libraries write there past Python's logging becomes log lines, too.

TensorFlow, abseil and gRPC write from C++, the parser of the command line and Python itself print. Where the log is
JSON, one such line in a thousand is what a collector cannot parse. So descriptor 2 becomes a pipe, and a thread makes a
log line of each line that comes out of it; the log itself goes to where descriptor 2 led before.
"""

from __future__ import annotations

import atexit
import faulthandler
import io
import logging
import os
import re
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from glimpse.server import logs

_log = logging.getLogger("standard_error")
_LONGEST = 64 * 1024  # bytes of one line; what is longer is cut into several
_CLOSING_SECONDS = 2.0  # without a line, after which the last ones are given up at the end: nobody reads the log
# abseil's: severity, month and day, time, thread, file and line; TensorFlow's own: time and severity.
_SAID = re.compile(r"([IWEF])\d{4} [\d:.]{12,} +\d+ \S+:\d+\] |\d{4}-\d\d-\d\d [\d:.]{8,}: ([IWEF]) ")
_SEVERITY = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}


def form(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """How the log is to look, by flags and environment alone: "json" or "text", also where the settings are not valid.

    A file of settings is read as far as it can be. Anything that is no form counts as `auto`.
    """
    asked = _asked(arguments, environment)
    if asked in ("json", "text"):
        return asked
    return "text" if sys.stderr.isatty() else "json"


def _asked(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    flags = ("--log-format", "--log_format")
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=False):
        name, separator, attached = flag.partition("=")
        if name in flags:
            return (attached if separator else value).strip()
    named = {key.upper(): value for key, value in environment.items()}.get("GLIMPSE_LOG_FORMAT")
    return named.strip() if named is not None else _in_file(arguments, environment)


def _in_file(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    import tomllib

    from glimpse.models.files import bounded_files

    name = environment.get("GLIMPSE_CONFIG", "")
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if flag == "--config" or flag.startswith("--config="):
            name = flag.partition("=")[2] or value
    try:
        return str(tomllib.loads(bounded_files.read_text(Path(name))).get("log_format", ""))
    except (OSError, ValueError):
        return ""


class Captured:
    """Descriptor 2, captured from its making until `close`. One for the process."""

    def __init__(self) -> None:
        """Begin. The log goes to where standard error led until now."""
        sys.stderr.flush()
        self._real = os.dup(2)
        self._end = uuid.uuid4().hex.encode()  # nobody else writes this line
        self._closed = False
        self._told = 0  # lines
        source, sink = os.pipe()
        os.dup2(sink, 2)  # which a process that a library begins inherits; of ours `child_output` reads it
        os.close(sink)
        # Not closed by Python's own end: whatever is said then still has to get out.
        stream = io.TextIOWrapper(
            io.FileIO(self._real, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
        )
        logs.send_to(stream)
        logging.raiseExceptions = False  # it would be told on standard error, and so without end
        # A crash leaves nobody who could read the pipe. This is text, but it is not lost.
        faulthandler.enable(stream)
        self._hook()
        self._reader = threading.Thread(target=self._read, args=(source,), name="standard-error", daemon=True)
        self._reader.start()
        atexit.register(self.close)

    @property
    def descriptor(self) -> int:
        """Where standard error led before: for processes that write log lines themselves."""
        return self._real

    def close(self) -> None:
        """Log what is left and let descriptor 2 be what it was. Does nothing a second time."""
        if self._closed:
            return
        self._closed = True
        sys.stderr.flush()
        os.write(2, b"\n" + self._end + b"\n")
        os.dup2(self._real, 2)
        told = -1
        while self._reader.is_alive() and self._told > told:
            told = self._told
            self._reader.join(_CLOSING_SECONDS)

    def _read(self, source: int) -> None:
        with open(source, "rb") as pipe:
            while line := pipe.readline(_LONGEST):
                if line.strip() == self._end:
                    return
                self._tell(line)
                self._told += 1

    def _tell(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace").rstrip()
        if not text:
            return
        found = _SAID.match(text)
        _log.log(
            _SEVERITY[found[1] or found[2]] if found else logging.WARNING, "standard error", extra={"detail": text}
        )

    def _hook(self) -> None:
        """Exceptions that nobody catches are one line each, too."""

        def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            if issubclass(kind, KeyboardInterrupt):
                return
            _log.critical("uncaught exception", exc_info=(kind, error, trace))

        def in_thread(arguments: threading.ExceptHookArgs) -> None:
            if arguments.exc_value is not None:
                name = "" if arguments.thread is None else arguments.thread.name
                _log.critical(
                    "uncaught exception",
                    exc_info=(arguments.exc_type, arguments.exc_value, arguments.exc_traceback),
                    extra={"in_thread": name},
                )

        def unraisable(what: sys.UnraisableHookArgs) -> None:
            error = what.exc_value
            _log.error(
                what.err_msg or "exception ignored",
                exc_info=None if error is None else (what.exc_type, error, what.exc_traceback),
                extra={"in_object": repr(what.object)},
            )

        sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, unraisable


def configure_log(level: str, form: Literal["auto", "json", "text"], process: Mapping[str, int]) -> Captured | None:
    """Begin the log of one of several processes of a server; captures standard error where the log is JSON.

    Args:
        level, form, process: see `logs.configure`.

    Returns:
        What has to be closed at the end; None: standard error is not captured.
    """
    captured = Captured() if form == "json" or (form == "auto" and not sys.stderr.isatty()) else None
    logs.configure(level, form, process=process)
    return captured
