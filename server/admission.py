"""Permits for calls, images and their bytes, so that memory is bounded whatever is sent, and no lane takes them all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from server.errors import OverloadedError, Reason, draining
from server.turns import Turns


@dataclass(frozen=True, slots=True)
class Load:
    """What a request holds between arrival and answer, or what may be held."""

    images: int
    bytes: int  # of image data as it came

    def __add__(self, other: Load) -> Load:
        return Load(self.images + other.images, self.bytes + other.bytes)

    def __sub__(self, other: Load) -> Load:
        return Load(self.images - other.images, self.bytes - other.bytes)

    def __mul__(self, times: int) -> Load:
        return Load(self.images * times, self.bytes * times)

    def within(self, limit: Load) -> bool:
        """Whether there is room for it."""
        return self.images <= limit.images and self.bytes <= limit.bytes

    def most(self) -> Load:
        """The share of a capacity that streams together may take."""
        return Load(self.images * 3 // 4, self.bytes * 3 // 4)


_NOTHING = Load(0, 0)
_ONE = Load(1, 1)  # the smallest image
# A lane may hold at most so many times what is free: alone seven eighths of all, two of them seven fifteenths each. So
# there is always room for a lane that comes, however greedy the others are, and no share to be configured (Choudhury
# and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998).
_GREED = 7
# Whoever is refused is told when to come back, each later than the one before, as fast as work is done: told the same,
# they would all come back together. But no later than this many seconds from now.
_LATEST = 5.0


class Places:
    """So many places, of which no lane takes all."""

    def __init__(self, most: int) -> None:
        """All of them are free."""
        self.most = most
        self.taken = 0
        self._of: Counter[str] = Counter()

    def of(self, lane: str) -> int:
        """Places that the lane has."""
        return self._of[lane]

    def greedy(self, lane: str) -> bool:
        """Whether the lane has its share of what is free."""
        return self._of[lane] > 0 and self._of[lane] >= _GREED * (self.most - self.taken)

    @contextmanager
    def held(self, lane: str) -> Iterator[None]:
        """Hold one while the block runs."""
        self.taken += 1
        self._of[lane] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._of[lane] -= 1
            if not self._of[lane]:
                del self._of[lane]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A piece of a stream that waits for its permits."""

    load: Load
    lane: str
    granted: asyncio.Future[None]


