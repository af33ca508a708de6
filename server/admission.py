"""Permits for images, taken before the first byte is decoded, so that memory is bounded whatever is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from server.errors import OverloadedError, Reason, draining


class Admission:
    """Counts the images between arrival and answer. Lives on the event loop; not for other threads."""

    def __init__(self, capacity: int, *, retry_after: Callable[[int], float]) -> None:
        """Make the gate.

        Args:
            capacity: images in flight. Streams together may take three quarters of it: the rest is kept for lone
                requests, which would otherwise be refused whenever bulk work runs.
            retry_after: seconds until that many images are worked off, for the hint in a refusal.
        """
        self._capacity = capacity
        self.bulk_capacity = capacity * 3 // 4
        self._retry_after = retry_after
        self._in_flight = 0
        self._bulk = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Images between arrival and answer."""
        return self._in_flight

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

    def keep_until_done(self, work: Future[Any]) -> None:
        """Hold one more permit until `work` ends in its thread, for a caller who has gone meanwhile.

        What a thread works on takes memory and time whether or not somebody waits for it; without this, callers with
        short deadlines could pile up work without limit.
        """
        self._in_flight += 1
        loop = asyncio.get_running_loop()

        def release(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: there is nobody left to count for
                loop.call_soon_threadsafe(lambda: self._release(1, bulk=False))

        work.add_done_callback(release)

    @asynccontextmanager
    async def admit(self, images: int, *, wait: bool) -> AsyncIterator[None]:
        """Hold permits for `images` while the block runs.

        Args:
            images: how many; a number above `bulk_capacity` would wait for ever.
            wait: wait for room, first come, first served (a piece of a stream); else refuse at once.

        Raises:
            OverloadedError: expected; no room now, and not waiting.
            UnavailableError: expected; closed, possibly while waiting.
        """
        if self._closed:
            raise draining()
        if wait:
            await self._take_bulk(images)
        else:
            self._take(images)
        try:
            yield
        finally:
            self._release(images, bulk=wait)

    def _take(self, images: int) -> None:
        if self._in_flight + self._reserved() + images > self._capacity:
            raise OverloadedError(
                Reason.QUEUE_FULL,
                f"{self._in_flight} images are in flight and {images} more would exceed {self._capacity}. "
                "Try again later, or send fewer at once.",
                retry_after=self._retry_after(self._in_flight + self._reserved() + images - self._capacity),
            )
        self._in_flight += images

    def _reserved(self) -> int:
        """Permits that lone requests leave free for the first of the waiting pieces, which would else wait for ever."""
        head = self._waiting[0][0] if self._waiting else 0
        return head if self._bulk + head <= self.bulk_capacity else 0

    async def _take_bulk(self, images: int) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((images, waiter))
        self._nobody_waits.clear()
        self._grant()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release(images, bulk=True)  # granted and cancelled in the same turn of the loop
            else:
                self._grant()  # whoever waits behind a large request that has gone may fit
            raise

    def _grant(self) -> None:
        """Give waiting pieces their permits as long as the first of them fits."""
        while self._waiting:
            images, waiter = self._waiting[0]
            if not waiter.done():
                if self._bulk + images > self.bulk_capacity or self._in_flight + images > self._capacity:
                    return
                self._in_flight += images
                self._bulk += images
                waiter.set_result(None)
            self._waiting.popleft()
        self._nobody_waits.set()

    def _release(self, images: int, *, bulk: bool) -> None:
        self._in_flight -= images
        self._bulk -= images if bulk else 0
        self._grant()
