"""A worker's end: the queue of a model that an engine computes, in place of a batcher. Linux only."""

from __future__ import annotations

import array
import asyncio
import bisect
import contextlib
import itertools
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.server.batching.batch_queue import Answer
from glimpse.server.batching.endings import finish
from glimpse.server.engine import records
from glimpse.server.engine.arena import Arena
from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.engine.records import Answered, Inbox, Refused
from glimpse.server.errors import OverloadedError, Reason, UnavailableError, draining
from glimpse.server.fair_queue import NO_LANE, Lane

_log = logging.getLogger(__name__)

_READ = 256 << 10  # bytes at once: the answers of a large batch
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
        if self.future.done():
            self.memory.free.append(self.slot)
            return
        arena, slot = self.memory.arena, self.slot
        outputs = {name: arena.outputs[name][slot].copy() for name in self.outputs}
        self.memory.free.append(slot)
        size, _, batch, queued, computed = record
        finish(self.future, answer=Answer(outputs, queued, computed, size, batch))

    def refused(self, record: Refused) -> None:
        """There are no outputs, and the slot is free again."""
        self.memory.free.append(self.slot)
        if record.error is not None:
            finish(self.future, error=record.error)


class RemoteQueue:
    """A `ModelQueue` whose batcher is in another process; one for each engine. `submit` may be called by any thread.

    Pixels are copied into shared memory by whoever submits them. Of what the event loop submits the engine is told
    once a turn; other threads tell it at once. Answers come on the event loop, as many in one turn as have come.
    """

    def __init__(self, facts: ModelFacts, *, slots: int, lost: Callable[[], object] = lambda: None) -> None:
        """Make one, not connected. Needs a running event loop.

        Args:
            facts: of the model that the engine has loaded.
            slots: images that may be in flight; one more is refused.
            lost: called on the event loop when a connection has ended by itself.

        Raises:
            MemoryShortError: expected; there is not enough memory for so many images.
        """
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._slots, self._when_lost = slots, lost
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._tickets = itertools.count(1)
        self._flights: dict[int, _Flight] = {}
        self._lanes: dict[Lane, int] = {}  # their numbers in this connection
        self._by_lane: dict[str, Counter[Lane]] = {}  # images in flight, by party and then by lane
        self._out: list[bytes] = []  # records that are not sent yet
        self._scheduled = self._blocked = self._closed = False
        self._socket: socket.socket | None = None
        self._inbox = Inbox()
        self._take_facts(facts)

    def _take_facts(self, facts: ModelFacts) -> None:
        self._layout = layout = facts.layout
        self._shape = layout.pixels_shape
        self._bits = {name: 1 << i for i, (name, _) in enumerate(layout.outputs)}
        self._masks: dict[frozenset[str], int] = {}
        self._memory = _Memory(Arena.make(layout, self._slots), list(range(self._slots)))

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
            self._memory.arena.close()
            self._take_facts(facts)
        arena = self._memory.arena
        arena.clear()
        connected.settimeout(0.0)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [arena.file]))
        with contextlib.suppress(OSError):  # the engine is gone already, which reading will tell
            connected.sendmsg([records.hello(arena.slots, arena.layout.slot_bytes)], [rights], socket.MSG_NOSIGNAL)
        with self._lock:
            self._socket, self._inbox, self._blocked = connected, Inbox(), False
            self._lanes.clear()
            self._out.clear()
        self._loop.add_reader(connected, self._readable)

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
        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 {self._shape}. Received: {pixels.dtype} {pixels.shape}")
        mask = self._masks.get(outputs) or self._mask(outputs)
        memory = self._memory
        self._check_open(memory)
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
                self._count(lane)
                self._out.append(records.submit(slot, number, mask, ticket, deadline, began))
                self._send_soon()
        except BaseException:
            memory.free.append(slot)
            raise
        future.add_done_callback(flight.done)
        return future

    @property
    def connected(self) -> bool:
        """Whether there is an engine."""
        return self._socket is not None

    @property
    def outstanding(self) -> int:
        """Images that the engine has been given and has not answered."""
        return len(self._flights)

    def depth(self) -> int:
        """Images of all workers that wait in front of the device, as the engine has said last."""
        return self._memory.arena.state().waiting

    def ahead(self, lane: Lane) -> int:
        """How many images are computed before one that comes in `lane` now: a hopeful estimate.

        Exact for the images of this worker. Of those of others only their number is known, and of how many parties
        they are: each of these is taken to have no more turns than the caller has.
        """
        with self._lock:
            own = self._by_lane.get(lane.who)
            turns = ours = 0
            if own is not None:
                turns = mine = own[lane]
                for each, count in own.items():
                    if each.priority < lane.priority:
                        turns += count
                    elif each.priority == lane.priority and each != lane:
                        turns += min(count, mine + 1)
            before = turns
            for who, lanes in self._by_lane.items():
                size = lanes.total()
                ours += size
                if who != lane.who:
                    before += min(size, turns + 1)
            parties = len(self._by_lane)
        state = self._memory.arena.state()
        others = min(max(0, state.waiting - ours), max(0, state.parties - parties) * (turns + 1))
        return before + others

    def seconds_to_compute(self, images: int) -> float:
        """How long the device needs for that many images, from the times that the engine has published."""
        seconds = self._memory.arena.state().seconds
        if not seconds:
            return 0.0
        batches, rest = divmod(images, self._layout.batch_sizes[-1])
        # Nothing is known of batches smaller than the smallest.
        place = bisect.bisect_right(self._layout.batch_sizes, rest) - 1
        return batches * seconds[-1] + (seconds[place] if rest and place >= 0 else 0.0)

    def trouble(self) -> str | None:
        """What keeps the engine from answering, for people; None: nothing does."""
        if self._socket is None:
            return "The process that computes has ended and is being replaced."
        return "The device of the process that computes does not respond." if self._memory.arena.state().stuck else None

    def close(self, timeout: float | None = None) -> bool:
        """Take no more, wait for the answers, and end the connection. On the event loop it does not wait.

        Returns:
            Whether all was answered within `timeout` seconds.
        """
        with self._lock:
            self._closed = True
            if threading.get_ident() != self._thread:
                self._changed.wait_for(lambda: not self._flights, timeout)
            done = not self._flights
        if threading.get_ident() == self._thread:
            self._end()
        else:
            with contextlib.suppress(RuntimeError):  # the loop has closed before, and its readers with it
                self._loop.call_soon_threadsafe(self._end)
        return done

    def _check_open(self, memory: _Memory) -> None:
        if self._closed:
            raise draining()
        if self._socket is None or memory is not self._memory:  # that of an engine with another model
            raise _replaced()

    def _full(self) -> OverloadedError:
        return OverloadedError(
            Reason.QUEUE_FULL,
            f"{self._slots} images are in the queue, which holds at most {self._slots}. Try again later.",
            retry_after=self.seconds_to_compute(self._slots),
        )

    def _mask(self, outputs: frozenset[str]) -> int:
        if not outputs or not outputs <= self._bits.keys():
            raise ValueError(f"outputs must be some of {sorted(self._bits)}. Received: {sorted(outputs)}")
        mask = self._masks[outputs] = sum(self._bits[name] for name in outputs)
        return mask

    def _number(self, lane: Lane) -> int:
        """A number for a lane that has none, of which the engine is told."""
        number = len(self._lanes)
        if number == _MOST_LANES:  # what has been sent with the oldest one's number still means that lane
            number = self._lanes.pop(next(iter(self._lanes)))
        self._lanes[lane] = number
        self._out.append(records.lane(number, lane))
        return number

    def _count(self, lane: Lane) -> None:
        lanes = self._by_lane.get(lane.who)
        if lanes is None:
            lanes = self._by_lane[lane.who] = Counter()
        lanes[lane] += 1

    def _forget(self, flight: _Flight) -> None:
        lane = flight.lane
        lanes = self._by_lane[lane.who]
        if lanes[lane] > 1:
            lanes[lane] -= 1
            return
        del lanes[lane]
        if not lanes:
            del self._by_lane[lane.who]

    def _cancel(self, ticket: int) -> None:
        with self._lock:
            if ticket in self._flights and self._socket is not None:
                self._out.append(records.cancel(ticket))
                self._send_soon()

    def _send_soon(self) -> None:
        """With the lock: at the end of the event loop's turn, where that is who asks, else now."""
        if self._blocked:
            return
        if threading.get_ident() != self._thread:
            self._send()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        with self._lock:
            self._scheduled = False
            if not self._blocked:
                self._send()

    def _send(self) -> None:
        """With the lock: send what there is; what does not fit waits until the socket takes it."""
        if not self._out or self._socket is None:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:  # the engine is gone, which reading tells
            return
        if sent < len(data):
            self._out.append(data[sent:])
            if not self._blocked:
                self._blocked = True
                self._loop.call_soon_threadsafe(self._await_room, self._socket)

    def _await_room(self, connected: socket.socket) -> None:
        if connected is self._socket:
            self._loop.add_writer(connected, self._writable)

    def _writable(self) -> None:
        with self._lock:
            self._send()
            if not self._out and self._socket is not None:
                self._blocked = False
                self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            found = self._inbox.take(data)
        except ValueError:
            _log.exception("the engine says what cannot be; the connection to it is given up")
            data = b""
        if data:
            self._answered(found)
        else:
            self._end()
            self._when_lost()

    def _answered(self, found: list[records.Record]) -> None:
        ended: list[tuple[_Flight, Answered | Refused]] = []
        with self._lock:
            for record in found:
                if isinstance(record, Answered | Refused) and (flight := self._flights.pop(record.ticket, None)):
                    self._forget(flight)
                    ended.append((flight, record))
            if self._closed and not self._flights:
                self._changed.notify_all()
        for flight, record in ended:
            if isinstance(record, Answered):
                flight.answered(record)
            else:
                flight.refused(record)

    def _end(self) -> None:
        """End the connection, on the event loop; what is in flight is refused."""
        with self._lock:
            connected, self._socket = self._socket, None
            lost = list(self._flights.values())
            self._flights.clear()
            self._by_lane.clear()
            self._out.clear()
            self._blocked = False
            self._changed.notify_all()
        if connected is not None:
            self._loop.remove_reader(connected)
            self._loop.remove_writer(connected)
            connected.close()
        for flight in lost:
            # The engine may still read from the slot, but it writes nothing for a connection that has ended.
            flight.memory.free.append(flight.slot)
            finish(flight.future, error=draining() if self._closed else _replaced())
        if self._closed:
            self._memory.arena.close()


def _replaced() -> UnavailableError:
    """What is told to whoever waits for an engine that has ended."""
    return UnavailableError(
        Reason.NOT_READY,
        "The process that computes has ended and is being replaced. Try again later.",
        retry_after=_REPLACED_SECONDS,
    )
