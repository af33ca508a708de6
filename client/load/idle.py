"""An event loop that knows how long it has waited, so that a generator can tell when it was its own limit."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """The system's selector, which adds up the time that is spent waiting in it."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = 0.0  # seconds

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, and count it."""
        if timeout is not None and timeout <= 0:  # it only looks: the loop has something to do
            return super().select(timeout)
        begun = time.perf_counter()
        try:
            return super().select(timeout)
        finally:
            self.idle += time.perf_counter() - begun


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)


def seconds(loop: asyncio.AbstractEventLoop) -> float | None:
    """How long an event loop has waited so far; None where it does not count that."""
    return loop.selector.idle if isinstance(loop, _Loop) else None


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in a loop that counts how long it waits."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
