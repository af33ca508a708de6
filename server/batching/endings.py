"""How the wait for an answer ends where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from glimpse.server.batching.waiting import Waiting
from glimpse.server.errors import (
    DeadlineExceededError,
    InternalError,
    OverloadedError,
    Reason,
    ServiceError,
    UnavailableError,
)

_AGAIN_SECONDS = 1.0  # after which there may be room for another thread


def fail(slots: Iterable[Waiting], error: Callable[[], ServiceError]) -> None:
    """End each of them with an error of its own: a raised one keeps the frames that it passed through."""
    for slot in slots:
        slot.refuse(error())


def failed() -> InternalError:
    """What the callers of a batch are told that failed."""
    return InternalError("The model failed on this batch. The server's log has the details.")


def stuck(trouble: str) -> UnavailableError:
    """What whoever waits for a device that hangs is told."""
    return UnavailableError(
        Reason.RUNTIME_STUCK, f"The server's device does not respond. {trouble} Use another server."
    )


def no_thread() -> OverloadedError:
    """What is told to whom nobody can compute for: the threads had ended, and the process may have no further one."""
    return OverloadedError(
        Reason.QUEUE_FULL,
        "The server cannot begin a thread to compute in, because it has as many as it may have. Try again later.",
        retry_after=_AGAIN_SECONDS,
    )


def too_late(waited: float, expected: float) -> DeadlineExceededError:
    """What is told to whom a batch could not answer by their deadline; both in seconds."""
    return DeadlineExceededError(
        f"The answer could not be ready by the deadline: {waited:.3f} s in the queue, "
        f"{expected:.3f} s expected for the batch. Allow more time or send less at once."
    )
