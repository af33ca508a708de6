"""Memory: given back to the system once a wave of images has passed, and looked through for garbage less often."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

_EVERY = 5.0  # seconds
_WORTH = 64 << 20  # bytes of images since the last time; below, there is little to gain
_NEW = 10_000  # objects since the last look for garbage; Python's own 700 are those of a few calls


def settle() -> None:
    """Leave out of every later look for garbage what is there now, once all is loaded.

    Else Python looks through a framework's hundreds of thousands of objects again and again, and evicts from the caches
    what computing needs: 5 to 8% of all CPU time with a small network.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW, *gc.get_threshold()[1:])


def _malloc_trim() -> Callable[[int], int] | None:
    """The C library's own call for it, which only GNU's has."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows wants the name of a library
        return None


async def keep_trimmed(taken: Callable[[], int], in_flight: Callable[[], int]) -> None:
    """Run for as long as the server does.

    GNU's C library keeps what images and messages leave behind, in pieces between what is in use: hundreds of megabytes
    after a flood, for good. Where the device has nothing to do, walking through them costs nobody anything.

    Args:
        taken: bytes of images that have been admitted or refused so far.
        in_flight: images between arrival and answer.
    """
    trim = _malloc_trim()
    if trim is None:
        return
    before = taken()
    while True:
        await asyncio.sleep(_EVERY)
        if taken() - before >= _WORTH and not in_flight():
            before = taken()
            await asyncio.to_thread(trim, 0)
