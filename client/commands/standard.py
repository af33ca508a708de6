"""The standard streams of a program that may be closed, full, or read by somebody who has left.

A shell closes a stream with ``>&-`` and fills one with ``> /dev/full``; neither may end in a traceback. What cannot be
written to the standard output ends the program with a message and an exit code of its own. What cannot be written to
the standard error is left out, because there is nowhere to say so. Both are plain text (`client.commands.plain`).

The library has the same in `models.standard`: client and library import nothing of each other.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from glimpse.client.commands.plain import PlainText

if TYPE_CHECKING:
    from typing_extensions import Buffer

# `client.commands.exits.Exit` has them too; it cannot be imported before there is a typer.
CANNOT_WRITE = 10
BROKEN_PIPE = 141


class OutputError(Exception):
    """The output cannot be written; the message is for people."""


class ReaderLeftError(OutputError):
    """Whoever read the output has closed it."""


class _Output(io.FileIO):
    """The standard output, whose errors are none of the many other things that an OSError can be."""

    def write(self, data: Buffer, /) -> int:
        try:
            while (written := super().write(data)) is None:  # another program has made it non-blocking
                select.select([], [self], [])
        except BrokenPipeError:
            raise ReaderLeftError("The reader of the standard output has left.") from None
        except OSError as error:
            raise OutputError(f"The standard output cannot be written: {error.strerror}.") from None
        return written


class _Error(io.FileIO):
    """The standard error, which takes what it can."""

    def write(self, data: Buffer, /) -> int:
        with contextlib.suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


def prepare() -> None:
    """Make the three streams usable, whatever the shell has made of them. Once, before anything is opened."""
    # A closed descriptor would be given to the next file or connection that is opened, which then got what is printed.
    # Reading alone: whoever writes to a closed output is told so.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDONLY), descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  (open as long as the program)
    sys.stdout = _guarded(sys.stdout, _Output, 1)
    sys.stderr = _guarded(sys.stderr, _Error, 2)


def _guarded(
    stream: TextIO | None, kind: type[io.FileIO], descriptor: int, wrapper: type[io.TextIOWrapper] = PlainText
) -> TextIO:
    if os.name == "nt" and stream is not None and stream.isatty():  # which takes text by another way than bytes
        return stream
    settings = stream if isinstance(stream, io.TextIOWrapper) else None
    errors = settings.errors if settings else "backslashreplace"
    return wrapper(
        io.BufferedWriter(kind(descriptor, "wb", closefd=False)),
        encoding=settings.encoding if settings else "utf-8",
        # What an encoding does not know becomes a question mark, never a crash.
        errors="replace" if errors == "strict" else errors,
        line_buffering=settings.line_buffering if settings else kind is _Error,
        write_through=settings.write_through if settings else False,
    )


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Notice at the end that the output cannot be written, and turn that into a message and an exit code.

    Raises:
        SystemExit: in place of an OutputError.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except ReaderLeftError:
        silence()
        sys.exit(BROKEN_PIPE)
    except OutputError as error:
        silence()
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201  (a program's)
        sys.exit(CANNOT_WRITE)


def silence() -> None:
    """Point the standard output at nothing, so that the interpreter's last flush does not fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
