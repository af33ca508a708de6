"""Waiting for a server that starts, and saying meanwhile what is still missing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from glimpse.client.commands.plain import plain
from glimpse.client.errors import Code, DeadlineExceededError, GlimpseError, RequestRefusedError, UnavailableError
from glimpse.client.nouns import noun

if TYPE_CHECKING:
    from glimpse.client.client import Client
    from glimpse.client.health import Health

_PAUSE = 0.25  # seconds between two questions
_LONGEST_CALL = 5.0  # seconds for one answer
# A server that answered and is gone for so long has ended: it could not load its model, or was told to stop. One that
# listens is there again within a moment.
_GONE_AFTER = 5.0


def wait_until_serving(client: Client, *, seconds: float) -> Health | None:
    """Wait until the server of a client is serving.

    What it waits for is said on stderr, once for each state.

    Args:
        client: of the server.
        seconds: to wait.

    Returns:
        What the server said last, which may still be that it is not serving; None where it offers no health service,
        so that only a call can tell.

    Raises:
        UnavailableError: nobody answers, or a server that answered has been gone for 5 seconds.
        GlimpseError: it answers with an error that waiting does not change, such as a token that is not accepted.
    """
    end = time.monotonic() + seconds
    said = ""
    watch = _Watch(client.target)
    health: Health | None = None
    while True:
        problem: GlimpseError | None = None
        try:
            health = client.health(timeout=max(0.01, min(_LONGEST_CALL, end - time.monotonic())))
        except UnavailableError as error:
            health, problem = None, error
        except DeadlineExceededError as error:  # too slow to say something else than before
            problem = error if health is None else None
        except RequestRefusedError as error:
            if error.code is Code.UNIMPLEMENTED:
                return None
            raise
        now = time.monotonic()
        state = watch.state(health, problem, now)
        if health is not None and health.serving:
            return health
        if now >= end:
            if problem is not None:
                raise problem
            return health
        if state != said:
            left = round(end - now)
            typer.echo(plain(f"Waiting up to {left} {noun(left, 'second')} for {client.target}: {state}."), err=True)
            said = state
        time.sleep(min(_PAUSE, max(0.0, end - now)))


def require_serving(client: Client, *, seconds: float) -> None:
    """The same for a command that can do nothing with a server that is not serving.

    Raises:
        UnavailableError: as `wait_until_serving`, or it answers and is not serving in time.
        GlimpseError: as `wait_until_serving`.
    """
    health = wait_until_serving(client, seconds=seconds)
    if health is not None and not health.serving:
        waited = f"{seconds:g} {noun(seconds, 'second')}"
        message = f"The server at {client.target} answers, and is not serving after {waited} of waiting."
        raise UnavailableError(Code.UNAVAILABLE, "", message)


class _Watch:
    """What a server that is waited for does, from one answer to the next."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._answered = False
        self._gone_since: float | None = None

    def state(self, health: Health | None, problem: GlimpseError | None, now: float) -> str:
        """What it does now, for people.

        Args:
            health: what it says; None: nobody answers.
            problem: why nobody does.
            now: time.monotonic.

        Raises:
            UnavailableError: it answered, and has been gone for long enough.
        """
        if health is not None:
            self._answered, self._gone_since = True, None
            return "it answers, and is not serving yet (it loads its model, or it is shutting down)"
        if not self._answered:
            # gRPC's own words stand in brackets; a certificate, for example, is worth to be told.
            why = "" if problem is None else problem.message.partition(" (")[0]
            return "nobody answers there yet" if not why or why.startswith("No ") else why
        self._gone_since = now if self._gone_since is None else self._gone_since
        if now - self._gone_since >= _GONE_AFTER:
            message = f"The server at {self._target} answered without serving, and is gone now. Its log says why."
            raise UnavailableError(Code.UNAVAILABLE, "", message)
        return "it has gone away"
