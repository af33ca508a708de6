"""How many of the images that wait go into the next batch."""

from __future__ import annotations

from glimpse.server.batching.batch_queue import BatchQueue
from glimpse.server.batching.estimate import ComputeEstimate
from glimpse.server.batching.executor import Executor

# So many times as long as a batch of equal parts may one take that is filled up with the images of those who have more.
_LONGER = 2.0


class Filling:
    """Decides it, by what waits and by how long the device takes. No lock of its own; the batcher's guards it."""

    def __init__(self, queue: BatchQueue, device: Executor, estimate: ComputeEstimate, streams: int) -> None:
        """Look at these, of a device that computes so many batches at once."""
        self._queue, self._device, self._estimate, self._streams = queue, device, estimate, streams

    def seconds_to_compute(self, images: int) -> float:
        """How long the device needs for that many images, from the batches measured so far."""
        return self._estimate.seconds_to_compute(images, self._device.largest) / self._streams

    def next(self, computing: int) -> int:
        """The most images of the next batch, while so many others are on the device."""
        return self._fair(self._share(len(self._queue), computing))

    def _share(self, waiting: int, computing: int) -> int:
        """How many of those that wait go into the next batch: all, or their share where several streams are free."""
        free = max(1, self._streams - computing)
        return min(-(-waiting // free), self._device.largest)

    def _fair(self, limit: int) -> int:
        """How many go into the next batch, of so many that could: fewer, where another party would wait for them.

        Whoever has few images is in the next batch, beside as many of each other party. Filling it up with a backlog
        is to have its answer take no more than twice as long; where large batches take hardly longer, it is filled.
        """
        even = self._queue.even()
        if even >= limit:
            return limit
        most = _LONGER * self._estimate.seconds(self._device.padded(even))
        sizes = self._device.sizes(even, limit)
        return next((size for size in sizes if self._estimate.seconds(size) <= most), even)
