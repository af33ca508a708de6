"""Permits for calls, images, their bytes and the work of decoding them: memory and time are bounded, whatever is sent.

How they are shared between callers is told in `server.shares`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from glimpse.server.errors import OverloadedError, Reason, draining
from glimpse.server.fair_queue import NO_LANE, FairQueue, Lane
from glimpse.server.nouns import noun
from glimpse.server.shares import NO_PERMITS, ONE, Held, Permits, Place, Shares

__all__ = ["Admission", "Permits"]

_ONE = Permits(1, 1, 1)  # the smallest image
# Whoever is refused is told when to come back, each later than the one before, as fast as work is done: told the same,
# they would all come back together. But no later than this many seconds from now.
_LATEST = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A request of a stream that waits for its permits."""

    load: Permits
    lane: Lane
    granted: asyncio.Future[None]


class _Holding:
    """Permits that are held while the block runs. No generator, which would cost each call several microseconds."""

    __slots__ = ("_admission", "_lane", "_load", "_wait")

    def __init__(self, admission: Admission, load: Permits, lane: Lane, *, wait: bool) -> None:
        self._admission, self._load, self._lane, self._wait = admission, load, lane, wait

    async def __aenter__(self) -> None:
        self._load = await self._admission.take(self._load, self._lane, wait=self._wait)

    async def __aexit__(self, *_: object) -> None:
        self._admission.give_back(self._load, self._lane, bulk=self._wait)


