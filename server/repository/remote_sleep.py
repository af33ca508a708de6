"""A worker's part of a model that may sleep: the engine decides, and the worker does without the model meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from glimpse.server.errors import ServiceError
from glimpse.server.loaded_model import Uses
from glimpse.server.repository.waking import Waking

# Seconds that new requests wait while those end that use the model: else a model whose callers come one after the other
# would never be without one, and those who wait for another model would wait for ever.
_PATIENCE = 0.25


class RemoteSleep(Waking):
    """Of one model; a `Sleep`. A request for a model that is awake asks nobody."""

    def __init__(self, uses: Uses, ask: Callable[[], Coroutine[None, None, None]], *, asleep: bool) -> None:
        """Follow what the engine tells.

        Args:
            uses: of the model, by requests of this worker.
            ask: has the engine wake it, and waits until it has told all workers so; raises why it cannot.
            asleep: as the engine has told.
        """
        super().__init__()
        self.asleep = asleep  # changed by what the engine tells alone, in the order in which it tells it
        self.trouble = ""
        self._uses, self._ask = uses, ask

    async def rest(self) -> bool:
        """The engine would put it to sleep: whether this worker can do without it, and does so from now on.

        If not, the engine tells all workers that it is awake.
        """
        self.asleep = True
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._uses.number > self.waiting:  # by a request that does not wait for it
                    await self._uses.changed()
        except TimeoutError:
            return False
        return True

    def awake(self) -> None:
        """The engine has told that it answers."""
        self.asleep = False

    async def wake(self, deadline: float | None) -> None:
        """Have it awake, see `Sleep.wake`."""
        while self.asleep:
            self._uses.stir()  # one more waits, as soon as this has been said
            await self.wait(self._wake, deadline)

    async def _wake(self) -> None:
        try:
            await self._ask()
        except ServiceError as error:
            self.trouble = error.message
            raise
        self.trouble = ""
