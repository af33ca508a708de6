"""How many images of each lane a worker has in flight, and what that says of the queue in the engine."""

from __future__ import annotations

from collections import Counter

from glimpse.server.engine.arena import QueueState
from glimpse.server.fair_queue import Lane


class LaneCounts:
    """Images in flight by lane. Plain data: no lock."""

    def __init__(self) -> None:
        """None yet."""
        self._lanes: dict[str, Counter[Lane]] = {}  # by party, and then by lane

    def add(self, lane: Lane) -> None:
        """One more of that lane."""
        lanes = self._lanes.get(lane.who)
        if lanes is None:
            lanes = self._lanes[lane.who] = Counter()
        lanes[lane] += 1

    def remove(self, lane: Lane) -> None:
        """One less; there must be one."""
        lanes = self._lanes[lane.who]
        if lanes[lane] > 1:
            lanes[lane] -= 1
            return
        del lanes[lane]
        if not lanes:
            del self._lanes[lane.who]

    def clear(self) -> None:
        """None of any lane."""
        self._lanes.clear()

    def ahead(self, lane: Lane, state: QueueState) -> int:
        """How many images are computed before one that comes in `lane` now: a hopeful estimate.

        Exact for the images that are counted here. Of those of other workers only their number is known, and of how
        many parties they are: each of these is taken to have no more turns than the caller has.
        """
        own = self._lanes.get(lane.who)
        turns = ours = 0
        if own is not None:
            turns = mine = own[lane]
            for each, count in own.items():
                if each.priority < lane.priority:
                    turns += count
                elif each.priority == lane.priority and each != lane:
                    turns += min(count, mine + 1)
        before = turns
        for who, lanes in self._lanes.items():
            size = lanes.total()
            ours += size
            if who != lane.who:
                before += min(size, turns + 1)
        others = min(max(0, state.waiting - ours), max(0, state.parties - len(self._lanes)) * (turns + 1))
        return before + others
