"""Exit codes, one for each cause, so that a script can tell what to do next."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from glimpse.client import proxy
from glimpse.client.commands.plain import plain
from glimpse.client.commands.program import name
from glimpse.client.commands.standard import OutputError, ReaderLeftError, silence
from glimpse.client.errors import (
    AccessDeniedError,
    Code,
    DeadlineExceededError,
    GlimpseError,
    ImageRefusedError,
    OverloadedError,
    RequestRefusedError,
    StreamBrokenError,
    UnavailableError,
)
from glimpse.client.nouns import noun


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


# Advance by `--help`; the `\b` keeps it from being wrapped into a paragraph.
TABLE = """\b
Exit codes:
    0  success: everything was answered
    1  at least one image could not be classified or sorted, or failed in a load test without a threshold on errors
    2  the command line or the configuration file is wrong
    3  no server answers, it is not serving, or it went away before the end
    4  the server refuses the request: an option is not allowed, or the model is not loaded
    5  the server is overloaded; try again later
    6  no answer came within the timeout
    7  an internal error of the server; its log says more
    8  the client is not installed completely
    9  access denied: the token or the client certificate is missing or not accepted
   10  the output cannot be written
   11  a load test missed a threshold, or found no rate that keeps to it
  130  interrupted by Ctrl-C
  141  the reader of the output closed it early
"""


# By a part of what `client.status` says of a connection.
_TLS_HINTS = {
    "may require TLS": "Encrypt with --tls or --tls-ca.",
    "authority that is not trusted": "Name its authority with --tls-ca.",
    "issued for another name": "Name the one in it with --tls-server-name.",
    "does not speak TLS": "Leave out --tls and all options that begin with it.",
}


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


_BY_KIND = (
    (ImageRefusedError, Exit.IMAGES_FAILED),
    (UnavailableError, Exit.NO_SERVER),
    (StreamBrokenError, Exit.NO_SERVER),
    (AccessDeniedError, Exit.ACCESS_DENIED),  # before what it is one of
    (RequestRefusedError, Exit.REFUSED),
    (OverloadedError, Exit.OVERLOADED),
    (DeadlineExceededError, Exit.TIMEOUT),
)


def _code(error: GlimpseError) -> Exit:
    return next((code for kind, code in _BY_KIND if isinstance(error, kind)), Exit.SERVER_FAULT)


def _explanation(error: GlimpseError, target: str) -> str:
    if isinstance(error, UnavailableError) and not error.reason and error.message.startswith("No Glimpse server"):
        hint = "start one with `make serve`, name another with --target, or wait for it with --wait."
        return f"No Glimpse server answers at {target}; {hint}{proxy.explanation(target)}"
    text = f"Error: {error}"
    if error.code is Code.UNAUTHENTICATED:
        text += " Give a token with --token-file, GLIMPSE_TOKEN_FILE or GLIMPSE_TOKEN."
    if isinstance(error, DeadlineExceededError):
        text += " Give it more time with --timeout."
    text += next((f" {hint}" for part, hint in _TLS_HINTS.items() if not error.reason and part in error.message), "")
    if error.reason == "UNKNOWN_CLASS":
        text += f" {name()} describe --json lists all classes and groups."
    if error.retry_after is not None:
        text += f" Try again after {error.retry_after:g} {noun(error.retry_after, 'second')}."
    return text
