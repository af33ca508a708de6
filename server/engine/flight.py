"""One image of a worker in the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glimpse.server.batching.waiting import Waiting
from glimpse.server.errors import ServiceError
from glimpse.server.fair_queue import Lane

if TYPE_CHECKING:
    from glimpse.server.engine.connection import Connection


class Flight(Waiting):
    """An image whose pixels are in a slot of its worker's arena, and whose end is a record for that worker.

    It stands among those of its connection that wait, and then among those that are computed. Whoever takes it from
    there decides what becomes of it, which needs no lock: one thread gets it.
    """

    __slots__ = ("connection", "slot", "ticket")

    def __init__(  # noqa: PLR0917 - made in one place, for each image
        self,
        connection: Connection,
        ticket: int,
        slot: int,
        lane: Lane,
        deadline: float | None,
        enqueued: float,
        outputs: frozenset[str],
    ) -> None:
        self.connection, self.ticket, self.slot = connection, ticket, slot
        self.lane, self.deadline, self.enqueued, self.outputs = lane, deadline, enqueued, outputs

    def cancelled(self) -> bool:
        """Whether its worker has taken it back; to be asked before it has begun."""
        return self.ticket not in self.connection.waiting

    def begin(self) -> bool:
        """It is going to be computed, unless it was taken back."""
        connection, ticket = self.connection, self.ticket
        if connection.waiting.pop(ticket, None) is None:
            return False
        connection.computing[ticket] = self
        return True

    def refuse(self, error: ServiceError) -> None:
        """Tell the worker of an error, unless it has been told of its end."""
        connection, ticket = self.connection, self.ticket
        if connection.waiting.pop(ticket, None) or connection.computing.pop(ticket, None):
            connection.refuse(self, error)
