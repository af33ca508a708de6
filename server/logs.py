"""Structured logs: one line an event, JSON for machines, text for a terminal, each with its request's id."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable
from typing import Literal, TextIO

import structlog

# gRPC logs these as errors with a traceback, though callers cause them at will: a header that is not UTF-8, and a
# connection that goes while its answer is sent.
_BY_CALLERS = ("Invalid encoding on ", "ExecuteBatchError raised in core ")


_streams: list[TextIO] = []  # where the log goes, once it is said; else to standard error


def send_to(stream: TextIO) -> None:
    """Send the log there from now on; `configure` has to be called after it."""
    _streams[:] = [stream]


def configure(level: str, form: Literal["auto", "json", "text"]) -> None:
    """Send all logging, the libraries' too, to stderr in one form. Stdout stays free."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    stream = _streams[0] if _streams else sys.stderr
    text = form == "text" or (form == "auto" and stream.isatty())
    last: list[structlog.typing.Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(),
                # The default shows local variables: megabytes of a user's image, rendered on the event loop.
                exception_formatter=structlog.dev.plain_traceback,
            )
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
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(lambda record: not str(record.msg).startswith(_BY_CALLERS))
    # Pillow warns with text from the file, which is a stranger's: neither to be logged nor kept in Python's registry
    # of warnings shown. What is wrong with a file is told to whoever sent it.
    warnings.filterwarnings("ignore", module=r"PIL\.")


class Sparse:
    """Lets one line a while through and counts the others: a line for each refusal of a flood costs answers."""

    def __init__(self, seconds: float = 1.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Let a line through every `seconds`."""
        self._seconds = seconds
        self._clock = clock
        self._next = -math.inf
        self._unsaid = 0

    def unsaid(self) -> int | None:
        """How many lines were left out since the last one; None: leave this one out, too."""
        now = self._clock()
        if now < self._next:
            self._unsaid += 1
            return None
        self._next = now + self._seconds
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid
