"""The engine's end: one thread reads what all workers say and feeds the batcher; who computes sends the answers.

The answers of a batch go to each worker with one write, and while images wait for the device, the reading thread does
not wake for each that comes, but when a batch ends, or a thousand times a second.
"""

from __future__ import annotations

import array
import logging
import math
import os
import selectors
import socket
import threading
import time
from concurrent.futures import Future
from typing import Any

from glimpse.server.batching.batch_queue import Answer
from glimpse.server.batching.batcher import Observer
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.domain import BatchReport
from glimpse.server.engine import records
from glimpse.server.engine.arena import Arena, Layout, QueueState
from glimpse.server.engine.records import Cancel, Hello, Inbox, LaneNamed, Submit
from glimpse.server.fair_queue import Lane

_log = logging.getLogger(__name__)

_READ = 256 << 10  # bytes at once
_SLICES = 0.0002, 0.0008  # seconds that the reader sleeps while images wait for the device
_LOOK = 0.5  # seconds, after which the reader looks whether anything was left behind
_PUBLISH = 0.01  # seconds that published times may be old
_UNREAD = 4  # times as many bytes as the answers of all slots take, after which a worker does not read


class Gathering:
    """The observer of an engine's batcher, which knows when the last image of a batch has its answer.

    The batcher tells it of a batch just before it ends the batch's futures, in the same thread. So the answers are
    collected until there have been as many as the batch has images.
    """

    def __init__(self) -> None:
        """Observe nothing until `observe` says for whom."""
        self._inner: Observer | None = None
        self._local = threading.local()
        self.host: Host | None = None

    def observe(self, inner: Observer) -> None:
        """Tell that one of everything from now on."""
        self._inner = inner

    def batch(self, report: BatchReport) -> None:
        """A batch ended, whose answers are given out by this thread next."""
        if self._inner is not None:
            self._inner.batch(report)
        self.send()  # of a batch before whose futures somebody else had ended
        self._local.left = report.size
        if self.host is not None:
            self.host.batch_ended()

    def expired(self, count: int) -> None:
        """Images were given up because of their deadline."""
        if self._inner is not None:
            self._inner.expired(count)

    def cancelled(self, count: int) -> None:
        """Images were found cancelled in the queue."""
        if self._inner is not None:
            self._inner.cancelled(count)

    def halved(self) -> None:
        """A batch was computed in parts."""
        if self._inner is not None:
            self._inner.halved()

    def hold(self) -> None:
        """Collect in this thread until `send`."""
        self._local.left = math.inf

    def answered(self, worker: _Worker) -> None:
        """There is something to send to a worker: now, or with the rest of the batch."""
        local = self._local
        left = getattr(local, "left", 0)
        if left <= 0:
            worker.send()
            return
        waiting = getattr(local, "workers", None)
        if waiting is None:
            waiting = local.workers = set()
        waiting.add(worker)
        local.left = left - 1
        if left == 1:
            self.send()

    def send(self) -> None:
        """Send what this thread has collected."""
        self._local.left = 0
        waiting: set[_Worker] | None = getattr(self._local, "workers", None)
        if waiting:
            for worker in waiting:
                worker.send()
            waiting.clear()


class _Flight(Future[Answer]):
    """One image of a worker."""

    def __init__(self, ticket: int, slot: int, lane: Lane, outputs: frozenset[str]) -> None:
        super().__init__()
        self.ticket, self.slot, self.lane, self.outputs = ticket, slot, lane, outputs


