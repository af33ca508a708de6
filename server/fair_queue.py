"""Whose turn it is: parties take turns by the work that they bring, and within a party its lanes take turns.

Plain data: no threads, no clock. A lane is first in, first out, and the lanes of one party are taken round robin, those
of a higher priority before all others of that party.
Between parties it is start-time fair queueing (Goyal, Vin and Cheng, "Start-time fair queueing", 1996): a party's next
item is tagged with the work that the party had been given before, and the smallest tag is next. Where all items are
worth the same, that is round robin as well. A party that comes anew begins at the tag of the item taken last, so that
what it did not use while it was away is not saved up; one that has just been given much work waits until the others
have been given as much, even if it had nothing waiting meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from heapq import heappop, heappush, heapreplace
from operator import itemgetter
from typing import Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

PRIORITIES, USUAL_PRIORITY = 9, 5  # the lowest priority, of which 1 is the highest, and that of most requests
_PRIORITY: Final = itemgetter(0)


class Lane(NamedTuple):
    """Whom something counts for."""

    who: str  # the party that limits count for: who a caller has proved to be, else the address
    name: str = ""  # divides that party's own share: what the caller calls itself, else its connection
    priority: int = USUAL_PRIORITY  # among that party's own lanes, from 1, which is first


class Ahead(NamedTuple):
    """What is taken before an item that comes now, if no others come."""

    items: int
    work: int


_NOTHING = Ahead(0, 0)
NO_LANE = Lane("")  # of callers that need not be told apart


class _Party(Generic[T]):
    """What waits of one party."""

    __slots__ = ("lanes", "number", "size", "start", "unusual", "who", "work")

    def __init__(self, who: str, start: int, number: int) -> None:
        self.who = who
        # By priority and name. Of those of one priority, the lane whose turn it is stands first; none is empty.
        self.lanes: dict[tuple[int, str], deque[tuple[T, int]]] = {}
        self.size = self.work = 0
        self.unusual = 0  # items of another priority than the usual one
        self.start, self.number = start, number  # the tag of its next item; who comes first of equal tags

    def turn(self) -> tuple[int, str]:
        """The lane whose turn it is; there must be one."""
        return min(self.lanes, key=_PRIORITY) if self.unusual else next(iter(self.lanes))

    def ahead(self, lane: Lane) -> Ahead:
        """What is taken before an item that is put into `lane` now; all items taken as alike."""
        if not self.size:
            return _NOTHING
        _, name, priority = lane
        ours = priority, name
        items = own = len(self.lanes.get(ours, ()))
        turns = own + 1  # before it, of another lane of its priority: one fewer of those behind its own lane
        for each, waiting in self.lanes.items():
            if each[0] < priority:
                items += len(waiting)
            elif each == ours:
                turns = own
            elif each[0] == priority:
                items += min(len(waiting), turns)
        return Ahead(items, items * self.work // self.size)


class FairQueue(Generic[T]):
    """Items in lanes, in turn by party and then by lane, so that no party can make another wait for all it has."""

    def __init__(self) -> None:
        self._parties: dict[str, _Party[T]] = {}
        # By tag. A party with nothing left stays until its tag is the smallest: until then it has had more than others.
        self._heap: list[tuple[int, int, _Party[T]]] = []
        self._now = 0  # the tag of the item that was taken last
        self._count = 0
        self.length = 0  # items that wait, in all lanes
        self._work = 0

    def __len__(self) -> int:
        """Items that wait, in all lanes."""
        return self.length

    def put(self, lane: Lane, item: T, work: int = 1) -> None:
        """Append to a lane; `work` is what its turn costs, at least 1, in a unit that is the same for all items."""
        who, name, priority = lane
        party = self._parties.get(who)
        if party is None:
            self._count += 1
            party = self._parties[who] = _Party(who, self._now, self._count)
            heappush(self._heap, (self._now, self._count, party))
        key = priority, name
        waiting = party.lanes.get(key)
        if waiting is None:
            waiting = party.lanes[key] = deque()
        waiting.append((item, work))
        party.size += 1
        party.unusual += priority != USUAL_PRIORITY
        party.work += work
        self.length += 1
        self._work += work

    def first(self) -> T:
        """The item whose turn it is; it stays where it is. There must be one."""
        party = self._next()
        return party.lanes[party.turn()][0][0]

    def take(self) -> T:
        """Remove the item whose turn it is. There must be one."""
        party = self._next()
        item, work = self._of(party)
        if not self.length:
            self._clear()
            return item
        heap = self._heap
        self._now = party.start
        self._count = number = self._count + 1
        party.start = start = self._now + work
        party.number = number
        if len(heap) > 1:
            heapreplace(heap, (start, number, party))
        else:
            heap[0] = (start, number, party)
        return item

    def take_beside(self, busy: Container[str]) -> T | None:
        """Remove the item whose turn it is among those of parties that are not `busy`; None where there is none."""
        others = [party for party in self._parties.values() if party.size and party.who not in busy]
        if not others:
            return None
        party = min(others, key=lambda each: (each.start, each.number))
        item, work = self._of(party)
        if not self.length:
            self._clear()
            return item
        self._count += 1
        party.start, party.number = party.start + work, self._count
        heappush(self._heap, (party.start, party.number, party))
        return item

    def any_beside(self, busy: Container[str]) -> bool:
        """Whether anything waits of parties that are not `busy`."""
        return any(party.size and who not in busy for who, party in self._parties.items())

    @property
    def parties(self) -> int:
        """Parties that have something waiting, or have just had more than others."""
        return len(self._parties)

    def waiting_parties(self) -> int:
        """Parties that have something waiting."""
        return sum([party.size > 0 for party in self._parties.values()]) if self.length else 0

    def all(self) -> Ahead:
        """Everything that waits: at least what `ahead` finds, for less."""
        return Ahead(self.length, self._work)

    def even(self) -> int:
        """How many items are taken until each party that waits has had as many as the one with the fewest has."""
        sizes = [party.size for party in self._parties.values() if party.size]
        return len(sizes) * min(sizes, default=0)

    def ahead(self, lane: Lane) -> Ahead:
        """What is taken before an item that is put into `lane` now, if no others come.

        Exact where all items are worth the same; else an estimate.
        """
        if not self.length:
            return _NOTHING
        party = self._parties.get(lane.who)
        start, number, items, work = self._now, self._count + 1, 0, 0
        if party is not None:
            start, number = party.start, party.number
            items, work = party.ahead(lane)
        tag = start + work
        for other in self._parties.values():
            if other is party or not other.size or other.start > tag:
                continue
            taken, rest = divmod((tag - other.start) * other.size, other.work)
            # Of equal tags, that party is first which has had its own for longer.
            if rest or (other.start, -other.number) > (start, -number):
                taken += 1
            taken = min(taken, other.size)
            items += taken
            work += taken * other.work // other.size
        return Ahead(items, work)

    def discard(self, unwanted: Callable[[T], bool]) -> int:
        """Remove the items that are unwanted; returns how many there were."""
        before = self.length
        self.length = self._work = 0
        for party in self._parties.values():
            kept = {
                lane: left
                for lane, waiting in party.lanes.items()
                if (left := deque(each for each in waiting if not unwanted(each[0])))
            }
            party.lanes = kept
            party.size = sum(map(len, kept.values()))
            party.unusual = sum(len(each) for (priority, _), each in kept.items() if priority != USUAL_PRIORITY)
            party.work = sum(work for waiting in kept.values() for _, work in waiting)
            self.length += party.size
            self._work += party.work
        if not self.length:
            self._clear()
        return before - self.length

    def _of(self, party: _Party[T]) -> tuple[T, int]:
        """Remove the item of a party whose turn it is; the next lane of the party has its next turn."""
        lanes = party.lanes
        lane = party.turn()
        waiting = lanes[lane]
        taken = waiting.popleft()
        if not waiting:
            del lanes[lane]
        elif len(lanes) > 1:
            del lanes[lane]
            lanes[lane] = waiting  # it stands last now
        party.size -= 1
        party.unusual -= lane[0] != USUAL_PRIORITY
        party.work -= taken[1]
        self.length -= 1
        self._work -= taken[1]
        return taken

    def _next(self) -> _Party[T]:
        """The party whose turn it is."""
        heap = self._heap
        while True:
            _, number, party = heap[0]
            if party.size and number == party.number:
                return party
            heappop(heap)
            if number == party.number:  # else it has been taken from beside the turn, and stands further behind
                del self._parties[party.who]

    def _clear(self) -> None:
        """Nothing waits: whoever comes next has nobody to wait for, and so nobody has had more than others."""
        self._parties.clear()
        self._heap.clear()
        self._now = 0
