"""What a request needs of the queue in front of a device, in this process or in another one."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.server.batching.batch_queue import Answer
from glimpse.server.fair_queue import NO_LANE, Lane


class ModelQueue(Protocol):
    """The queue of one model; `Batcher` is one whose device is in this process. For all threads."""

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
        """Queue one image, see `Batcher.submit`. Times are on the clock of `time.monotonic`."""

    def depth(self) -> int:
        """Images waiting."""

    def ahead(self, lane: Lane) -> int:
        """How many images are computed before one that comes in `lane` now, if no others come."""

    def seconds_to_compute(self, images: int) -> float:
        """How long the device needs for that many images, from the batches measured so far."""

    def trouble(self) -> str | None:
        """What keeps the device from answering, for people; None: nothing does."""

    def close(self, timeout: float | None = None) -> bool:
        """Take no more, compute what is queued; whether that was done within `timeout` seconds."""
