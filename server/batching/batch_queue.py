"""The queue in front of the device: one lane per client, taken in turn. Plain data, no threads, no clock."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS, Outputs
from glimpse.server.fair_queue import FairQueue, Lane


@dataclass(frozen=True, slots=True)
class Answer:
    """One image's share of a batch."""

    outputs: Outputs  # that its slot asked for, by name
    queue_seconds: float
    compute_seconds: float  # of the whole batch
    batch_size: int  # images in the batch, padding not counted
    batch: int = 0  # its number, of all that the process computes


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One image waiting for the device."""

    pixels: NDArray[np.uint8]  # [H, W, C]
    lane: Lane
    deadline: float | None  # None: whenever
    enqueued: float
    future: Future[Answer]
    outputs: frozenset[str] = DEFAULT_OUTPUTS  # of the network, by name


@dataclass(frozen=True, slots=True)
class Taken:
    """What one look into the queue gave."""

    batch: list[Slot]  # to be computed; their futures can no longer be cancelled
    expired: list[Slot]  # cannot be ready in time; to be told so
    cancelled: int  # gone already; nobody to tell


class BatchQueue:
    """Slots in lanes, first in first out within a lane, one of each lane in turn."""

    def __init__(self) -> None:
        self._turns: FairQueue[Slot] = FairQueue()

    def __len__(self) -> int:
        """Slots waiting, those cancelled since they came included."""
        return len(self._turns)

    def put(self, slot: Slot) -> None:
        """Append to the slot's lane; a new lane has its turn after all others."""
        self._turns.put(slot.lane, slot)

    def ahead(self, lane: Lane) -> int:
        """How many slots are taken before one that is put into `lane` now, if no others come."""
        return self._turns.ahead(lane).items

    def even(self) -> int:
        """How many slots are taken until each party that waits has had as many as the one with the fewest has."""
        return self._turns.even() if self._turns.parties > 1 else len(self._turns)

    def take(self, limit: int, *, now: float, ready_by: float) -> Taken:
        """Remove up to `limit` slots to compute, and all that are found dead on the way.

        Args:
            limit: size of the batch.
            now: slots whose deadline is not after it have expired.
            ready_by: when the batch's answers are expected. A slot that needs them earlier is given up, but only
                where another takes its place: on an idle device trying costs nobody anything, and without the
                try a single slow batch would keep the estimate high for ever.
        """
        batch: list[Slot] = []
        expired: list[Slot] = []
        hopeless: list[Slot] = []
        cancelled = 0
        while len(self._turns) and len(batch) < limit:
            slot = self._turns.take()
            if slot.future.cancelled():
                cancelled += 1
            elif slot.deadline is not None and slot.deadline <= now:
                expired.append(slot)
            elif slot.deadline is not None and slot.deadline < ready_by:
                hopeless.append(slot)
            elif slot.future.set_running_or_notify_cancel():
                batch.append(slot)
            else:
                cancelled += 1
        if batch:
            return Taken(batch, expired + hopeless, cancelled)
        # More than `limit` hopeless slots cannot all be tried; the rest would only wait longer.
        tried = [slot for slot in hopeless[:limit] if slot.future.set_running_or_notify_cancel()]
        return Taken(tried, expired + hopeless[limit:], cancelled)

    def purge(self) -> int:
        """Remove the cancelled slots; returns how many there were."""
        return self._turns.discard(lambda slot: slot.future.cancelled())
