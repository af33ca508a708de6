"""Bounds what is in memory between being read and being answered."""

from __future__ import annotations

import threading


class InFlightLimit:
    """Images, and bytes of them, that may be in flight. For all threads."""

    def __init__(self, images: int, size: int) -> None:
        """Allow so many images of so many bytes together; one image is always allowed where there is no other."""
        self._most_images, self._most_bytes = images, size
        self._images = self._bytes = 0
        self._changed = threading.Condition()

    def take(self, size: int, seconds: float | None = None) -> bool:
        """Wait until there is room for an image of so many bytes, at most so long; whether it was taken."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._has(size), seconds):
                return False
            self._images += 1
            self._bytes += size
            return True

    def give_back(self, size: int) -> None:
        """An image of so many bytes is done with."""
        with self._changed:
            self._images -= 1
            self._bytes -= size
            self._changed.notify_all()

    def _has(self, size: int) -> bool:
        return not self._images or (self._images < self._most_images and self._bytes + size <= self._most_bytes)
