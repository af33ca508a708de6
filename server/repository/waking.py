"""Requests that wait for a model to be awake again: many for one attempt, each with a deadline of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

from glimpse.server.errors import DeadlineExceededError, OverloadedError, Reason

_MOST_WAITING = 64  # requests for one model that is being woken; each has one of the server's places meanwhile
_AGAIN_SECONDS = 5.0  # to the next try of a caller for whom there is no room among them


class Waking:
    """Of one model in this process. Lives on the event loop."""

    def __init__(self) -> None:
        """Nobody waits."""
        self.waiting = 0  # requests, for it to be awake
        self.waking: asyncio.Task[None] | None = None

    async def wait(self, begin: Callable[[], Coroutine[None, None, None]], deadline: float | None) -> None:
        """Wait for the attempt that is under way, or for a new one, which `begin` makes.

        `deadline`: of this caller, on the clock of `time.monotonic`; None: it has none.

        Raises:
            OverloadedError: expected; too many wait.
            DeadlineExceededError: expected.
            Whatever the attempt raises.
        """
        if self.waiting >= _MOST_WAITING:
            raise OverloadedError(
                Reason.QUEUE_FULL,
                f"{self.waiting} requests wait for the model to be loaded again, as many as may. Try again later.",
                retry_after=_AGAIN_SECONDS,
            )
        if self.waking is None or self.waking.done():
            self.waking = asyncio.create_task(begin(), name="waking")
            self.waking.add_done_callback(_looked_at)
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                # Who leaves does not end it for the others.
                await asyncio.shield(self.waking)
        except TimeoutError:
            raise DeadlineExceededError(
                "The deadline passed while the model, which had been put to sleep, was loaded again. Allow more time."
            ) from None
        finally:
            self.waiting -= 1


def _looked_at(waking: asyncio.Task[None]) -> None:
    """What it raises is raised to those who wait for it, and there may be nobody any more."""
    if not waking.cancelled():
        waking.exception()
