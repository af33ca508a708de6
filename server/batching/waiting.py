"""An image that waits for the device, and its answer."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, InvalidStateError
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS, Outputs
from glimpse.server.errors import ServiceError
from glimpse.server.fair_queue import Lane


class Answer(NamedTuple):
    """One image's share of a batch."""

    outputs: Outputs  # that its slot asked for, by name
    queue_seconds: float
    compute_seconds: float  # of the whole batch
    batch_size: int  # images in the batch, padding not counted
    batch: int = 0  # its number, of all that the process computes


class Waiting:
    """One image that waits for the device, whoever is to get its answer and however they do."""

    __slots__ = ("deadline", "enqueued", "lane", "outputs")

    lane: Lane
    deadline: float | None  # None: whenever
    enqueued: float
    outputs: frozenset[str]  # of the network, by name

    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        raise NotImplementedError

    def begin(self) -> bool:
        """It is going to be computed and can no longer be cancelled; False: it has been."""
        raise NotImplementedError

    def refuse(self, error: ServiceError) -> None:
        """Tell of an error; does nothing where it has ended already."""
        raise NotImplementedError


class Slot(Waiting):
    """One image whose pixels are in memory of this process, and whose answer ends a future."""

    __slots__ = ("future", "pixels")

    def __init__(  # noqa: PLR0917 - made in one place, for each image
        self,
        pixels: NDArray[np.uint8],
        lane: Lane,
        deadline: float | None,
        enqueued: float,
        future: Future[Answer],
        outputs: frozenset[str] = DEFAULT_OUTPUTS,
    ) -> None:
        """Pixels are ``[H, W, C]``."""
        self.pixels, self.lane, self.deadline, self.enqueued = pixels, lane, deadline, enqueued
        self.future, self.outputs = future, outputs

    def cancelled(self) -> bool:
        """Whether its future was cancelled."""
        return self.future.cancelled()

    def begin(self) -> bool:
        """Have its future be one that runs."""
        return self.future.set_running_or_notify_cancel()

    def answer(self, answer: Answer) -> None:
        """End its future with the answer; does nothing where it has ended already."""
        finish(self.future, answer=answer)

    def refuse(self, error: ServiceError) -> None:
        """End its future with an error, likewise."""
        finish(self.future, error=error)


def finish(future: Future[Answer], *, answer: Answer | None = None, error: ServiceError | None = None) -> None:
    """End a future.

    Does nothing where it has ended already, so that nobody's cancellation can hang a neighbour.
    """
    if future.done() or (not future.running() and not future.set_running_or_notify_cancel()):
        return
    # A batch that comes back just as it is given up may end it at the same time.
    with contextlib.suppress(InvalidStateError):
        if answer is not None:
            future.set_result(answer)
        else:
            future.set_exception(error)
