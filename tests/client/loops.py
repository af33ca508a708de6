"""Tests that are coroutines: each on an event loop of its own, on which nothing may be left behind."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


def ours() -> set[str]:
    """The names of the client's own tasks that go on."""
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("glimpse-")}


def on_a_loop(scenario: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test of it, which also fails where a task outlives the scenario."""

    @functools.wraps(scenario)
    def test(*arguments: P.args, **fixtures: P.kwargs) -> None:
        async def alone() -> None:
            await scenario(*arguments, **fixtures)
            assert not ours(), "a task was left behind"
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            if rest:  # gRPC's own, of calls that were cancelled
                _, left = await asyncio.wait(rest, timeout=30)
                assert not left, "a task goes on"

        asyncio.run(alone())

    return test
