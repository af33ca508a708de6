"""A moment in which all streams of a CPU are kept busy, and what an image cost in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from glimpse.models.messages import lacks_memory
from glimpse.models.outputs import DEFAULT_OUTPUTS, Outputs
from glimpse.server.nouns import noun

_SECONDS = 0.01  # that each stream computes, at least
T = TypeVar("T")

# (uint8 [N, H, W, C], names of outputs) -> those outputs, [N, ...] each
Compute = Callable[[NDArray[np.uint8], frozenset[str]], Outputs]


class Cost(NamedTuple):
    """What an image cost."""

    wall: float  # seconds, while all streams are busy
    processor: float  # seconds of CPU time, of the whole process


def turn(compute: Compute, pixels: NDArray[np.uint8], streams: int) -> Cost:
    """Compute the same batch on all streams at once, as often as a hundredth of a second holds, or once.

    Raises:
        MemoryError: it did not fit.
        Exception: whatever else `compute` raises.
    """
    used = time.process_time()
    runs = [_in_thread(lambda: _run(compute, pixels)) for _ in range(streams)]
    found = [run.result() for run in runs]
    used = time.process_time() - used
    return Cost(
        1 / sum(images / max(seconds, 1e-9) for images, seconds in found), used / sum(images for images, _ in found)
    )


def in_time(do: Callable[[], T], seconds: float) -> T:
    """What `do` returns or raises.

    Raises:
        TimeoutError: it did neither in time. It goes on in a thread that keeps no process alive.
    """
    try:
        return _in_thread(do).result(seconds)
    except TimeoutError:
        raise TimeoutError(f"It took more than {seconds:g} s.") from None


def _run(compute: Compute, pixels: NDArray[np.uint8]) -> tuple[int, float]:
    """Images that one stream computed, and the seconds that they took."""
    images, begun, now = 0, time.monotonic(), 0.0
    try:
        while not images or now < begun + _SECONDS:
            compute(pixels, DEFAULT_OUTPUTS)
            images += len(pixels)
            now = time.monotonic()
    except Exception as error:
        if lacks_memory(error):
            raise MemoryError(f"A batch of {len(pixels)} {noun(len(pixels), 'image')} did not fit.") from error
        raise
    return images, now - begun


def _in_thread(do: Callable[[], T]) -> Future[T]:
    """Do it in a thread of its own, which ends with the process: what hangs is not waited for."""
    future: Future[T] = Future()
    threading.Thread(target=_work, args=(do, future), name="measuring", daemon=True).start()
    return future


def _work(do: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(do())
    except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
        future.set_exception(error)
    finally:
        del do, future  # an error keeps this frame, and would be kept by it: a cycle around all that computed
