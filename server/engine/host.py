"""The engine's end: feeds the batcher with the images of all workers, and gives the answers, a batch at a time.

While the device is busy nobody reads what workers say: the thread that has computed a batch reads it all before it
composes the next one, and sends the answers of its batch with one write to each worker. A thread of the host reads
while the device is free, so that an image that comes then is computed at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import attrgetter
from typing import cast

import numpy as np
from numpy.typing import NDArray

from glimpse.server.batching.batcher import Batcher
from glimpse.server.batching.endings import failed
from glimpse.server.batching.feed import Given
from glimpse.server.batching.waiting import Waiting
from glimpse.server.engine.arena import Layout, QueueState
from glimpse.server.engine.connection import Connection
from glimpse.server.engine.flight import Flight
from glimpse.server.engine.resting_queue import RestingQueue

_log = logging.getLogger(__name__)

_MOMENT = 0.0002  # seconds, in which the batcher takes what waits for a device that is free
_SLICE = 0.01  # seconds that the reader sleeps while the device is busy
_SHORT_SLICE = 0.001  # the same where what comes meanwhile may fill a batch that can be gathered at once
_LOOK = 0.5  # seconds, after which the reader looks whether anything was left behind
_PUBLISH = 0.05  # seconds that published times may be old

_MUCH = 4 << 20  # bytes of pixels, from which on several threads copy them where a GPU computes
_COPIERS = 4  # such threads
_PIECE = 16  # images that one copies at once: a third of a millisecond, where waking it takes a tenth

_connection = attrgetter("connection")
_number = attrgetter("connection.number")


class Host:
    """Serves the queue of a model to workers; the `Feed` of its batcher."""

    def __init__(self, queue: Batcher | RestingQueue, layout: Layout) -> None:
        """Serve `queue`, which is told; begins with `start`."""
        self.queue, self.layout = queue, layout
        self._used = time.monotonic()  # when images came last
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = socket.socketpair()
        for each in (self._wake_read, self._wake_write):
            each.settimeout(0.0)
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._reading = threading.Lock()  # of what follows, and of what workers say
        self._connections: dict[int, Connection] = {}  # by descriptor
        self._numbers = 0  # of connections so far
        self._coming: list[socket.socket] = []
        self._napping = self._full = False
        self._rested = threading.Lock()  # held, until the reader is to wake
        self._rested.acquire()
        self._closed = False
        self._stuck = False
        self._seconds: tuple[float, ...] = ()
        self._published = 0.0
        self._thread = threading.Thread(target=self._read, name="workers", daemon=True)
        # None of its threads is begun before there is something for it. They end once nobody refers to the host: after
        # `close` the batcher may still gather a batch that it has taken before, and a pool that is shut down refuses.
        self._copiers = ThreadPoolExecutor(_COPIERS, thread_name_prefix="batcher-copies")

    def start(self) -> None:
        """Begin to read."""
        self.queue.feed_from(self)
        self._thread.start()

    def lead(self, queue: Batcher | None) -> None:
        """Serve another queue of the same model from now on; None: the model sleeps. For any thread."""
        found = RestingQueue() if queue is None else queue
        found.feed_from(self)
        self.queue = found
        self._publish()

    @property
    def idle_seconds(self) -> float:
        """For how long no image has come; 0 while one has no answer."""
        if any(each.waiting or each.computing for each in list(self._connections.values())):
            return 0.0
        return time.monotonic() - self._used

    def add(self, connected: socket.socket) -> None:
        """Serve a worker over this connection, which belongs to the host from now on. For any thread."""
        connected.settimeout(0.0)
        self._coming.append(connected)
        if self._closed:  # perhaps nobody looks any more
            with self._reading:
                self._send_away()
        self.wake()

    def stuck(self, *, stuck: bool) -> None:
        """Tell the workers whether the device responds."""
        self._stuck = stuck
        self._publish()

    @property
    def workers(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    def close(self) -> None:
        """End all connections."""
        self._closed = True
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """Have the reader look at everything."""
        with contextlib.suppress(OSError):  # it has been woken often enough, or is closed
            self._wake_write.send(b"\0")
        self._end_nap()

    def pull(self, *, wake: bool) -> None:
        """Put into the queue what workers have said by now; in a thread of the batcher."""
        if not self._reading.acquire(blocking=False):  # somebody is at it
            return
        try:
            if not self._closed:
                self._hear(wake=wake)
        finally:
            self._reading.release()

    def idle(self) -> None:
        """The device has nothing to do: from now on the reader is the one who reads."""
        self._publish()
        self._end_nap()

    def gather(self, batch: Sequence[Waiting], staging: NDArray[np.uint8]) -> Sequence[Waiting]:
        """Copy the pixels of a batch from the arenas, those of each worker at once.

        Many of them are copied by several threads: a single one would take as long as a fast GPU needs to compute them.
        """
        flights = sorted(cast("Sequence[Flight]", batch), key=_number)  # all of them are from `pull`
        begin = 0
        parts: list[_Part] = []
        for connection, group in groupby(flights, _connection):
            images = list(group)
            parts.append((connection, images, staging[begin : begin + len(images)]))
            begin += len(images)
        if self.queue.streams.several_beside_cores and staging[:begin].nbytes >= _MUCH:
            list(self._copiers.map(Connection.gather, *zip(*_pieces(parts), strict=True)))
        else:
            for connection, images, rows in parts:
                connection.gather(images, rows)
        self._full = begin == len(staging)
        self._publish()
        return flights

    def give(self, given: Given) -> None:
        """Give the images of a batch their answers: outputs into the arenas, and one write to each worker."""
        size = len(given.images)
        for begin, images, outputs in given.computed.parts:
            flights = cast("Sequence[Flight]", given.images[begin : begin + images])
            if outputs is None:
                for flight in flights:
                    flight.refuse(failed())
                continue
            first = 0
            for connection, group in groupby(flights, _connection):
                theirs = list(group)
                last = first + len(theirs)
                connection.answer(
                    theirs,
                    {name: values[first:last] for name, values in outputs.items()},
                    given.queue_seconds[begin + first : begin + last],
                    batch_size=size,
                    batch=given.number,
                    compute_seconds=given.compute_seconds,
                )
                first = last

    def _read(self) -> None:
        """The life of the reader."""
        try:
            while not self._closed:
                ready = self._epoll.poll(_LOOK, 1)
                with self._reading:
                    self._hear(look=not ready)
                self._publish()
                self._nap()
        except BaseException:  # noqa: BLE001 - unseen, the workers would wait for ever
            _log.critical("the thread that reads what workers say has died", exc_info=True)
            os._exit(1)
        finally:
            with self._reading:
                for connection in list(self._connections.values()):
                    self._drop(connection)
                self._send_away()
                self._epoll.close()
                self._wake_read.close()
                self._wake_write.close()

    def _hear(self, *, look: bool = False, wake: bool = True) -> None:
        """With the lock: take all that has come from all workers; `wake` a thread of the batcher for it."""
        images: list[Flight] = []
        heard: list[Connection] = []
        for file, events in self._epoll.poll(0):
            connection = self._connections.get(file)
            if connection is None:
                look = True
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
                continue
            if events & select.EPOLLOUT:
                connection.send()
                look = True
            if events & ~select.EPOLLOUT:
                connection.held = True
                heard.append(connection)
                self._hear_one(connection, images)
        if images:
            self._used = time.monotonic()
            self.queue.put(images, wake=wake)
        for connection in heard:
            connection.held = False
            connection.send()
        if look:
            self._look()

    def _hear_one(self, connection: Connection, images: list[Flight]) -> None:
        try:
            there = connection.read(images)
        except Exception:  # noqa: BLE001 - whatever it is, the other workers are served
            _log.exception("a worker cannot be served; its connection is given up")
            there = False
        if not there:
            self._drop(connection)

    def _look(self) -> None:
        """With the lock: take new workers, wait for room where that is waited for, and leave no answer behind."""
        while self._coming:
            connected = self._coming.pop(0)
            self._numbers += 1
            connection = Connection(self._numbers, self.layout, connected, self.wake)
            self._connections[connected.fileno()] = connection
            self._epoll.register(connected, select.EPOLLIN)
        for connection in list(self._connections.values()):
            connection.send()
            if connection.unread:
                _log.error("a worker does not read its answers; its connection is given up")
                self._drop(connection)
            else:
                self._epoll.modify(connection.socket, connection.events)

    def _send_away(self) -> None:
        """With the lock: end the connections of workers that have come and are not served."""
        while self._coming:
            self._coming.pop().close()

    def _drop(self, connection: Connection) -> None:
        file = connection.socket.fileno()
        if file in self._connections:
            self._epoll.unregister(file)
            connection.drop()  # before it is no longer counted: from then on nothing of it is computed
            del self._connections[file]

    def _nap(self) -> None:
        """What comes while the device is busy is read by the thread that is done with it first."""
        self._rested.acquire(blocking=False)  # of a nap before
        self._napping = True
        busy = self.queue.busy
        if not busy and self.queue.ready() and not self._closed:  # the batcher takes it in a moment
            if self.queue.streams.number == 1:
                busy = True  # that stream is, then
            else:
                self._rested.acquire(timeout=_MOMENT)
                busy = self.queue.busy
        if busy and not self._closed:
            self._rested.acquire(timeout=_SHORT_SLICE if self._full and self.queue.streams.gather_ahead else _SLICE)
        self._napping = False

    def _end_nap(self) -> None:
        if self._napping:
            with contextlib.suppress(RuntimeError):  # another one has ended it
                self._rested.release()

    def _publish(self) -> None:
        """Tell all workers how the queue is."""
        now = time.monotonic()
        if now - self._published > _PUBLISH:
            self._published = now
            self._seconds = tuple([self.queue.seconds_to_compute(size) for size in self.layout.batch_sizes])
        waiting = self.queue.depth()
        state = QueueState(waiting, self.queue.parties() if waiting else 0, self._stuck, self._seconds)
        for connection in list(self._connections.values()):
            arena = connection.arena
            if arena is not None:
                arena.publish(state)


_Part = tuple[Connection, list[Flight], NDArray[np.uint8]]  # images of one worker, and where they belong


def _pieces(parts: Sequence[_Part]) -> Iterator[_Part]:
    """The same in parts that are small enough for several threads to share the work."""
    for connection, flights, rows in parts:
        for begin in range(0, len(flights), _PIECE):
            yield connection, flights[begin : begin + _PIECE], rows[begin : begin + _PIECE]
