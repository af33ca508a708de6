"""Tasks that run beside the calls for as long as the server does: none of them dies unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

_log = structlog.get_logger(__name__)

_FIRST = 1.0  # seconds until a task that failed is begun again; twice as long after each failure in a row
_LONGEST = 300.0


def keep_running(
    name: str,
    begin: Callable[[], Awaitable[None]],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> asyncio.Task[None]:
    """Run a task until it returns or is cancelled; whenever it fails, log that with its traceback and begin it again.

    Args:
        name: for the log.
        begin: makes what is awaited, anew each time.
        sleep: awaits so many seconds.
    """

    async def run() -> None:
        clock, pause = asyncio.get_running_loop().time, _FIRST
        while True:
            begun = clock()
            try:
                await begin()
            except Exception:  # noqa: BLE001 - whatever it is, it is to be seen
                if clock() - begun > _LONGEST:  # it did well for a while
                    pause = _FIRST
                _log.exception("a background task failed", task=name, again_in_seconds=pause)
            else:
                return
            await sleep(pause)
            pause = min(2 * pause, _LONGEST)

    return asyncio.create_task(run(), name=name)
