"""All images that wait, for their batch or for the first class maps, and how many may."""

from __future__ import annotations

from glimpse.server.batching.batch_queue import BatchQueue
from glimpse.server.batching.first_maps import FirstMaps
from glimpse.server.batching.observer import Observer
from glimpse.server.batching.waiting import Waiting


class BoundedQueue:
    """Has a limit for both kinds together. No lock of its own; the batcher's guards it."""

    def __init__(self, ready: BatchQueue, first_maps: FirstMaps, *, capacity: int, observer: Observer) -> None:
        """Put images into these.

        Args:
            ready: images that the next batch may hold.
            first_maps: holds those back that ask for class maps, until what computes maps is there.
            capacity: images that may wait.
            observer: told of images that were found cancelled.
        """
        self._ready, self._first_maps = ready, first_maps
        self.capacity, self._observer = capacity, observer

    def __len__(self) -> int:
        """Images that wait, those cancelled since they came included."""
        return len(self._ready) + len(self._first_maps)

    def room(self) -> int:
        """How many images more may wait; where there is no room, those are removed for which nobody waits any more."""
        room = self.capacity - len(self._ready) - len(self._first_maps)
        if room <= 0:
            self._observer.cancelled(self._ready.purge() + self._first_maps.purge())
            room = self.capacity - len(self)
        return room

    def put(self, image: Waiting) -> None:
        """Have an image wait; for whoever has found that there is room."""
        if not self._first_maps.holds(image):
            self._ready.put(image)

    def maps_prepared(self, *, ready: bool) -> list[Waiting]:
        """What computes class maps is there, and the images that wait for it may be computed.

        `ready`: False: it could not be made; then these images are returned, and wait no longer.
        """
        held = self._first_maps.take(ready=ready)
        self._first_maps.over()
        if not ready:
            return held
        for image in held:
            self._ready.put(image)
        return []
