"""Several engines behind one queue: an image goes to the one that has the fewest to answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.server.batching.batch_queue import Answer
from glimpse.server.engine.remote_queue import RemoteQueue
from glimpse.server.errors import OverloadedError, UnavailableError
from glimpse.server.fair_queue import NO_LANE, Lane


class QueueSet:
    """A `ModelQueue` over those of several engines that have loaded the same model."""

    def __init__(self, queues: Sequence[RemoteQueue]) -> None:
        """Take the queues, at least one."""
        self._queues = tuple(queues)

    def submit(
        self,
        pixels: NDArray[np.uint8],
        *,
        lane: Lane = NO_LANE,
        deadline: float | None = None,
        future: Future[Answer] | None = None,
        since: float | None = None,
        outputs: frozenset[str] = DEFAULT_OUTPUTS,
    ) -> Future[Answer]:
        """Hand one image to the engine with the fewest, see `RemoteQueue.submit`."""
        refused: OverloadedError | UnavailableError | None = None
        for queue in self._best():
            try:
                return queue.submit(pixels, lane=lane, deadline=deadline, future=future, since=since, outputs=outputs)
            except (OverloadedError, UnavailableError) as error:
                refused = refused or error
        assert refused is not None  # noqa: S101 - there is at least one queue
        raise refused

    def depth(self) -> int:
        """Images of all workers that wait in front of all devices."""
        return sum(queue.depth() for queue in self._queues)

    def ahead(self, lane: Lane) -> int:
        """How many images are computed before one that comes in `lane` now, in the queue that it would go to."""
        return self._best()[0].ahead(lane)

    def seconds_to_compute(self, images: int) -> float:
        """How long the devices that respond need for that many images together."""
        able = [queue for queue in self._queues if queue.trouble() is None] or self._queues
        share = -(-images // len(able))
        return max(queue.seconds_to_compute(share) for queue in able)

    def trouble(self) -> str | None:
        """What keeps every one of the engines from answering, for people; None: one at least answers."""
        found = [queue.trouble() for queue in self._queues]
        return None if None in found else found[0]

    def close(self, timeout: float | None = None) -> bool:
        """Close all of them, see `RemoteQueue.close`."""
        end = None if timeout is None else time.monotonic() + timeout
        left = [queue.close(None if end is None else max(0.0, end - time.monotonic())) for queue in self._queues]
        return all(left)

    def _best(self) -> list[RemoteQueue]:
        """Those that respond first, and of these the one with the fewest images."""
        return sorted(self._queues, key=lambda queue: (queue.trouble() is not None, queue.outstanding))
