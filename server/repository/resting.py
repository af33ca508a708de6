"""The question of an engine to its workers whether all of them can do without a model that is to be put to sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class Resting:
    """One question, which is answered when one worker cannot, or all can. Lives on the event loop."""

    def __init__(self, number: int, asked: Iterable[object]) -> None:
        """Ask these workers; `number` is that of the question."""
        self.number = number
        self._left = set(asked)
        self._answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._end_if_all()

    def said(self, worker: object, *, rests: bool) -> None:
        """A worker has answered, or has gone: then no request of it uses the model."""
        self._left.discard(worker)
        if not rests and not self._answer.done():
            self._answer.set_result(False)
        self._end_if_all()

    async def answered(self, seconds: float) -> bool:
        """Whether all can do without the model; not so where a worker does not answer in so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                return await self._answer
        except TimeoutError:
            return False

    def _end_if_all(self) -> None:
        if not self._left and not self._answer.done():
            self._answer.set_result(True)