class _Worker:
    """One connection. Read by one thread; answers come from several."""

    def __init__(self, host: Host, connected: socket.socket) -> None:
        self.host, self.socket = host, connected
        self.flights: dict[int, _Flight] = {}
        self.arena: Arena | None = None
        self.gone = False
        self._lock = threading.Lock()
        self._out = bytearray()
        self._awaits_room = False
        self._inbox = Inbox()
        self._lanes: dict[int, Lane] = {}
        self._masks: dict[int, frozenset[str]] = {}
        self._busy = bytearray()  # 1 for each slot that is ours
        self._last = 0  # ticket

    def read(self) -> bool:
        """Take what has come; False: the worker has gone.

        Raises:
            ValueError: it says what cannot be.
            OSError: its memory cannot be mapped.
        """
        if self.arena is None:
            return self._greet()
        try:
            data = self.socket.recv(_READ)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._take(self._inbox.take(data))
        return bool(data)

    def _greet(self) -> bool:
        space = socket.CMSG_SPACE(array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self.socket.recvmsg(_READ, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return True
        except OSError:
            return False
        files = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(content[: len(content) - len(content) % files.itemsize])
        try:
            found = self._inbox.take(data)
            first = found[0] if found else None
            layout = self.host.layout
            if not data:
                return False
            if not isinstance(first, Hello) or first.version != records.VERSION or len(files) != 1:
                raise ValueError("a worker has to begin with its memory")
            if first.slot_bytes != layout.slot_bytes:
                raise ValueError(f"a slot has {layout.slot_bytes} bytes. Received: {first.slot_bytes}")
            self.arena = Arena(files[0], layout, first.slots)
        finally:
            for file in files:  # mapped, it is needed no more
                os.close(file)
        self._busy = bytearray(first.slots)
        self._take(found[1:])
        return True

    def _take(self, found: list[records.Record]) -> None:
        for record in found:
            if isinstance(record, Submit):
                self._submit(record)
            elif isinstance(record, Cancel):
                flight = self.flights.get(record.ticket)
                if flight is not None:
                    flight.cancel()
            elif isinstance(record, LaneNamed):
                self._lanes[record.number] = record.lane
            else:
                raise ValueError(f"a worker does not say {type(record).__name__}")  # noqa: TRY004 - it is no type of ours

    def _submit(self, record: Submit) -> None:
        slot, number, mask, ticket, deadline, since = record
        lane = self._lanes.get(number)
        if slot >= len(self._busy) or self._busy[slot] or ticket <= self._last or lane is None:
            raise ValueError(f"an image needs a slot that is free, a lane, and a new ticket. Received: {record}")
        assert self.arena is not None  # noqa: S101 - there are slots
        outputs = self._masks.get(mask)
        if outputs is None:
            names = [name for name, _ in self.arena.layout.outputs]
            outputs = self._masks[mask] = frozenset(name for i, name in enumerate(names) if mask >> i & 1)
        self._busy[slot], self._last = 1, ticket
        flight = self.flights[ticket] = _Flight(ticket, slot, lane, outputs)
        flight.add_done_callback(self._done)
        try:
            self.host.queue.submit(
                self.arena.pixels[slot],
                lane=lane,
                deadline=None if deadline == math.inf else deadline,
                future=flight,
                since=since,
                outputs=outputs,
            )
        except Exception as error:  # noqa: BLE001 - it is told to whoever waits for the image
            if flight.set_running_or_notify_cancel():
                flight.set_exception(error)

    def _done(self, flight: Any) -> None:
        """An image has ended, in whichever way."""
        if flight.cancelled():
            record = records.refusal(flight.ticket, None)
        elif (error := flight.exception()) is not None:
            record = records.refusal(flight.ticket, error)
        else:
            answer = flight.result()
            record = records.answer(
                flight.ticket, answer.batch_size, answer.batch, answer.queue_seconds, answer.compute_seconds
            )
        with self._lock:
            self.flights.pop(flight.ticket, None)
            if not self.gone and self.arena is not None:
                if record[0] == records.ANSWER:
                    for name, values in answer.outputs.items():
                        self.arena.outputs[name][flight.slot] = values
                self._busy[flight.slot] = 0
                self._out += record
        # Also of one that has gone: others in the batch wait until all of it has been told.
        self.host.gathering.answered(self)

    def send(self) -> None:
        """Send what there is, or have the reader do so when the worker reads."""
        with self._lock:
            if self.gone or not self._out:
                return
            try:
                sent = self.socket.send(self._out, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:  # gone, which the reader finds
                return
            del self._out[:sent]
            full = bool(self._out)
            if full == self._awaits_room:
                return
            self._awaits_room = full
        self.host.wake()

    @property
    def events(self) -> int:
        """What the reader is to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._awaits_room else 0)

    @property
    def unread(self) -> bool:
        """Whether so much waits to be sent as no worker leaves that reads."""
        return len(self._out) > _UNREAD * records.ANSWER_BYTES * max(1024, len(self._busy))

    def drop(self) -> None:
        """Give it up: nothing that waits is of use any more."""
        with self._lock:
            self.gone = True
            flights = list(self.flights.values())
        for flight in flights:
            flight.cancel()  # what is being computed ends by itself
        self.flights.clear()
        self.socket.close()
        self.arena = None


class Host:
    """Serves the queue of a model to workers."""

    def __init__(self, queue: ModelQueue, layout: Layout, gathering: Gathering) -> None:
        """Serve `queue`, whose observer is `gathering`; begins with `start`."""
        self.queue, self.layout, self.gathering = queue, layout, gathering
        gathering.host = self
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        for each in (self._wake_read, self._wake_write):
            each.settimeout(0.0)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._workers: dict[int, _Worker] = {}  # by descriptor; the reader's
        self._coming: list[socket.socket] = []
        self._napping, self._ended = False, threading.Event()
        self._closed = False
        self._stuck = False
        self._seconds: tuple[float, ...] = ()
        self._published = 0.0
        self._thread = threading.Thread(target=self._read, name="workers", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def add(self, connected: socket.socket) -> None:
        """Serve a worker over this connection, which belongs to the host from now on. For any thread."""
        connected.settimeout(0.0)
        self._coming.append(connected)
        self.wake()

    def stuck(self, *, stuck: bool) -> None:
        """Tell the workers whether the device responds."""
        self._stuck = stuck
        self._published = 0.0
        self.wake()

    @property
    def workers(self) -> int:
        """Connections that are open."""
        return len(self._workers)

    def close(self) -> None:
        """End all connections."""
        self._closed = True
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """Have the reader look at everything."""
        try:
            self._wake_write.send(b"\0")
        except OSError:  # it has been woken often enough, or is closed
            return

    def batch_ended(self) -> None:
        """The device has computed a batch: the reader may bring more. Called before the answers are given out."""
        if self._napping:
            self._ended.set()
        self._publish()

    def _read(self) -> None:
        try:
            while not self._closed:
                self._pass()
                self._nap()
        except BaseException:  # noqa: BLE001 - unseen, the workers would wait for ever
            _log.critical("the thread that reads what workers say has died", exc_info=True)
            os._exit(1)
        finally:
            for worker in list(self._workers.values()):
                self._drop(worker)
            self._selector.close()
            self._wake_read.close()
            self._wake_write.close()

    def _pass(self) -> None:
        """Take all that has come from all workers."""
        ready = self._selector.select(_LOOK)
        self.gathering.hold()
        look = not ready
        for key, events in ready:
            worker = key.data
            if worker is None:
                look = True
                try:
                    self._wake_read.recv(4096)
                except BlockingIOError:
                    continue
                continue
            if events & selectors.EVENT_WRITE:
                worker.send()
                look = True
            if events & selectors.EVENT_READ:
                self._hear(worker)
        self.gathering.send()
        if look:
            self._look()
        self._publish()

    def _hear(self, worker: _Worker) -> None:
        try:
            there = worker.read()
        except Exception:  # noqa: BLE001 - whatever it is, the other workers are served
            _log.exception("a worker cannot be served; its connection is given up")
            there = False
        if not there:
            self._drop(worker)

    def _look(self) -> None:
        """Take new workers, wait for room where that is waited for, and leave no answer behind."""
        while self._coming:
            connected = self._coming.pop(0)
            worker = self._workers[connected.fileno()] = _Worker(self, connected)
            self._selector.register(connected, selectors.EVENT_READ, worker)
        for worker in list(self._workers.values()):
            worker.send()
            if worker.unread:
                _log.error("a worker does not read its answers; its connection is given up")
                self._drop(worker)
            else:
                self._selector.modify(worker.socket, worker.events, worker)

    def _drop(self, worker: _Worker) -> None:
        self._workers.pop(worker.socket.fileno(), None)
        self._selector.unregister(worker.socket)
        worker.drop()

    def _nap(self) -> None:
        """Where images wait already, those that come meanwhile cannot be computed before the batch has ended."""
        for seconds in _SLICES:
            self._ended.clear()
            self._napping = True
            waits = self.queue.depth() > 0
            if waits and not self._closed:
                waits = not self._ended.wait(seconds)
            self._napping = False
            if not waits:
                return

    def _publish(self) -> None:
        """Tell all workers how the queue is."""
        now = time.monotonic()
        if now - self._published > _PUBLISH:
            self._published = now
            self._seconds = tuple(self.queue.seconds_to_compute(size) for size in self.layout.batch_sizes)
        workers = list(self._workers.values())
        waiting = self.queue.depth()
        parties = 0
        if waiting:
            parties = len({flight.lane.who for worker in workers for flight in list(worker.flights.values())})
        state = QueueState(waiting, parties, self._stuck, self._seconds)
        for worker in workers:
            arena = worker.arena
            if arena is not None:
                arena.publish(state)
