"""Whose turn it is: lanes taken round robin, first in first out within a lane. Plain data: no threads, no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Items in lanes. One of each lane is taken in turn, so that no lane can make another wait for all it has."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, deque[T]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        """Items that wait, in all lanes."""
        return self._length

    def put(self, lane: str, item: T) -> None:
        """Append to a lane; a new lane has its turn after all others."""
        self._lanes.setdefault(lane, deque()).append(item)
        self._length += 1

    def first(self) -> T:
        """The item whose turn it is; it stays where it is. There must be one."""
        return next(iter(self._lanes.values()))[0]

    def take(self) -> T:
        """Remove the item whose turn it is; then it is the next lane's turn. There must be one."""
        lane, items = next(iter(self._lanes.items()))
        item = items.popleft()
        self._length -= 1
        if items:
            self._lanes.move_to_end(lane)
        else:
            del self._lanes[lane]
        return item

    def ahead(self, lane: str) -> int:
        """How many items are taken before one that is put into `lane` now, if no others come."""
        own = len(self._lanes.get(lane, ()))
        return own + sum(min(len(items), own + 1) for name, items in self._lanes.items() if name != lane)

    def discard(self, unwanted: Callable[[T], bool]) -> int:
        """Remove the items that are unwanted; returns how many there were."""
        before = self._length
        for lane in list(self._lanes):
            kept = deque(item for item in self._lanes[lane] if not unwanted(item))
            if kept:
                self._lanes[lane] = kept
            else:
                del self._lanes[lane]
        self._length = sum(len(items) for items in self._lanes.values())
        return before - self._length
