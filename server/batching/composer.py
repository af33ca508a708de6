"""When the next batch is composed, and of which images. No timer: whenever the device becomes free."""

from __future__ import annotations

from glimpse.server.batching.batch_queue import BatchQueue, Taken
from glimpse.server.batching.estimate import ComputeEstimate
from glimpse.server.batching.executor import Executor
from glimpse.server.batching.filling import Filling
from glimpse.server.batching.streams import Streams

# Batches in a row without company, after which a lone image gets the whole device. That answers it sooner, but costs
# more of the device than one stream: where others come meanwhile, all of them wait for it.
_LONELY = 8


class Composer:
    """Knows what the device computes and what waits for it. No lock of its own; the batcher's guards it."""

    def __init__(self, queue: BatchQueue, device: Executor, streams: Streams, *, shared: bool) -> None:
        """Nothing is composed yet.

        Args:
            queue: images that may be computed.
            device: what computes them.
            streams: how it does.
            shared: whether other models compute on the device, too.
        """
        self._queue, self._device = queue, device
        self._streams, self._gathers_ahead = streams.number, streams.gather_ahead
        # On a device that is shared, a batch waits for its turn, so as to have a claim to it when another one ends.
        self._queues_for_turn = shared and streams.number > 1
        self.estimate = ComputeEstimate()
        self._filling = Filling(queue, device, self.estimate, streams.number)
        self.computing = 0  # batches that are on the device
        self.staged = False  # a batch has been taken and waits for a stream
        self._lonely = _LONELY  # batches in a row that had no company

    @property
    def busy(self) -> bool:
        """Whether the device computes as many batches as it can."""
        return self.computing >= self._streams

    def may_compose(self) -> bool:
        """Whether a batch may be composed now."""
        if self.staged or not len(self._queue):
            return False
        if self.computing < self._streams or self._queues_for_turn:
            return True
        # While the device is busy, waiting fills the batch; only a full one cannot gain by it.
        return self._gathers_ahead and len(self._queue) >= self._device.largest

    def compose(self, now: float) -> tuple[Taken, float]:
        """Take the images of the next batch; `staged` is set if there is one, until `begin`.

        Returns:
            What was taken, and how many seconds the device is expected to take for it.
        """
        limit = self._filling.next(self.computing)
        expected = self.estimate.seconds(self._device.padded(min(len(self._queue), limit)))
        taken = self._queue.take(limit, now=now, ready_by=now + expected)
        self.staged = bool(taken.batch)
        return taken, expected

    def begin(self, images: int, padded: int) -> bool:
        """A stream computes the batch that was staged.

        Args:
            images: of the batch.
            padded: the size that it is computed as.

        Returns:
            Whether it is a lone image that may have the whole device: no other has come for a while.
        """
        company = self.computing > 0 or len(self._queue) > 0 or images > 1
        self._lonely = 0 if company else self._lonely + 1
        self.computing += 1
        self.staged = False
        return padded == 1 and self._lonely > _LONELY

    def end(self, padded: int, seconds: float | None) -> None:
        """The batch has come back, computed as that size in so many seconds; None: it tells nothing for others."""
        self.computing -= 1
        if seconds is not None:
            self.estimate.add(padded, seconds)

    def seconds_to_compute(self, images: int) -> float:
        """How long the device needs for that many images, from the batches measured so far."""
        return self._filling.seconds_to_compute(images)