class Admission:
    """Counts what is between arrival and answer. Lives on the event loop; not for other threads."""

    def __init__(
        self,
        capacity: Load,
        *,
        streams: int,
        retry_after: Callable[[int], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the gate.

        Args:
            capacity: what may be in flight. Streams together may take three quarters of it: the rest is kept for lone
                requests, which would otherwise be refused whenever bulk work runs.
            streams: that may be open at once.
            retry_after: seconds until that many images are worked off, for the hint in a refusal.
            clock: seconds, monotonic.
        """
        self._capacity = capacity
        self.bulk_capacity = capacity.most()
        self._retry_after = retry_after
        self._clock = clock
        self._promised = 0.0  # on the clock: until when those who were refused have been told to stay away
        self.calls = Places(capacity.images)
        self.streams = Places(streams)
        self._held = _NOTHING
        self._held_by: dict[str, Load] = {}
        self._bulk = _NOTHING
        self._waiting: Turns[_Waiter] = Turns()
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
    def call(self, lane: str = "") -> Iterator[None]:
        """Let a call in before its message is read: what it holds is in memory as soon as it is.

        A call has at least one image, so calls beyond the images that may be in flight cannot be answered anyway; and
        where there is no room for one more image now, receiving photos only to refuse them would cost the others.

        Raises:
            OverloadedError: expected; so many calls or images are in flight already, of all or of this lane.
        """
        self._find_place(self.calls, lane, "calls", "Try again later, or send several images in a call.")
        self._find_room(_ONE, lane)
        with self.calls.held(lane):
            yield

    @contextmanager
    def stream(self, lane: str = "") -> Iterator[None]:
        """Let a stream in: it may take as long as it likes over each of its messages, and holds what has come of it.

        Raises:
            OverloadedError: expected; so many streams are open already, of all or of this lane.
        """
        self._find_place(self.streams, lane, "streams", "Send more over fewer streams, or try again later.")
        with self.streams.held(lane):
            yield

    def close(self) -> None:
        """Refuse everything from now on; what is in flight goes on."""
        self._closed = True
        while len(self._waiting):
            waiter = self._waiting.take()
            if not waiter.granted.done():
                waiter.granted.set_exception(draining())
        self._nobody_waits.set()

    async def room(self) -> None:
        """Wait until no piece of a stream waits for permits: before that, reading another only fills memory."""
        await self._nobody_waits.wait()

    def keep_until_done(self, work: Future[Any], size: int, lane: str = "") -> None:
        """Hold one more permit until `work` on an image of `size` bytes ends in its thread, for a caller who has gone.

        What a thread works on takes memory and time whether or not somebody waits for it; without this, callers with
        short deadlines could pile up work without limit.
        """
        load = Load(1, size)
        self._hold(load, lane)
        loop = asyncio.get_running_loop()

        def release(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: there is nobody left to count for
                loop.call_soon_threadsafe(lambda: self._release(load, lane, bulk=False))

        work.add_done_callback(release)

    @asynccontextmanager
    async def admit(self, load: Load, *, wait: bool, lane: str = "") -> AsyncIterator[None]:
        """Hold permits for `load` while the block runs.

        Args:
            load: what comes; above `bulk_capacity` it would wait for ever.
            wait: wait for room, in turn by lane (a piece of a stream); else refuse at once.
            lane: whose permits they are.

        Raises:
            OverloadedError: expected; no room now for all or for this lane, and not waiting.
            UnavailableError: expected; closed, possibly while waiting.
        """
        if self._closed:
            raise draining()
        self.bytes_taken += load.bytes
        if wait:
            await self._take_bulk(load, lane)
        else:
            self._take(load, lane)
        try:
            yield
        finally:
            self._release(load, lane, bulk=wait)

    def _take(self, load: Load, lane: str) -> None:
        self._find_room(load, lane)
        self._hold(load, lane)

    def _find_room(self, load: Load, lane: str) -> None:
        together = self._held + self._reserved() + load
        if not together.within(self._capacity):
            raise self._refusal(
                Reason.QUEUE_FULL,
                f"{self._held.images} images of {self._held.bytes} bytes are in flight; {load.images} more of "
                f"{load.bytes} bytes would exceed {self._capacity.images} images or {self._capacity.bytes} bytes. "
                "Try again later, or send fewer at once.",
                missing=(together - self._capacity).images,
                come=load.images,
            )
        own = self._held_by.get(lane, _NOTHING)
        if own != _NOTHING and not (own + load).within((self._capacity - self._held) * _GREED):
            raise self._refusal(
                Reason.SHARE_FULL,
                f"{own.images} images of {own.bytes} bytes of yours are in flight; the rest of {self._capacity.images} "
                f"images and {self._capacity.bytes} bytes is kept for others. Try again later, or send fewer at once.",
                missing=load.images,
                come=load.images,
            )

    def _find_place(self, places: Places, lane: str, what: str, advice: str) -> None:
        if places.taken >= places.most:
            message = f"{places.taken} {what} are in flight, as many as may be. {advice}"
            raise self._refusal(Reason.QUEUE_FULL, message, missing=1, come=1)
        if places.greedy(lane):
            own = places.of(lane)
            message = f"{own} {what} of yours are in flight; the rest of {places.most} is kept for others. {advice}"
            raise self._refusal(Reason.SHARE_FULL, message, missing=1, come=1)

    def _refusal(self, reason: Reason, message: str, *, missing: int, come: int) -> OverloadedError:
        """What a caller is told for whom `missing` images are too many, and who will come back with `come`."""
        now = self._clock()
        backlog = max(0.0, self._promised - now)
        self._promised = now + min(_LATEST, backlog + self._retry_after(come))
        return OverloadedError(reason, message, retry_after=backlog + self._retry_after(max(1, missing)))

    def _reserved(self) -> Load:
        """Room that lone requests leave free for the first of the waiting pieces, which would else wait for ever."""
        head = self._waiting.first().load if len(self._waiting) else _NOTHING
        return head if (self._bulk + head).within(self.bulk_capacity) else _NOTHING

    async def _take_bulk(self, load: Load, lane: str) -> None:
        waiter = _Waiter(load, lane, asyncio.get_running_loop().create_future())
        self._waiting.put(lane, waiter)
        self._nobody_waits.clear()
        self._grant()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._release(load, lane, bulk=True)  # granted and cancelled in the same turn of the loop
            else:
                self._grant()  # whoever waits behind a large request that has gone may fit
            raise

    def _grant(self) -> None:
        """Give waiting pieces their permits, in turn, as long as the first of them fits."""
        while len(self._waiting):
            waiter = self._waiting.first()
            if not waiter.granted.done():
                bulk, held = self._bulk + waiter.load, self._held + waiter.load
                if not (bulk.within(self.bulk_capacity) and held.within(self._capacity)):
                    return
                self._bulk = bulk
                self._hold(waiter.load, waiter.lane)
                waiter.granted.set_result(None)
            self._waiting.take()
        self._nobody_waits.set()

    def _hold(self, load: Load, lane: str) -> None:
        self._held += load
        self._held_by[lane] = self._held_by.get(lane, _NOTHING) + load

    def _release(self, load: Load, lane: str, *, bulk: bool) -> None:
        self._held -= load
        self._held_by[lane] -= load
        if self._held_by[lane] == _NOTHING:
            del self._held_by[lane]
        self._bulk -= load if bulk else _NOTHING
        self._grant()
