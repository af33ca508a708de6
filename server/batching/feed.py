"""Where the batcher's images come from, and how they get their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from glimpse.server.batching.endings import failed
from glimpse.server.batching.executor import Computed
from glimpse.server.batching.waiting import Answer, Slot, Waiting


class Given(NamedTuple):
    """A batch whose images are to get their answers."""

    images: Sequence[Waiting]
    computed: Computed
    queue_seconds: Sequence[float]  # one an image
    compute_seconds: float
    number: int  # of all batches that the process computes


class Feed(Protocol):
    """Where images come from and answers go to. Called by the batcher's threads, without a lock."""

    def pull(self, *, wake: bool) -> None:
        """`Batcher.put` what has come; asked before a batch is composed."""

    def idle(self) -> None:
        """A thread has pulled, and there is nothing to compose: it waits until it is told of something by `put`."""

    def gather(self, batch: Sequence[Waiting], staging: NDArray[np.uint8]) -> Sequence[Waiting]:
        """Copy the pixels of a batch into the first rows of `staging`; returns the images in the order of the rows."""

    def give(self, given: Given) -> None:
        """End the images of a batch."""


class OneByOne:
    """The feed where images come one by one."""

    def pull(self, *, wake: bool) -> None:
        """They are in the queue when they come."""

    def idle(self) -> None:
        """Whoever brings one tells a thread."""

    def gather(self, batch: Sequence[Waiting], staging: NDArray[np.uint8]) -> Sequence[Waiting]:
        """Copy image by image."""
        for row, slot in enumerate(batch):
            assert isinstance(slot, Slot)  # noqa: S101 - no others come from `submit`
            np.copyto(staging[row], slot.pixels)
        return batch

    def give(self, given: Given) -> None:
        """End one future after the other."""
        _, computed, queue_seconds, seconds, number = given
        size = len(given.images)
        for found, slot, waited in zip(computed.rows, given.images, queue_seconds, strict=True):
            assert isinstance(slot, Slot)  # noqa: S101 - as above
            if found is None:
                slot.refuse(failed())
            else:
                # Others in the batch may have asked for more.
                own = found if len(found) == len(slot.outputs) else {name: found[name] for name in slot.outputs}
                slot.answer(Answer(own, waited, seconds, size, number))
