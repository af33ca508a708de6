"""Permits for calls, images and their bytes, so that memory is bounded whatever is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from server.errors import OverloadedError, Reason, draining


@dataclass(frozen=True, slots=True)
class Load:
    """What a request holds between arrival and answer, or what may be held."""

    images: int
    bytes: int  # of image data as it came

    def __add__(self, other: Load) -> Load:
        return Load(self.images + other.images, self.bytes + other.bytes)

    def __sub__(self, other: Load) -> Load:
        return Load(self.images - other.images, self.bytes - other.bytes)

    def within(self, limit: Load) -> bool:
        """Whether there is room for it."""
        return self.images <= limit.images and self.bytes <= limit.bytes

    def most(self) -> Load:
        """The share of a capacity that streams together may take."""
        return Load(self.images * 3 // 4, self.bytes * 3 // 4)


_NOTHING = Load(0, 0)


class Admission:
    """Counts what is between arrival and answer. Lives on the event loop; not for other threads."""

    def __init__(self, capacity: Load, *, retry_after: Callable[[int], float]) -> None:
        """Make the gate.

        Args:
            capacity: what may be in flight. Streams together may take three quarters of it: the rest is kept for lone
                requests, which would otherwise be refused whenever bulk work runs.
            retry_after: seconds until that many images are worked off, for the hint in a refusal.
        """
        self._capacity = capacity
        self.bulk_capacity = capacity.most()
        self._retry_after = retry_after
        self._calls = 0
        self._held = _NOTHING
        self._bulk = _NOTHING
        self._waiting: deque[tuple[Load, asyncio.Future[None]]] = deque()
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()
        self._closed = False
        self.bytes_taken = 0  # of image data that has come so far, whether it was let in or not

    @property
    def in_flight(self) -> int:
        """Images between arrival and answer."""
        return self._held.images

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of image data between arrival and answer."""
        return self._held.bytes

    @contextmanager
    def call(self) -> Iterator[None]:
        """Let a call in before its message is read: what it holds is in memory as soon as it is.

        A call has at least one image, so calls beyond the images that may be in flight cannot be answered anyway.

        Raises:
            OverloadedError: expected; so many calls are in flight already.
        """
        if self._calls >= self._capacity.images:
            raise OverloadedError(
                Reason.QUEUE_FULL,
                f"{self._calls} calls are in flight, as many as images may be. Try again later, or send several "
                "images in a call.",
                retry_after=self._retry_after(1),
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def close(self) -> None:
        """Refuse everything from now on; what is in flight goes on."""
        self._closed = True
        for _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(draining())
        self._waiting.clear()
        self._nobody_waits.set()

    async def room(self) -> None:
        """Wait until no piece of a stream waits for permits: before that, reading another only fills memory."""
        await self._nobody_waits.wait()

    def keep_until_done(self, work: Future[Any], size: int) -> None:
        """Hold one more permit until `work` on an image of `size` bytes ends in its thread, for a caller who has gone.

        What a thread works on takes memory and time whether or not somebody waits for it; without this, callers with
        short deadlines could pile up work without limit.
        """
        load = Load(1, size)
        self._held += load
        loop = asyncio.get_running_loop()

        def release(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: there is nobody left to count for
                loop.call_soon_threadsafe(lambda: self._release(load, bulk=False))

        work.add_done_callback(release)

    @asynccontextmanager
    async def admit(self, load: Load, *, wait: bool) -> AsyncIterator[None]:
        """Hold permits for `load` while the block runs.

        Args:
            load: what comes; above `bulk_capacity` it would wait for ever.
            wait: wait for room, first come, first served (a piece of a stream); else refuse at once.

        Raises:
            OverloadedError: expected; no room now, and not waiting.
            UnavailableError: expected; closed, possibly while waiting.
        """
        if self._closed:
            raise draining()
        self.bytes_taken += load.bytes
        if wait:
            await self._take_bulk(load)
        else:
            self._take(load)
        try:
            yield
        finally:
            self._release(load, bulk=wait)

    def _take(self, load: Load) -> None:
        together = self._held + self._reserved() + load
        if not together.within(self._capacity):
            raise OverloadedError(
                Reason.QUEUE_FULL,
                f"{self._held.images} images of {self._held.bytes} bytes are in flight; {load.images} more of "
                f"{load.bytes} bytes would exceed {self._capacity.images} images or {self._capacity.bytes} bytes. "
                "Try again later, or send fewer at once.",
                retry_after=self._retry_after(max(1, (together - self._capacity).images)),
            )
        self._held += load

    def _reserved(self) -> Load:
        """Room that lone requests leave free for the first of the waiting pieces, which would else wait for ever."""
        head = self._waiting[0][0] if self._waiting else _NOTHING
        return head if (self._bulk + head).within(self.bulk_capacity) else _NOTHING

    async def _take_bulk(self, load: Load) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((load, waiter))
        self._nobody_waits.clear()
        self._grant()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release(load, bulk=True)  # granted and cancelled in the same turn of the loop
            else:
                self._grant()  # whoever waits behind a large request that has gone may fit
            raise

    def _grant(self) -> None:
        """Give waiting pieces their permits as long as the first of them fits."""
        while self._waiting:
            load, waiter = self._waiting[0]
            if not waiter.done():
                bulk, held = self._bulk + load, self._held + load
                if not (bulk.within(self.bulk_capacity) and held.within(self._capacity)):
                    return
                self._bulk, self._held = bulk, held
                waiter.set_result(None)
            self._waiting.popleft()
        self._nobody_waits.set()

    def _release(self, load: Load, *, bulk: bool) -> None:
        self._held -= load
        self._bulk -= load if bulk else _NOTHING
        self._grant()
