"""A worker's end: the queue of a model that an engine computes, in place of a batcher. Linux only."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.server.batching.waiting import Answer, finish
from glimpse.server.engine import records
from glimpse.server.engine.arena import Arena, QueueState
from glimpse.server.engine.lane_counts import LaneCounts
from glimpse.server.engine.link import Link
from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.engine.records import Answered, Record, Refused
from glimpse.server.errors import OverloadedError, Reason, UnavailableError, draining
from glimpse.server.fair_queue import NO_LANE, Lane
from glimpse.server.nouns import noun
from glimpse.server.processes.startup import MemoryShortError

_log = logging.getLogger(__name__)

_MOST_LANES = 4096  # that have numbers; the oldest gives way to a new one
_REPLACED_SECONDS = 2.0  # until coming back may help: most of a start is the framework's import


class _Memory(NamedTuple):
    """An arena, and its slots that hold nothing; whoever takes one gives it back to where it was taken from."""

    arena: Arena
    free: list[int]  # the one used last is used next: it is in the processor's cache


class _Flight:
    """One image that an engine has been given, or that is about to be."""

    __slots__ = ("future", "lane", "memory", "outputs", "queue", "slot", "ticket")

    def __init__(  # noqa: PLR0917 - made in one place, for each image
        self,
        queue: RemoteQueue,
        ticket: int,
        memory: _Memory,
        slot: int,
        lane: Lane,
        outputs: frozenset[str],
        future: Future[Answer],
    ) -> None:
        self.queue, self.ticket, self.memory, self.slot = queue, ticket, memory, slot
        self.lane, self.outputs, self.future = lane, outputs, future

    def done(self, future: Future[Answer]) -> None:
        """The future has ended; where nobody waits for it any more, the engine is told."""
        if future.cancelled():
            self.queue._cancel(self.ticket)  # noqa: SLF001 - a part of the queue

    def answered(self, record: Answered) -> None:
        """The outputs are in the slot, which is free again."""
        memory, slot, future = self.memory, self.slot, self.future
        self.forget()
        if not future.set_running_or_notify_cancel():
            memory.free.append(slot)
            return
        found = memory.arena.outputs
        outputs = {name: found[name][slot].copy() for name in self.outputs}
        memory.free.append(slot)
        size, _, batch, queued, computed = record
        future.set_result(Answer(outputs, queued, computed, size, batch))

    def refused(self, record: Refused) -> None:
        """There are no outputs, and the slot is free again."""
        future = self.future
        self.memory.free.append(self.slot)
        self.forget()
        if record.error is not None:
            finish(future, error=record.error)

    def forget(self) -> None:
        """Let go of what it is not to keep once it has ended: the future keeps it for as long as itself.

        Whoever keeps the future must not keep an arena; and a circle would keep the answer until garbage is looked for.
        """
        del self.memory, self.future


class RemoteQueue:
    """A `ModelQueue` whose batcher is in another process; one for each engine. `submit` may be called by any thread.

    Pixels are copied into shared memory by whoever submits them. Answers come on the event loop, as many in one turn as
    have come.
    """

    def __init__(
        self, facts: ModelFacts, *, slots: int, lost: Callable[[], object] = lambda: None, late: bool = False
    ) -> None:
        """Make one, not connected. Needs a running event loop.

        Args:
            facts: of the model that the engine has loaded.
            slots: images that may be in flight; one more is refused.
            lost: called on the event loop when a connection has ended by itself.
            late: take the memory for so many images only when the first one comes. Where it is not to be had then,
                that image and those after it are refused, until it is.

        Raises:
            MemoryShortError: expected; there is not enough memory for so many images, and it is taken now.
        """
        self._loop = asyncio.get_running_loop()
        self._slots, self._when_lost, self._late = slots, lost, late
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._link = Link(self._lock, heard=self._answered, lost=self._lost)
        self._tickets = itertools.count(1)
        self._flights: dict[int, _Flight] = {}
        self._counts = LaneCounts()  # of these
        self._lanes: dict[Lane, int] = {}  # their numbers in this connection
        self._closed = False
        self._take_facts(facts)

    def _take_facts(self, facts: ModelFacts) -> None:
        self._layout = layout = facts.layout
        self._shape = layout.pixels_shape
        self._bits = {name: 1 << i for i, (name, _) in enumerate(layout.outputs)}
        self._masks: dict[frozenset[str], int] = {}
        self._memory = None if self._late else self._make_memory()

    def _make_memory(self) -> _Memory:
        return _Memory(Arena.make(self._layout, self._slots), list(range(self._slots)))

    def connect(self, connected: socket.socket, facts: ModelFacts) -> None:
        """Use this connection to an engine from now on, which has loaded the model; on the event loop.

        Args:
            connected: a Unix socket, a stream, which belongs to the queue from now on.
            facts: of the model that this engine has loaded.

        Raises:
            MemoryShortError: expected; the model takes other memory than the one before, and there is not enough.
        """
        self._end()
        if facts.layout != self._layout:
            if self._memory is not None:
                self._memory.arena.close()
            self._take_facts(facts)
        with self._lock:  # as a whole: the engine takes no image before it has been told of the memory
            self._lanes.clear()
            self._link.open(connected)
            if self._memory is not None:
                self._memory.arena.clear()
                self._greet(self._memory)

    def submit(
        self,
        pixels: NDArray[np.uint8],
        *,
        lane: Lane = NO_LANE,
        deadline: float | None = None,
        future: Future[Answer] | None = None,
        since: float | None = None,
        outputs: frozenset[str] = DEFAULT_OUTPUTS,
    ) -> Future[Answer]:
        """Hand one image to the engine; never waits. The pixels are copied, so that they may be changed afterwards.

        Raises:
            OverloadedError: expected; every slot is taken.
            UnavailableError: expected; the queue is closed, or the engine is being replaced.
            ValueError: you should fix your code; the pixels are not the network's input, or it has no such output.
        """
        # First, as it changes last: who finds the memory of an engine finds what is known of its model, too.
        memory = self._memory or self._first_use()
        self._check_open(memory)
        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 {self._shape}. Received: {pixels.dtype} {pixels.shape}")
        mask = self._masks.get(outputs) or self._mask(outputs)
        try:
            slot = memory.free.pop()
        except IndexError:
            raise self._full() from None
        future = Future() if future is None else future
        try:
            np.copyto(memory.arena.pixels[slot], pixels)
            began = time.monotonic() if since is None else since
            with self._lock:
                self._check_open(memory)
                number = self._lanes.get(lane)
                if number is None:
                    number = self._number(lane)
                ticket = next(self._tickets)
                flight = _Flight(self, ticket, memory, slot, lane, outputs, future)
                self._flights[ticket] = flight
                self._counts.add(lane)
                self._link.say(records.submit(slot, number, mask, ticket, deadline, began))
        except BaseException:
            memory.free.append(slot)
            raise
        future.add_done_callback(flight.done)
        return future

    @property
    def connected(self) -> bool:
        """Whether there is an engine."""
        return self._link.connected

    @property
    def outstanding(self) -> int:
        """Images that the engine has been given and has not answered."""
        return len(self._flights)

    def depth(self) -> int:
        """Images of all workers that wait in front of the device, as the engine has said last."""
        return self._state().waiting

    def ahead(self, lane: Lane) -> int:
        """How many images are computed before one that comes in `lane` now: a hopeful estimate."""
        state = self._state()
        with self._lock:
            return self._counts.ahead(lane, state)

    def seconds_to_compute(self, images: int) -> float:
        """How long the device needs for that many images, from the times that the engine has published."""
        seconds = self._state().seconds
        if not seconds:
            return 0.0
        batches, rest = divmod(images, self._layout.batch_sizes[-1])
        # Nothing is known of batches smaller than the smallest.
        place = bisect.bisect_right(self._layout.batch_sizes, rest) - 1
        return batches * seconds[-1] + (seconds[place] if rest and place >= 0 else 0.0)

    def trouble(self) -> str | None:
        """What keeps the engine from answering, for people; None: nothing does."""
        if not self._link.connected:
            return "The process that computes has ended and is being replaced."
        return "The device of the process that computes does not respond." if self._state().stuck else None

    def close(self, timeout: float | None = None) -> bool:
        """Take no more, wait for the answers, and end the connection. On the event loop it does not wait.

        Returns:
            Whether all was answered within `timeout` seconds.
        """
        with self._lock:
            self._closed = True
            if not self._link.on_loop:
                self._changed.wait_for(lambda: not self._flights, timeout)
            done = not self._flights
        if self._link.on_loop:
            self._end()
        else:
            with contextlib.suppress(RuntimeError):  # the loop has closed before, and its readers with it
                self._loop.call_soon_threadsafe(self._end)
        return done

    def _state(self) -> QueueState:
        """What the engine has said last of its queue; it does not yet where no image has come."""
        memory = self._memory
        return QueueState() if memory is None else memory.arena.state()

    def _first_use(self) -> _Memory:
        """Take the memory, and tell the engine of it.

        Raises:
            OverloadedError: expected; there is not so much.
            UnavailableError: expected; the queue is closed, or the engine is being replaced.
        """
        with self._lock:
            self._check_open(self._memory)
            if self._memory is None:
                try:
                    self._memory = self._make_memory()
                except MemoryShortError as error:
                    _log.error("no memory for the images of a model: %s", error)
                    raise OverloadedError(Reason.QUEUE_FULL, str(error), retry_after=_REPLACED_SECONDS) from error
                self._greet(self._memory)
            return self._memory

    def _greet(self, memory: _Memory) -> None:
        """With the lock: tell the engine where the images will be."""
        arena = memory.arena
        self._link.greet(records.hello(arena.slots, arena.layout.slot_bytes), arena.file)

    def _check_open(self, memory: _Memory | None) -> None:
        if self._closed:
            raise draining()
        if not self._link.connected or memory is not self._memory:  # that of an engine with another model
            raise _replaced()

    def _full(self) -> OverloadedError:
        return OverloadedError(
            Reason.QUEUE_FULL,
            f"{self._slots} {noun(self._slots, 'image is', 'images are')} in the queue, which holds at most "
            f"{self._slots}. Try again later.",
            retry_after=self.seconds_to_compute(self._slots),
        )

    def _mask(self, outputs: frozenset[str]) -> int:
        if not outputs or not outputs <= self._bits.keys():
            raise ValueError(f"outputs must be some of {sorted(self._bits)}. Received: {sorted(outputs)}")
        mask = self._masks[outputs] = sum(self._bits[name] for name in outputs)
        return mask

    def _number(self, lane: Lane) -> int:
        """With the lock: a number for a lane that has none, of which the engine is told."""
        number = len(self._lanes)
        if number == _MOST_LANES:  # what has been sent with the oldest one's number still means that lane
            number = self._lanes.pop(next(iter(self._lanes)))
        self._lanes[lane] = number
        self._link.say_before(records.lane(number, lane))
        return number

    def _cancel(self, ticket: int) -> None:
        with self._lock:
            if ticket in self._flights and self._link.connected:
                self._link.say(records.cancel(ticket))

    def _answered(self, found: Sequence[Record]) -> None:
        ended: list[tuple[_Flight, Answered | Refused]] = []
        with self._lock:
            for record in found:
                if isinstance(record, Answered | Refused) and (flight := self._flights.pop(record.ticket, None)):
                    self._counts.remove(flight.lane)
                    ended.append((flight, record))
            if self._closed and not self._flights:
                self._changed.notify_all()
        for flight, record in ended:
            if isinstance(record, Answered):
                flight.answered(record)
            else:
                flight.refused(record)

    def _lost(self) -> None:
        self._end()
        self._when_lost()

    def _end(self) -> None:
        """End the connection, on the event loop; what is in flight is refused."""
        with self._lock:
            connected = self._link.disconnect()
            lost = list(self._flights.values())
            self._flights.clear()
            self._counts.clear()
            self._changed.notify_all()
        self._link.close(connected)
        for flight in lost:
            # The engine may still read from the slot, but it writes nothing for a connection that has ended.
            future = flight.future
            flight.memory.free.append(flight.slot)
            flight.forget()
            finish(future, error=draining() if self._closed else _replaced())
        if self._closed and self._memory is not None:
            self._memory.arena.close()
            self._memory = None  # now, and not when the queue is found to be garbage


def _replaced() -> UnavailableError:
    """What is told to whoever waits for an engine that has ended."""
    return UnavailableError(
        Reason.NOT_READY,
        "The process that computes has ended and is being replaced. Try again later.",
        retry_after=_REPLACED_SECONDS,
    )
