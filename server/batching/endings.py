"""How the wait for an answer ends: the one place where futures of images are done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError

from glimpse.server.batching.batch_queue import Answer, Slot
from glimpse.server.errors import DeadlineExceededError, InternalError, Reason, ServiceError, UnavailableError


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


def fail(slots: Iterable[Slot], error: Callable[[], ServiceError]) -> None:
    """End each of them with an error of its own: a raised one keeps the frames that it passed through."""
    for slot in slots:
        finish(slot.future, error=error())


def failed() -> InternalError:
    """What the callers of a batch are told that failed."""
    return InternalError("The model failed on this batch. The server's log has the details.")


def stuck(trouble: str) -> UnavailableError:
    """What whoever waits for a device that hangs is told."""
    return UnavailableError(
        Reason.RUNTIME_STUCK, f"The server's device does not respond. {trouble} Use another server."
    )


def too_late(waited: float, expected: float) -> DeadlineExceededError:
    """What is told to whom a batch could not answer by their deadline; both in seconds."""
    return DeadlineExceededError(
        f"The answer could not be ready by the deadline: {waited:.3f} s in the queue, "
        f"{expected:.3f} s expected for the batch. Allow more time or send less at once."
    )
