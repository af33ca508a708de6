"""The engine's end: one thread reads what all workers say and feeds the batcher; who computes sends the answers.

The answers of a batch go to each worker with one write, and while images wait for the device, the reading thread does
not wake for each that comes, but when a batch ends, or a thousand times a second.
"""

from __future__ import annotations

import array
import contextlib
import logging
import math
import os
import selectors
import socket
import threading
import time
from concurrent.futures import Future, InvalidStateError
from enum import Enum

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
_MOMENT = 0.0002  # seconds, in which the batcher takes what waits for a device that is free
_SLICE = 0.001  # seconds that the reader sleeps while images wait for the device
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


class _Stage(Enum):
    """How far an image has come."""

    WAITS = 0
    COMPUTED = 1  # it can be cancelled no more
    ENDED = 2
    CANCELLED = 3


class _Flight(Future[Answer]):
    """One image of a worker, as the future that the batcher ends.

    No thread waits for it: its end is a record for the worker. So it needs no condition of its own, which a plain
    future takes at each question and which costs more to make than all else of an image here; its stage changes with
    the worker's lock. It is only to be asked and told what is defined here.
    """

    def __init__(self, worker: _Worker, ticket: int, slot: int, lane: Lane) -> None:  # no `super`: see above
        self.worker, self.ticket, self.slot, self.lane = worker, ticket, slot, lane
        self.stage = _Stage.WAITS

    def cancel(self) -> bool:
        """Take it back, unless it is being computed."""
        if self.stage is _Stage.WAITS and self.worker.ended(self, _Stage.CANCELLED):
            return True
        return self.stage is _Stage.CANCELLED

    def cancelled(self) -> bool:
        """Whether it was taken back."""
        return self.stage is _Stage.CANCELLED

    def running(self) -> bool:
        """Whether it is being computed."""
        return self.stage is _Stage.COMPUTED

    def done(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self.stage is _Stage.ENDED or self.stage is _Stage.CANCELLED

    def set_running_or_notify_cancel(self) -> bool:
        """It is going to be computed, unless it was taken back."""
        return self.worker.computes(self)

    def set_result(self, result: Answer) -> None:
        """Tell the worker its answer."""
        if not self.worker.ended(self, _Stage.ENDED, answer=result):
            raise InvalidStateError

    def set_exception(self, exception: BaseException | None) -> None:
        """Tell the worker of an error instead."""
        if not self.worker.ended(self, _Stage.ENDED, error=exception):
            raise InvalidStateError


class _Worker:
    """One connection. Read by one thread; answers come from several."""

    def __init__(self, host: Host, connected: socket.socket) -> None:
        self.host, self.socket = host, connected
        self.flights: dict[int, _Flight] = {}
        self.parties: dict[str, int] = {}  # images in flight by party
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
            if type(record) is Submit:
                self._submit(record)
            elif isinstance(record, Cancel):
                flight = self.flights.get(record.ticket)
                if flight is not None:
                    flight.cancel()
            elif isinstance(record, LaneNamed):
                self._lanes[record.number] = record.lane
            else:
                raise ValueError(f"a worker does not say {type(record).__name__}")

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
        flight = _Flight(self, ticket, slot, lane)
        with self._lock:
            self.flights[ticket] = flight
            self.parties[lane.who] = self.parties.get(lane.who, 0) + 1
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

    def computes(self, flight: _Flight) -> bool:
        """Whether an image may be computed, which can be cancelled no more then."""
        with self._lock:
            if flight.stage is _Stage.WAITS:
                flight.stage = _Stage.COMPUTED
            return flight.stage is _Stage.COMPUTED

    def ended(
        self, flight: _Flight, stage: _Stage, *, answer: Answer | None = None, error: BaseException | None = None
    ) -> bool:
        """An image has ended: with an answer, an error, or neither; False: it had ended before.

        One that is being computed cannot be cancelled any more.
        """
        with self._lock:
            if flight.stage is not (_Stage.WAITS if stage is _Stage.CANCELLED else _Stage.COMPUTED):
                return False
            flight.stage = stage
            self.flights.pop(flight.ticket, None)
            who = flight.lane.who
            if self.parties[who] == 1:
                del self.parties[who]
            else:
                self.parties[who] -= 1
            if not self.gone and self.arena is not None:
                if answer is None:
                    self._out += records.refusal(flight.ticket, error)
                else:
                    for name, values in answer.outputs.items():
                        self.arena.outputs[name][flight.slot] = values
                    self._out += records.answer(
                        flight.ticket, answer.batch_size, answer.batch, answer.queue_seconds, answer.compute_seconds
                    )
                self._busy[flight.slot] = 0
        # Also of one that has gone: others in the batch wait until all of it has been told.
        self.host.gathering.answered(self)
        return True

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
        self._napping = self._busy = False
        self._ended = threading.Lock()  # held, until a batch ends
        self._ended.acquire()
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
        self._busy = False
        if self._napping:
            with contextlib.suppress(RuntimeError):  # another batch has ended as well
                self._ended.release()
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
        if not self.queue.depth() or self._closed:
            self._busy = False
            return
        self._ended.acquire(blocking=False)  # of a batch before
        self._napping = True
        # What still waits a moment later waits for the device; until a batch ends that stays so.
        if self._busy or not self._ended.acquire(timeout=_MOMENT):
            self._busy = self.queue.depth() > 0
            if self._busy:
                self._ended.acquire(timeout=_SLICE)
        self._napping = False

    def _publish(self) -> None:
        """Tell all workers how the queue is."""
        now = time.monotonic()
        if now - self._published > _PUBLISH:
            self._published = now
            self._seconds = tuple(self.queue.seconds_to_compute(size) for size in self.layout.batch_sizes)
        workers = list(self._workers.values())
        waiting = self.queue.depth()
        # One call of C: other threads change what it goes through.
        parties = len(set().union(*[worker.parties for worker in workers])) if waiting else 0
        state = QueueState(waiting, parties, self._stuck, self._seconds)
        for worker in workers:
            arena = worker.arena
            if arena is not None:
                arena.publish(state)
