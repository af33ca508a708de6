"""The memory that models may take together, and what each takes, as far as that can be measured."""

from __future__ import annotations

from collections.abc import Callable

from glimpse.server.machine import memory
from glimpse.server.runtime import memory_budget
from glimpse.server.runtime.memory_budget import MemoryBudget, mib

# A measured size counts within these bounds of the expected one: others allocate and free at the same time.
_LEAST, _MOST = 0.25, 4.0


class SleepMemory:
    """Counts bytes. Changed on the event loop alone; what is measured, by any thread."""

    def __init__(
        self,
        limit: int,
        *,
        available: Callable[[], MemoryBudget | None] = memory_budget.available,
        measure: Callable[[], int | None] = memory.anonymous,
    ) -> None:
        """Nothing is loaded.

        Args:
            limit: bytes that the models which are awake may take together; 0: what the machine leaves.
            available: what the machine leaves.
            measure: bytes that the process takes; called in a thread.
        """
        self.limit, self.available, self.measure = limit, available, measure
        self._changes = 0  # of what is in memory

    def changed(self) -> None:
        """A model has come into memory, or has gone."""
        self._changes += 1

    def lacks(self, taken: int, takes: int) -> str | None:
        """What there is, for people, where that is less than so many bytes; None: it suffices.

        `taken`: by models that are awake or are being loaded.
        """
        if self.limit and taken + takes > self.limit:
            return f"{mib(max(0, self.limit - taken))} of the {mib(self.limit)} for models are free"
        found = self.available()
        return None if found is None or takes <= found.free else f"{mib(found.free)} are free ({found.limit})"

    def measured(self) -> tuple[int | None, int]:
        """Bytes that the process takes now, and how often anything has changed; for any thread."""
        return self.measure(), self._changes

    def grown(self, before: tuple[int | None, int], expected: int, sign: int = 1) -> int:
        """Bytes by which the process has grown or, with -1, shrunk since, near what was expected.

        What was expected where that cannot be told, or other models have been loaded or let go of at the same time.
        """
        now = self.measure()
        if now is None or before[0] is None or before[1] != self._changes:
            return expected
        return int(min(max(sign * (now - before[0]), _LEAST * expected), _MOST * expected))
