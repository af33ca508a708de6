"""The engine's end of the connection to one worker."""

from __future__ import annotations

import array
import math
import os
import select
import socket
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import Outputs
from glimpse.server.engine import records
from glimpse.server.engine.arena import Arena, Layout
from glimpse.server.engine.flight import Flight
from glimpse.server.engine.records import Cancel, Hello, Inbox, LaneNamed, Record, Submit
from glimpse.server.fair_queue import Lane

_READ = 256 << 10  # bytes at once
_NO_WAIT = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # joined once: enumerations take a while for it
_UNREAD = 4  # times as many bytes as the answers of all slots take, after which a worker does not read
_FEW = 3  # images, whose pixels are copied one by one sooner than all at once


class Connection:
    """One worker. Read by one thread at a time; answers come from several."""

    def __init__(self, number: int, layout: Layout, connected: socket.socket, wake: Callable[[], None]) -> None:
        """Serve the worker at the other end of a socket, which belongs to the connection from now on.

        Args:
            number: its own in this process.
            layout: of the memory that it is to bring.
            connected: a Unix socket, a stream, which never waits.
            wake: has whoever reads look at `events` again.
        """
        self.number, self.socket = number, connected
        self.waiting: dict[int, Flight] = {}  # by ticket: may be cancelled
        self.computing: dict[int, Flight] = {}  # may not
        self.arena: Arena | None = None
        self.gone = False
        self.held = False  # whoever reads sends what there is afterwards
        self._layout, self._wake = layout, wake
        self._lock = threading.Lock()
        self._out = bytearray()
        self._awaits_room = False
        self._inbox = Inbox()
        self._lanes: dict[int, Lane] = {}
        self._masks: dict[int, frozenset[str]] = {}
        self._busy = bytearray()  # 1 for each slot that is ours
        self._last = 0  # ticket

    def read(self, images: list[Flight]) -> bool:
        """Take what has come, and append the images to `images`; False: the worker has gone.

        Raises:
            ValueError: it says what cannot be.
            OSError: its memory cannot be mapped.
        """
        if self.arena is None:
            return self._greet(images)
        try:
            data = self.socket.recv(_READ)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._take(self._inbox.take(data), images)
        return bool(data)

    def _greet(self, images: list[Flight]) -> bool:
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
            if not data:
                return False
            if not isinstance(first, Hello) or first.version != records.VERSION or len(files) != 1:
                raise ValueError("a worker has to begin with its memory")
            if first.slot_bytes != self._layout.slot_bytes:
                raise ValueError(f"a slot has {self._layout.slot_bytes} bytes. Received: {first.slot_bytes}")
            self.arena = Arena(files[0], self._layout, first.slots)
        finally:
            for file in files:  # mapped, it is needed no more
                os.close(file)
        self._busy = bytearray(first.slots)
        self._take(found[1:], images)
        return True

    def _take(self, found: Sequence[Record], images: list[Flight]) -> None:
        busy, lanes, waiting = self._busy, self._lanes, self.waiting
        for record in found:
            if type(record) is Submit:
                slot, number, mask, ticket, deadline, since = record
                lane, outputs = lanes.get(number), self._masks.get(mask) or self._outputs(mask)
                if slot >= len(busy) or busy[slot] or ticket <= self._last or lane is None:
                    raise ValueError(
                        f"an image needs a slot that is free, a lane, and a new ticket. Received: {record}"
                    )
                busy[slot], self._last = 1, ticket
                until = None if deadline == math.inf else deadline
                waiting[ticket] = flight = Flight(self, ticket, slot, lane, until, since, outputs)
                images.append(flight)
            elif isinstance(record, Cancel):
                if (cancelled := waiting.pop(record.ticket, None)) is not None:
                    self.refuse(cancelled, None)
            elif isinstance(record, LaneNamed):
                lanes[record.number] = record.lane
            else:
                raise ValueError(f"a worker does not say {type(record).__name__}")

    def _outputs(self, mask: int) -> frozenset[str]:
        names = [name for name, _ in self._layout.outputs]
        outputs = self._masks[mask] = frozenset(name for i, name in enumerate(names) if mask >> i & 1)
        if not outputs or mask >> len(names):
            raise ValueError(f"an image needs outputs of {names}. Received: {mask:#b}")
        return outputs

    def gather(self, flights: Sequence[Flight], staging: NDArray[np.uint8]) -> None:
        """Copy the pixels of images into `staging`, uint8 ``[len(flights), H, W, C]``."""
        arena = self.arena
        if arena is None:  # the worker has gone meanwhile, and nobody waits for what is computed
            return
        if len(flights) < _FEW:
            for row, flight in enumerate(flights):
                np.copyto(staging[row], arena.pixels[flight.slot])
            return
        # One call, for which Python's lock is given up and taken back once. `clip`: else NumPy makes a copy first.
        np.take(arena.pixels, [flight.slot for flight in flights], axis=0, out=staging, mode="clip")

    def answer(
        self,
        flights: Sequence[Flight],
        outputs: Outputs,
        queue_seconds: Sequence[float],
        *,
        batch_size: int,
        batch: int,
        compute_seconds: float,
    ) -> None:
        """Give images of one batch their outputs, float32 ``[len(flights), ...]`` by name, and tell the worker.

        Args:
            flights: of this connection; those that have ended already get nothing.
            outputs: of all images, and at least those that each has asked for.
            queue_seconds: for which each has waited.
            batch_size: images in the batch, those of other workers included.
            batch: number of the batch.
            compute_seconds: that the batch took.
        """
        pop, arena = self.computing.pop, self.arena
        there = [row for row, flight in enumerate(flights) if pop(flight.ticket, None) is not None]
        if not there or arena is None:
            return
        if len(there) < len(flights):
            flights, queue_seconds = [flights[row] for row in there], [queue_seconds[row] for row in there]
            outputs = {name: values[there] for name, values in outputs.items()}
        slots = [flight.slot for flight in flights]
        for name, values in outputs.items():  # also one that another image asked for: there is room for it
            if len(slots) < _FEW:
                for slot, row in zip(slots, values, strict=True):
                    arena.outputs[name][slot] = row
            else:
                arena.outputs[name][slots] = values
        tickets = [flight.ticket for flight in flights]
        told = records.answers(tickets, batch_size, batch, queue_seconds, compute_seconds)
        busy = self._busy
        for slot in slots:
            busy[slot] = 0
        with self._lock:
            self._out += told
        self.send()

    def refuse(self, flight: Flight, error: BaseException | None) -> None:
        """Tell the worker that an image has no outputs, because of an error or, None, because it was cancelled."""
        with self._lock:
            self._busy[flight.slot] = 0
            self._out += records.refusal(flight.ticket, error)
        if not self.held:
            self.send()

    def send(self) -> None:
        """Send what there is, or have the reader do so when the worker reads."""
        with self._lock:
            if self.gone or not self._out:
                return
            try:
                sent = self.socket.send(self._out, _NO_WAIT)
            except BlockingIOError:
                sent = 0
            except OSError:  # gone, which the reader finds
                return
            del self._out[:sent]
            full = bool(self._out)
            if full == self._awaits_room:
                return
            self._awaits_room = full
        self._wake()

    @property
    def events(self) -> int:
        """What the reader is to wait for."""
        return select.EPOLLIN | (select.EPOLLOUT if self._awaits_room else 0)

    @property
    def unread(self) -> bool:
        """Whether so much waits to be sent as no worker leaves that reads."""
        return len(self._out) > _UNREAD * records.ANSWER_BYTES * max(1024, len(self._busy))

    def drop(self) -> None:
        """Give it up: nothing that waits is of use any more."""
        with self._lock:
            self.gone = True
            self.waiting.clear()  # what is being computed ends by itself
        self.socket.close()
        self.arena = None
