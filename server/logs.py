"""Structured logs: one line an event, JSON for machines, text for a terminal, each with its request's id."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Literal, TextIO

import structlog

from glimpse.models.plain import sequences

# gRPC logs these as errors with a traceback, though callers cause them at will: a header that is not UTF-8, and a
# connection that goes while its answer is sent.
_BY_CALLERS = ("Invalid encoding on ", "ExecuteBatchError raised in core ")


# Of our own messages. Those of libraries have other names; "__main__" is the module that a process of ours runs.
_OURS = ("glimpse", "server", "standard_error", "__main__")

_streams: list[TextIO] = []  # where the log goes, once it is said; else to standard error


def send_to(stream: TextIO) -> None:
    """Send the log there from now on; `configure` has to be called after it."""
    _streams[:] = [stream]


def _plain_values(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Words of callers and of libraries, as a terminal obeys none of them; of what is no text, `repr` sees to that."""
    return {name: _plain(value) if isinstance(value, str) else value for name, value in event.items()}


def _plain_traceback(stream: TextIO, raised: structlog.typing.ExcInfo) -> None:
    written = io.StringIO()
    structlog.dev.plain_traceback(written, raised)
    stream.write(_plain(written.getvalue()))


def _plain(text: str) -> str:
    """What a terminal would obey becomes an escape; spaces follow a line break, so that it begins no line of ours."""
    if text.isprintable():
        return text
    shown = (char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)
    return "".join(shown).replace("\n", "\n    ")


class _WholeLines(logging.StreamHandler[TextIO]):
    """Writes each record by one system call, so that the lines of several processes do not mix.

    In a file, a line is always whole. So is one of up to 4096 bytes (PIPE_BUF) in a pipe; the kernel may put another
    process's line into a longer one, but only while the pipe is full because its reader is late.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or report that it cannot be written, as the standard library does."""
        try:
            text = self.format(record) + self.terminator
            self.flush()
            left = memoryview(text.encode(errors="backslashreplace"))
            while left:  # more than once only where a disk is full or a signal came
                left = left[os.write(self.stream.fileno(), left) :]
        except Exception:  # noqa: BLE001 - logging breaks nothing
            self.handleError(record)


def configure(level: str, form: Literal["auto", "json", "text"], *, process: Mapping[str, int] | None = None) -> None:
    """Send all logging, the libraries' too, to stderr in one form. Stdout stays free.

    Args:
        level: the least severe that is logged. "debug" is for our own messages, and those of libraries begin with
            "info"; "all" is "debug" for theirs, too.
        form: "auto" is text on a terminal, else JSON.
        process: fields of every line, such as {"worker": 2}, where several processes write to the same stderr; their
            lines do not mix then.
    """
    fields = dict(process or {})

    def of_process(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**event, **fields}

    shared: list[structlog.typing.Processor] = [
        *([of_process] if fields else []),
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    stream = _streams[0] if _streams else sequences(sys.stderr)  # its colours; words are made plain below
    text = form == "text" or (form == "auto" and stream.isatty())
    last: list[structlog.typing.Processor] = (
        [
            _plain_values,
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(),
                # The default shows local variables: megabytes of a user's image, rendered on the event loop.
                exception_formatter=_plain_traceback,
            ),
        ]
        if text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = (_WholeLines if fields else logging.StreamHandler)(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel({"all": "DEBUG", "debug": "INFO"}.get(level, level.upper()))
    for name in _OURS:
        logging.getLogger(name).setLevel("DEBUG" if level == "debug" else "NOTSET")
    logging.captureWarnings(capture=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(lambda record: not str(record.msg).startswith(_BY_CALLERS))
    # Pillow warns with text from the file, which is a stranger's: neither to be logged nor kept in Python's registry
    # of warnings shown. What is wrong with a file is told to whoever sent it.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def leave_to_program() -> None:
    """Hand our events to Python's logging, under the names of our modules, for a program that is not the server.

    It hears warnings unless it says otherwise: `logging.getLogger("glimpse").setLevel("INFO")`. Where the program has
    configured structlog, its configuration stays.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
