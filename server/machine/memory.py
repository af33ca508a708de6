"""Memory: given back to the system once a wave of images has passed, and looked through for garbage less often."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import math
import os
import sys
from collections.abc import Callable

_EVERY = 1.0  # seconds
_WORTH = 64 << 20  # bytes that nothing accounts for; below, there is little to gain
_PAUSE, _LONGEST_PAUSE = 2.0, 60.0  # seconds between two attempts, and between two that gave little back
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of GNU's <malloc.h>
_LARGEST = 32 << 20  # bytes, the most that it takes for the latter
# Variables in which somebody may have said how much the C library is to keep.
_SAID = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
_NEW = 10_000  # objects since the last look for garbage; Python's own 700 are those of a few calls


def settle() -> None:
    """Leave out of every later look for garbage what is there now, once all is loaded.

    Else Python looks through a framework's hundreds of thousands of objects again and again, and evicts from the caches
    what computing needs: 5 to 8% of all CPU time with a small network.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW, *gc.get_threshold()[1:])


def resident() -> int | None:
    """Bytes of this process that are in memory; None where the system does not tell. Takes some 10 microseconds."""
    if sys.platform != "linux":
        return None
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123 - half the time of a Path's
            pages = int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def anonymous() -> int | None:
    """Bytes in memory that are this process's own, no pages of files, once what is free has been given back.

    None where the system does not tell. Takes some 100 ms a gigabyte that is free; for a thread beside the event loop.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - as above
            return next((int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:")), None)
    except OSError:
        return None


def _malloc_trim() -> Callable[[int], int] | None:
    """The C library's own call for it, which only GNU's has."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows wants the name of a library
        return None


def keep_for_reuse() -> None:
    """Have the C library keep what messages leave behind, for those that follow; `keep_trimmed` bounds how much.

    GNU's gives a large piece back as soon as it is free, and takes the next one from the system page by page: with
    messages of 5 MB that is a tenth of what a worker does. Does nothing where somebody has told the C library what to
    keep, and where it is another one.
    """
    if any(name in os.environ for name in _SAID):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # as above
        set_option = ctypes.CDLL(None).mallopt
        set_option(_MMAP_THRESHOLD, _LARGEST)
        set_option(_TRIM_THRESHOLD, _WORTH)


class _Information(ctypes.Structure):
    """GNU's `struct mallinfo2`: sizes in bytes, and a few numbers of pieces."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def allocated() -> int | None:
    """Bytes that were allocated and not freed; None where the C library does not tell (GNU's does, since 2.33).

    Takes about a millisecond, in which other threads may have to wait for memory.
    """
    try:
        tell = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    tell.restype = _Information
    found = tell()
    return int(found.uordblks + found.hblkhd)


class Memory:
    """The resident memory of the process, against what it was when there was nothing to do. Lives on the event loop.

    GNU's C library keeps what images and messages leave behind, in pieces between what is in use: hundreds of megabytes
    after a flood, for good. To give them back takes some 100 ms a gigabyte, in a thread of its own; where there is
    nothing to give, less than one.
    """

    def __init__(
        self,
        in_use: Callable[[], int] = lambda: 0,
        *,
        measure: Callable[[], int | None] = resident,
        count: Callable[[], int | None] = allocated,
        trim: Callable[[int], object] | None = None,
    ) -> None:
        """Begin to compare at the first `settled`.

        Args:
            in_use: bytes that images between arrival and answer may take now.
            measure: bytes that are resident; None where that cannot be known.
            count: bytes that are allocated, likewise.
            trim: gives back what is free; None: the C library's own, where it has one.
        """
        self.in_use = in_use
        self._measure, self._count = measure, count
        self._trim = trim or _malloc_trim()
        self._calm: int | None = None
        self._calm_allocated: int | None = None
        self._trimming: asyncio.Future[object] | None = None

    def settled(self) -> None:
        """Take what is resident now for what is when there is nothing to do."""
        self._calm, self._calm_allocated = self._measure(), self._count()

    def beyond(self) -> int | None:
        """Bytes that are resident beyond those; None where that is not known."""
        return None if self._calm is None or (now := self._measure()) is None else now - self._calm

    def unfreed(self) -> int | None:
        """Bytes that are allocated beyond what was then, of which none is garbage; None where that is not known."""
        return None if self._calm_allocated is None or (now := self._count()) is None else now - self._calm_allocated

    @property
    def trimming(self) -> bool:
        """Whether free memory is being given back now: whoever asks for `unfreed` then waits for that."""
        return self._trimming is not None

    def trim(self) -> asyncio.Future[object] | None:
        """Have what is free given back, beside the event loop; None where the C library cannot."""
        if self._trim is None:
            return None
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().run_in_executor(None, self._trim, 0)
            self._trimming.add_done_callback(self._done)
        return self._trimming

    def _done(self, _: asyncio.Future[object]) -> None:
        self._trimming = None


async def keep_trimmed(memory: Memory, held: Callable[[], float], idle: Callable[[], bool]) -> None:
    """Run for as long as the server does: whenever much more is resident than can be in use, give it back.

    Args:
        memory: what is resident.
        held: bytes of messages that are being received.
        idle: whether there is nothing to do: no message is received, no image worked on.
    """
    pause, before = _PAUSE, -math.inf
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(_EVERY)
        beyond = memory.beyond()
        if beyond is not None and beyond < 0 and idle():
            memory.settled()
        if beyond is None or beyond - memory.in_use() - held() < _WORTH or clock() - before < pause:
            continue
        trimming = memory.trim()
        if trimming is None:
            return
        await trimming
        before, left = clock(), memory.beyond()
        in_vain = left is None or beyond - left < _WORTH // 2  # it is in use, by whatever
        pause = min(2 * pause, _LONGEST_PAUSE) if in_vain else _PAUSE
        if idle():
            memory.settled()
