"""What stands for the queue of a model that sleeps, in the host that serves it to workers."""

from __future__ import annotations

from collections.abc import Sequence

from glimpse.server.batching.sleep_queue import asleep
from glimpse.server.batching.streams import Streams
from glimpse.server.batching.waiting import Waiting


class RestingQueue:
    """Empty, and refuses what comes: only what nobody waits for any more comes to a model that sleeps."""

    busy = False
    streams = Streams()

    def feed_from(self, feed: object) -> None:
        """There is nothing to feed."""

    def put(self, images: Sequence[Waiting], *, wake: bool = True) -> None:  # noqa: ARG002 - as `Batcher.put`
        """Refuse images, one by one."""
        for image in images:
            image.refuse(asleep())

    def parties(self) -> int:
        """Nobody's images wait."""
        return 0

    def depth(self) -> int:
        """No image waits."""
        return 0

    def ready(self) -> int:
        """Nor would one be computed."""
        return 0

    def seconds_to_compute(self, images: int) -> float:  # noqa: ARG002 - as `Batcher.seconds_to_compute`
        """Nothing is known."""
        return 0.0
