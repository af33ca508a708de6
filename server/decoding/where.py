"""Where an image is decoded: an ordinary one in the thread that asks, or in a process; an expensive one in a process.

A thread cannot be stopped. What decoding takes is predicted from a file's header (`models.decoding.cost`): up to
`EXPENSIVE_WORK` it is little, whatever the prediction is wrong by. What is above it, or cannot be told, is decoded in a
process that is ended when it takes too long.
"""

from __future__ import annotations

import structlog

from glimpse.models.decoding.cost import Cost
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem.recipe import Recipe
from glimpse.server import domain
from glimpse.server.decoding import isolated
from glimpse.server.decoding.isolated import Isolated
from glimpse.server.decoding.prepare import Prepared, cost, prepare
from glimpse.server.decoding.process import START_SECONDS

_log = structlog.get_logger(__name__)


class Decoding:
    """`prepare`, where it belongs."""

    def __init__(
        self,
        limits: ImageLimits,
        *,
        in_processes: bool,
        workers: int,
        memory_bytes: int,
        seconds: float,
        expensive_in_processes: bool = True,
    ) -> None:
        """Nothing is started yet.

        Args:
            limits: what one image may cost.
            in_processes: whether ordinary images are decoded in processes as well.
            workers: ordinary images that are decoded side by side.
            memory_bytes: that decoding one image in a process may take.
            seconds: that decoding one image in a process may take.
            expensive_in_processes: whether expensive images are decoded in processes, where the system can.
        """
        self._limits = limits
        # That an ordinary image may take in a decoder thread, the start of a process counted.
        self.seconds = seconds + (START_SECONDS if in_processes else 0.0)
        self.expensive_workers = max(1, workers // 2)
        self._ordinary = self._expensive = None
        if in_processes:
            self._ordinary = Isolated(limits, workers=workers, memory_bytes=memory_bytes, seconds=seconds)
        if in_processes or (expensive_in_processes and isolated.possible()):
            # Each is started when it is first needed: most servers never need them.
            self._expensive = Isolated(
                limits, workers=self.expensive_workers, memory_bytes=memory_bytes, seconds=seconds
            )

    @property
    def restarts(self) -> int:
        """How many processes had to be replaced so far."""
        return sum(pool.restarts for pool in self._pools())

    def start(self) -> None:
        """Start the processes for ordinary images, if they are to be.

        Raises:
            RuntimeError: expected; one cannot be started, and why.
        """
        if self._ordinary is not None:
            self._ordinary.start()
        elif self._expensive is None:
            _log.warning("no decoder processes on this system: expensive images are decoded without a limit on time")

    def cost(self, image: domain.Image, recipe: Recipe) -> Cost:
        """What decoding and resizing an image is going to cost; told in microseconds, and never raises."""
        return cost(image, recipe, self._limits)

    def __call__(self, image: domain.Image, recipe: Recipe, *, expensive: bool = False) -> Prepared:
        """From bytes to the network's input. May be called from any number of threads.

        Args:
            image: what to decode.
            recipe: what to make of it.
            expensive: what `cost` said of it.

        Raises:
            InvalidImageError: expected; the image is not one, is damaged, is refused, is too large, or ended its
                decoder.
            UnavailableError: expected; `close` has been called.
            InternalError: no decoder process can be started; the log says why.
        """
        pool = self._expensive if expensive else self._ordinary
        return prepare(image, recipe, self._limits) if pool is None else pool(image, recipe)

    def close(self) -> None:
        """End the processes. Whoever waits for one, or comes later, is told that the server shuts down."""
        for pool in self._pools():
            pool.close()

    def _pools(self) -> list[Isolated]:
        return [pool for pool in (self._ordinary, self._expensive) if pool is not None]
