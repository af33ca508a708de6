"""One model that may be put to sleep: whether it sleeps, why it could not be woken, and who asked for it last."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

from glimpse.server.batching.sleep_queue import SleepQueue
from glimpse.server.errors import FailedPreconditionError, Reason
from glimpse.server.repository.model_file import ModelFile
from glimpse.server.repository.waking import Waking


class ModelSleep(Waking):
    """Of one model; a `Sleep`."""

    def __init__(
        self,
        queue: SleepQueue,
        takes: int,
        file: Callable[[], ModelFile],
        *,
        clock: Callable[[], float],
        wake: Callable[[ModelSleep], Coroutine[None, None, None]],
    ) -> None:
        """Awake.

        Args:
            queue: of the model.
            takes: bytes that it is expected to take.
            file: says whether it may sleep, and when it is to.
            clock: seconds, monotonic.
            wake: loads it again; raises why that cannot be done.
        """
        super().__init__()
        self.asleep = False
        self.trouble = ""
        self.refusal = ""  # what callers are told of it
        self.takes = takes  # bytes while it is awake
        self.expected = takes  # of them before anything was measured
        self.used = clock()  # when somebody asked for it last
        self.queue, self.file = queue, file
        self.again = 0.0  # when it is tried again, where there is trouble
        self._clock, self._wake = clock, wake

    async def wake(self, deadline: float | None) -> None:
        """Have it awake, see `Sleep.wake`."""
        self.used = self._clock()
        if not self.asleep:
            return
        if self.trouble and self.used < self.again:
            raise FailedPreconditionError(Reason.MODEL_NOT_LOADED, self.refusal)
        await self.wait(lambda: self._wake(self), deadline)
