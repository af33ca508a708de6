"""The queue in front of the device: one lane per client, taken in turn. Plain data, no threads, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from glimpse.server.batching.waiting import Answer, Slot, Waiting
from glimpse.server.fair_queue import FairQueue, Lane

__all__ = ["Answer", "BatchQueue", "Slot", "Taken"]


@dataclass(frozen=True, slots=True)
class Taken:
    """What one look into the queue gave."""

    batch: list[Waiting]  # to be computed; they can no longer be cancelled
    expired: list[Waiting]  # cannot be ready in time; to be told so
    cancelled: int  # gone already; nobody to tell


class BatchQueue:
    """Slots in lanes, first in first out within a lane, one of each lane in turn."""

    def __init__(self) -> None:
        self._turns: FairQueue[Waiting] = FairQueue()

    def __len__(self) -> int:
        """Slots waiting, those cancelled since they came included."""
        return self._turns.length  # asked for several times an image

    def put(self, slot: Waiting) -> None:
        """Append to the slot's lane; a new lane has its turn after all others."""
        self._turns.put(slot.lane, slot)

    def ahead(self, lane: Lane) -> int:
        """How many slots are taken before one that is put into `lane` now, if no others come."""
        return self._turns.ahead(lane).items

    def parties(self) -> int:
        """How many parties have something waiting."""
        return self._turns.waiting_parties()

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
        batch: list[Waiting] = []
        expired: list[Waiting] = []
        hopeless: list[Waiting] = []
        cancelled = 0
        turns = self._turns
        while len(turns) and len(batch) < limit:
            slot = turns.take()
            deadline = slot.deadline
            if deadline is not None and (deadline < ready_by or deadline <= now):
                if slot.cancelled():
                    cancelled += 1
                elif deadline <= now:
                    expired.append(slot)
                else:
                    hopeless.append(slot)
            elif slot.begin():
                batch.append(slot)
            else:
                cancelled += 1
        if batch:
            return Taken(batch, expired + hopeless, cancelled)
        # More than `limit` hopeless slots cannot all be tried; the rest would only wait longer.
        tried = [slot for slot in hopeless[:limit] if slot.begin()]
        return Taken(tried, expired + hopeless[limit:], cancelled)

    def purge(self) -> int:
        """Remove the cancelled slots; returns how many there were."""
        return self._turns.discard(lambda slot: slot.cancelled())
