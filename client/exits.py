"""Exit codes, one for each cause, so that a script can tell what to do next."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from glimpse.client import proxy
from glimpse.client.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    GlimpseError,
    OverloadedError,
    RequestRefusedError,
    StreamBrokenError,
    UnavailableError,
)
from glimpse.client.plain import plain
from glimpse.client.standard import OutputError, ReaderLeftError, silence


class Exit(IntEnum):
    """What the process says to the shell."""

    OK = 0
    IMAGES_FAILED = 1
    USAGE = 2
    NO_SERVER = 3
    REFUSED = 4
    OVERLOADED = 5
    TIMEOUT = 6
    SERVER_FAULT = 7
    NOT_SET_UP = 8
    ACCESS_DENIED = 9
    CANNOT_WRITE = 10
    MISSED = 11
    INTERRUPTED = 130
    BROKEN_PIPE = 141


# Shown by `--help`; the `\b` keeps it from being wrapped into a paragraph.
TABLE = """\b
Exit codes:
    0  everything was answered
    1  at least one image could not be classified or sorted, or failed in a load test without a threshold on errors
    2  the command line is wrong
    3  no server answers, it is not serving, or it went away before the end
    4  the server refuses the request: an option or the model's name
    5  the server has no room; come back later
    6  no answer within the timeout
    7  the server has a defect
    8  the client is not set up
    9  the server does not let you in: the token or the certificate
   10  the output cannot be written
   11  a load test missed a threshold, or found no rate that holds
  130  interrupted
  141  the reader of the output went away
"""


@contextmanager
def by_cause(target: str) -> Iterator[None]:
    """Turn what can end a command into a message on stderr and an exit code.

    Raises:
        typer.Exit: in place of a GlimpseError, an OutputError, a BrokenPipeError or a KeyboardInterrupt.
    """
    try:
        yield
        sys.stdout.flush()  # so that a reader who left is noticed here
    except GlimpseError as error:
        typer.echo(plain(_explanation(error, target), "\n"), err=True)
        raise typer.Exit(_code(error)) from None
    except (ReaderLeftError, BrokenPipeError):
        silence()
        raise typer.Exit(Exit.BROKEN_PIPE) from None
    except OutputError as error:
        silence()
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(Exit.CANNOT_WRITE) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None


def _code(error: GlimpseError) -> Exit:
    match error:
        case UnavailableError() | StreamBrokenError():
            return Exit.NO_SERVER
        case AccessDeniedError():
            return Exit.ACCESS_DENIED
        case RequestRefusedError():
            return Exit.REFUSED
        case OverloadedError():
            return Exit.OVERLOADED
        case DeadlineExceededError():
            return Exit.TIMEOUT
        case _:
            return Exit.SERVER_FAULT


def _explanation(error: GlimpseError, target: str) -> str:
    if isinstance(error, UnavailableError) and not error.reason and error.message.startswith("No Glimpse server"):
        hint = "start one with `make serve`, or name another with --target."
        return f"No Glimpse server answers at {target}; {hint}{proxy.said(target)}"
    text = f"Error: {error}"
    if isinstance(error, AccessDeniedError):
        text += " Give a token with --token-file, GLIMPSE_TOKEN_FILE or GLIMPSE_TOKEN."
    if error.retry_after is not None:
        text += f" Come back after {error.retry_after:g} seconds."
    return text
