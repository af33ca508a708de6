"""The two ways to load a service: callers who wait for their answers, and callers who do not. No gRPC."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence


def closed_loop(send: Callable[[int, Callable[[], None]], None], callers: int, seconds: float) -> float:
    """Let each caller send its next request as soon as its last has ended, for `seconds`; waits for the last to end.

    Args:
        send: sends a request of the caller of that number, and sees to it that what it is given is called at its end,
            from any thread.
        callers: requests at a time.
        seconds: after which no more are sent.

    Returns:
        When that was, on the clock of `time.monotonic`.
    """
    end = time.monotonic() + seconds
    over = threading.Semaphore(0)

    def one(caller: int) -> None:
        def ended() -> None:
            if time.monotonic() < end:
                one(caller)
            else:
                over.release()

        send(caller, ended)

    for caller in range(callers):
        one(caller)
    for _ in range(callers):
        over.acquire()
    return end


def open_loop(send: Callable[[float, Callable[[], None]], None], due: Sequence[float]) -> tuple[float, float]:
    """Send a request whenever one is due, whatever became of those before; waits for the last to end.

    Args:
        send: sends the request that was due at that time, on the clock of `time.monotonic`; else as above.
        due: seconds from the start, rising.

    Returns:
        The start, and when the last was sent.
    """
    over = threading.Semaphore(0)
    start = time.monotonic()
    for offset in due:
        wait = start + offset - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        send(start + offset, over.release)
    ceased = time.monotonic()
    for _ in due:
        over.acquire()
    return start, ceased