class Admission:
    """Counts what is between arrival and answer. Lives on the event loop; not for other threads."""

    def __init__(
        self,
        capacity: Permits,
        *,
        streams: int,
        retry_after: Callable[[Permits], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the gate.

        Args:
            capacity: what may be in flight. Streams together may take three quarters of it: the rest is kept for lone
                requests, which would otherwise be refused whenever bulk work runs.
            streams: that may be open at once.
            retry_after: seconds until so many images, and so much work, are done; for the hint in a refusal.
            clock: seconds, monotonic.
        """
        self._capacity = capacity
        self.bulk_capacity = capacity.part(3, 4)
        self._retry_after = retry_after
        self._clock = clock
        self._promised = 0.0  # on the clock: until when those who were refused have been told to stay away
        self.calls = Shares(Permits(capacity.images))
        self.streams = Shares(Permits(streams))
        self._all = Shares(capacity)
        self._bulk = Shares(self.bulk_capacity)
        self._most_of_one = capacity.part(7, 8)  # what a party may hold with all its streams and lone requests
        self._kept_for_newcomers = capacity.part(1, 16)
        self._waiting: FairQueue[_Waiter] = FairQueue()
        # Requests of parties that have their share of what streams may hold, by party: they stand in nobody's way.
        self._beyond: dict[str, FairQueue[_Waiter]] = {}
        self._waits: Counter[Lane] = Counter()  # requests that wait, of either
        self._readers: dict[Lane, list[asyncio.Future[None]]] = {}
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Images in flight, between arrival and answer."""
        return self._all.held.images

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of image data between arrival and answer."""
        return self._all.held.bytes

    @property
    def work_in_flight(self) -> int:
        """Work of decoding between arrival and answer, in pixels of an ordinary JPEG photo."""
        return self._all.held.work

    def call(self, lane: Lane = NO_LANE) -> Place:
        """Let a call in before its message is read: what it holds is in memory as soon as it is.

        A call has at least one image, so calls beyond the images that may be in flight cannot be answered anyway; and
        where there is no room for one more image now, receiving photos only to refuse them would cost the others.

        Raises:
            OverloadedError: expected; so many calls or images are in flight already, of all or of this party or lane.
        """
        self._find_place(self.calls, lane, "calls", "Try again later, or send several images in one call.")
        self._find_room(_ONE, lane)
        return self.calls.place(lane)

    def stream(self, lane: Lane = NO_LANE) -> Place:
        """Let a stream in: it may take as long as it likes over each of its messages, and holds what has come of it.

        Raises:
            OverloadedError: expected; so many streams are open already, of all or of this party or lane.
        """
        self._find_place(
            self.streams, lane, "streams", "Use fewer streams with more requests each, or try again later."
        )
        return self.streams.place(lane)

    def close(self) -> None:
        """Refuse everything from now on; what is in flight goes on."""
        self._closed = True
        for turns in (self._waiting, *self._beyond.values()):
            while len(turns):
                waiter = turns.take()
                if not waiter.granted.done():
                    waiter.granted.set_exception(draining())
        self._beyond.clear()
        for lane in list(self._readers):
            self._read_on(lane)

    async def room(self, lane: Lane = NO_LANE) -> None:
        """Wait until no request of a lane's streams waits for permits: before, reading another only fills memory."""
        while self._waits[lane] and not self._closed:
            reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._readers.setdefault(lane, []).append(reader)
            await reader

    def keep_until_done(self, doing: Future[Any], load: Permits, lane: Lane = NO_LANE) -> None:
        """Hold the permits for one image once more until work on it ends in its thread, for a caller who has gone.

        What a thread works on takes memory and time whether or not somebody waits for it; without this, callers with
        short deadlines could pile up work without limit.
        """
        load = load.at_most(self.bulk_capacity)
        self._all.hold(load, lane)
        loop = asyncio.get_running_loop()

        def release(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: there is nobody left to count for
                loop.call_soon_threadsafe(lambda: self.give_back(load, lane, bulk=False))

        doing.add_done_callback(release)

    def admit(self, load: Permits, *, wait: bool, lane: Lane = NO_LANE) -> _Holding:
        """Hold permits for `load` while the block runs.

        Args:
            load: what comes. Images and bytes above `bulk_capacity` would wait for ever; of more work than that, so
                much is held, so that whatever the limits of a request allow can be let in when nothing else is there.
            wait: wait for room, in turn by lane (a request of a stream); else refuse at once.
            lane: whose permits they are.

        Raises:
            OverloadedError: expected; no room now for all or for this party or lane, and not waiting.
            UnavailableError: expected; closed, possibly while waiting.
        """
        return _Holding(self, load, lane, wait=wait)

    async def take(self, load: Permits, lane: Lane, *, wait: bool) -> Permits:
        """Take permits, see `admit`, and return those that `give_back` is to be called with."""
        if self._closed:
            raise draining()
        if load.work > self.bulk_capacity.work:
            load = load._replace(work=self.bulk_capacity.work)
        if wait:
            await self._take_bulk(load, lane)
        else:
            self._find_room(load, lane)
            self._all.hold(load, lane)
        return load

    def _find_room(self, load: Permits, lane: Lane) -> None:
        if self._all.plenty(load) and not len(self._waiting):
            return
        reserved = NO_PERMITS
        if len(self._waiting):
            # The first request that waits would wait for ever if it had to compete with lone requests. But whoever has
            # nothing yet need not wait for a request of somebody who has much.
            reserved = self._reserved()
            if not self._all.of(lane).images and load.within(self._kept_for_newcomers):
                reserved = NO_PERMITS
        fits = self._all.fits(load, reserved)
        if fits and not self._all.beyond(load, lane):
            return
        own, held, most = self._all.of(lane), self._all.held, self._capacity
        if fits or self._more_than_one_may(own, load):
            raise self._refusal(
                Reason.SHARE_FULL,
                f"You have {_told(own)} in flight; the rest of {_told(most)} is reserved for other callers. Try again "
                "later, or send fewer at once.",
                missing=load,
                come=load,
            )
        together = held.plus(load)
        raise self._refusal(
            Reason.QUEUE_FULL,
            f"{_told(held)} are in flight; {_told(load)} more would exceed the limit of {_told(most, 'or')}. Try "
            "again later, or send fewer at once.",
            missing=Permits(
                together.images + reserved.images - most.images, 0, together.work + reserved.work - most.work
            ),
            come=load,
        )

    def _find_place(self, places: Shares, lane: Lane, what: str, advice: str) -> None:
        if places.plenty(ONE):
            return
        if not places.fits(ONE):
            message = f"{places.held.images} {what} are in flight, which is the limit. {advice}"
            raise self._refusal(Reason.QUEUE_FULL, message, missing=_ONE, come=_ONE)
        if places.beyond(ONE, lane):
            own = places.of(lane).images
            most = places.most.images
            message = f"You have {own} {what} in flight; the rest of {most} is reserved for other callers. {advice}"
            raise self._refusal(Reason.SHARE_FULL, message, missing=_ONE, come=_ONE)

    def _refusal(self, reason: Reason, message: str, *, missing: Permits, come: Permits) -> OverloadedError:
        """What a caller is told for whom `missing` is too much, and who will come back with `come`."""
        now = self._clock()
        backlog = max(0.0, self._promised - now)
        self._promised = now + min(_LATEST, backlog + self._retry_after(come))
        missing = Permits(max(1, missing.images), 0, max(0, missing.work))
        return OverloadedError(reason, message, retry_after=backlog + self._retry_after(missing))

    def _reserved(self) -> Permits:
        """Room that lone requests leave free for the first of the waiting requests, which would else wait for ever."""
        head = self._waiting.first().load
        return head if self._bulk.held.plus(head).within(self.bulk_capacity) else NO_PERMITS

    async def _take_bulk(self, load: Permits, lane: Lane) -> None:
        if not len(self._waiting) and self._may_go(load, lane):
            self._bulk.hold(load, lane)
            self._all.hold(load, lane)
            return
        waiter = _Waiter(load, lane, asyncio.get_running_loop().create_future())
        self._waiting.put(lane, waiter, max(1, load.work))
        self._waits[lane] += 1
        self._grant()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self.give_back(load, lane, bulk=True)  # granted and cancelled in the same turn of the loop
            else:
                self._grant()  # whoever waits behind a large request that has gone may fit
            raise
        finally:
            self._waits[lane] -= 1
            if not self._waits[lane]:
                del self._waits[lane]
                self._read_on(lane)

    def _read_on(self, lane: Lane) -> None:
        """Wake those who wait to read more from a lane's streams."""
        for reader in self._readers.pop(lane, ()):
            if not reader.done():
                reader.set_result(None)

    def _grant(self) -> None:
        """Give waiting requests their permits, in turn, as long as the first of them fits."""
        while True:
            while len(self._waiting):
                waiter = self._waiting.first()
                if not waiter.granted.done():
                    if self._beyond_share(waiter.load, waiter.lane):
                        self._beyond.setdefault(waiter.lane.who, FairQueue()).put(waiter.lane, self._waiting.take())
                        continue
                    if not (self._bulk.fits(waiter.load) and self._all.fits(waiter.load)):
                        return
                    self._bulk.hold(waiter.load, waiter.lane)
                    self._all.hold(waiter.load, waiter.lane)
                    waiter.granted.set_result(None)
                self._waiting.take()
            if not self._within_again():
                return

    def _may_go(self, load: Permits, lane: Lane) -> bool:
        """Whether a request may have its permits although it has just come: nobody waits, of its party either."""
        if self._bulk.plenty(load) and self._all.plenty(load):
            return lane.who not in self._beyond
        return (
            lane.who not in self._beyond
            and not self._beyond_share(load, lane)
            and self._bulk.fits(load)
            and self._all.fits(load)
        )

    def _beyond_share(self, load: Permits, lane: Lane) -> bool:
        """Whether a request is beyond its party's share of what streams may hold, or of all with its lone requests."""
        return self._more_than_one_may(self._all.of(lane), load) or self._bulk.beyond(load, lane)

    def _more_than_one_may(self, own: Held, load: Permits) -> bool:
        """Whether a party that has its own would hold more than any party may, however much is free."""
        return own.images > 0 and not own.plus(load).within(self._most_of_one)

    def _within_again(self) -> bool:
        """Have each party's next request that is within its share again wait for its turn; whether there is one."""
        found = False
        for who, turns in list(self._beyond.items()):
            while len(turns):
                waiter = turns.first()
                if not waiter.granted.done():
                    if not self._beyond_share(waiter.load, waiter.lane):
                        self._waiting.put(waiter.lane, turns.take(), max(1, waiter.load.work))
                        found = True
                    break
                turns.take()
            if not len(turns):
                del self._beyond[who]
        return found

    def give_back(self, load: Permits, lane: Lane, *, bulk: bool) -> None:
        """Give permits back that `take` returned; `bulk`: those that it may have waited for."""
        self._all.release(load, lane)
        if bulk:
            self._bulk.release(load, lane)
        if len(self._waiting) or self._beyond:
            self._grant()


def _told(load: Permits | Held, together: str = "and") -> str:
    """For people."""
    return (
        f"{load.images} {noun(load.images, 'image')}, {load.bytes} {noun(load.bytes, 'byte')} {together} {load.work} "
        f"{noun(load.work, 'pixel')} of decoding"
    )
