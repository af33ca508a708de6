"""The queue of a model that can be put to sleep: what computes it is let go, and loaded again when it wakes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.batching.waiting import Answer
from glimpse.server.errors import Reason, UnavailableError, draining
from glimpse.server.fair_queue import NO_LANE, Lane
from glimpse.server.progress import Progress

_WAKING_SECONDS = 1.0  # after which a caller may try again who has come at the wrong moment


class SleepQueue:
    """A `ModelQueue` in front of another one, which is there while the model is awake. For all threads.

    Whoever puts it to sleep sees to it that no request uses it, and wakes it before the next one does.
    """

    def __init__(self, queue: ModelQueue, load: Callable[[Progress], ModelQueue]) -> None:
        """Awake.

        `load`: makes another queue like `queue`, with all that is behind it, for `wake`; takes as long as a load does,
        and tells what it is given of its steps.
        """
        self._queue: ModelQueue | None = queue
        self.load = load
        self._closed = False
        self._follower: Callable[[ModelQueue | None], object] = lambda _: None
        self._lock = threading.Lock()  # of changes from one queue to another

    def follow(self, follower: Callable[[ModelQueue | None], object]) -> None:
        """Tell what computes it: now, and whenever that changes, before anybody can use it; None: it sleeps."""
        with self._lock:
            self._follower = follower
            follower(self._queue)

    def sleep(self, seconds: float | None = None) -> bool:
        """Compute what is queued, and let go of what computes it.

        Returns:
            Whether that was done within `seconds`; if not, it takes nothing more, and is to be told again.
        """
        queue = self._queue
        if queue is not None and not queue.close(seconds):
            return False
        with self._lock:
            self._queue = None
            self._follower(None)
        return True

    def abandon(self) -> ModelQueue | None:
        """Sleep although a batch hangs, after `sleep`; returns what hangs, for somebody to look at."""
        with self._lock:
            queue, self._queue = self._queue, None
            self._follower(None)
        return queue

    @property
    def closed(self) -> bool:
        """Whether it takes nothing any more, and needs not be woken."""
        return self._closed

    def wake(self, queue: ModelQueue) -> None:
        """Have what `load` has made compute from now on; it is closed instead where this is."""
        with self._lock:
            if not self._closed:
                self._follower(queue)
                self._queue = queue
                return
        queue.close()  # its model was unloaded meanwhile

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
        """Queue one image, see `Batcher.submit`.

        Raises:
            UnavailableError: it sleeps, or is closed.
        """
        if (queue := self._queue) is None:
            raise draining() if self._closed else asleep()
        return queue.submit(pixels, lane=lane, deadline=deadline, future=future, since=since, outputs=outputs)

    def depth(self) -> int:
        """Images waiting."""
        return 0 if (queue := self._queue) is None else queue.depth()

    def ahead(self, lane: Lane) -> int:
        """How many images are computed before one that comes in `lane` now, if no others come."""
        return 0 if (queue := self._queue) is None else queue.ahead(lane)

    def seconds_to_compute(self, images: int) -> float:
        """How long the device needs for that many images; 0 where nothing is known."""
        return 0.0 if (queue := self._queue) is None else queue.seconds_to_compute(images)

    def trouble(self) -> str | None:
        """What keeps the device from answering, for people; None: nothing does. To be asked every now and then."""
        return None if (queue := self._queue) is None else queue.trouble()

    def close(self, timeout: float | None = None) -> bool:
        """Take no more, compute what is queued; whether that was done within `timeout` seconds."""
        with self._lock:
            self._closed = True
            queue = self._queue
        return queue is None or queue.close(timeout)


def asleep() -> UnavailableError:
    """What is told to whoever has come at the wrong moment."""
    return UnavailableError(
        Reason.NOT_READY, "The model is being loaded again. Try again later.", retry_after=_WAKING_SECONDS
    )
