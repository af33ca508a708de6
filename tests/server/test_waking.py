"""How models that sleep wake: for callers who wait, who leave, and who come while they are unloaded or replaced."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    OverloadedError,
    Reason,
)
from glimpse.server.processes.startup import ModelLoadError
from glimpse.server.progress import Progress, untold
from glimpse.server.repository import waking
from tests.server.sleeping_scene import LONG, MAY_SLEEP, models, run, sleepy, until

pytestmark = pytest.mark.usefixtures("settled")


def test_twenty_callers_wake_a_model_once(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            loads = made.counted("a")
            assert await asyncio.gather(*(made.ask("a") for _ in range(20))) == ["a"] * 20
            assert loads == [1]

    run(do)


def test_why_a_model_cannot_be_woken_is_told_to_its_managers_alone(tmp_path: Path) -> None:
    """It may name paths of the server."""
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            broken = True

            def load() -> None:
                if broken:
                    raise ModelLoadError("Cannot load the model: its disk is gone")

            loads = made.counted("a", load)
            for _ in range(2):  # the second is told without another attempt
                with pytest.raises(FailedPreconditionError, match=r"could not be loaded again\. The server's log and"):
                    await made.ask("a")
            assert loads == [1]
            assert "its disk is gone" in made.reason("1", "a")
            assert made.states()["a/1"] == "sleeping"
            assert made.repository.names() == {"a": False, "b": True}
            assert await made.ask("b") == "b"
            broken = False
            made.now += 5.0
            assert await made.ask("a") == "a"
            assert made.repository.names() == {"a": True, "b": True}
            assert not made.reason("1", "a")

    run(do)


def test_waking_that_hangs_is_given_up_and_holds_up_no_other_model(tmp_path: Path) -> None:
    """Should it end after all, what it has loaded is closed."""
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            made.repository.sleepers._step_seconds = 0.2
            await made.asleep("a")
            await made.asleep("b")
            queue, go_on, ended = made.sleep("a").queue, threading.Event(), list[ModelQueue]()
            load = queue.load

            def hanging(progress: Progress) -> ModelQueue:
                progress("compute batches of 8 images")
                assert go_on.wait(LONG)
                ended.append(found := load(untold))
                return found

            queue.load = hanging
            hangs, other = asyncio.create_task(made.ask("a")), asyncio.create_task(made.ask("b"))
            with pytest.raises(FailedPreconditionError, match=r"could not be loaded again\."):
                await hangs
            assert "at one step for 0.2 s: compute batches of 8 images" in made.reason("1", "a")
            assert await other == "b"
            assert made.states() == {"a/1": "sleeping", "b/1": "ready"}
            go_on.set()
            await until(lambda: ended and ended[0].close(0.0))
            assert made.states()["a/1"] == "sleeping"
            queue.load = load
            made.now += 5.0
            assert await made.ask("a") == "a"

    run(do)


def test_a_caller_without_the_time_leaves_and_the_model_wakes(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            go_on = threading.Event()
            loads = made.counted("a", lambda: go_on.wait(LONG))
            patient = asyncio.create_task(made.ask("a"))
            await until(lambda: loads)
            with pytest.raises(DeadlineExceededError, match="was loaded again"):
                await made.ask("a", time.monotonic() + 0.01)
            cancelled = asyncio.create_task(made.ask("a"))
            await asyncio.sleep(0)
            cancelled.cancel()
            go_on.set()
            assert await patient == "a"
            assert loads == [1]

    run(do)


def test_no_more_callers_wait_for_a_model_than_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models(tmp_path, a=MAY_SLEEP)
    monkeypatch.setattr(waking, "_MOST_WAITING", 2)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            go_on = threading.Event()
            made.counted("a", lambda: go_on.wait(LONG))
            waits = [asyncio.create_task(made.ask("a")) for _ in range(2)]
            await until(lambda: made.sleep("a").waiting == 2)
            with pytest.raises(OverloadedError) as refused:
                await made.ask("a")
            assert refused.value.reason is Reason.QUEUE_FULL
            go_on.set()
            assert await asyncio.gather(*waits) == ["a", "a"]

    run(do)


def test_a_model_that_is_unloaded_while_it_wakes_is_let_go(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            queue, go_on = made.sleep("a").queue, threading.Event()
            loads = made.counted("a", lambda: go_on.wait(LONG))
            asked = asyncio.create_task(made.ask("a"))
            await until(lambda: loads)
            asked.cancel()  # nobody waits for it any more
            await made.repository.unload("a")
            await until(lambda: made.closed)
            go_on.set()
            await until(lambda: not made.repository.sleepers.changing.locked())
            assert queue._queue is None
            assert made.states() == {"a/1": "unloaded", "b/1": "ready"}
            assert await made.ask("b") == "b"

    run(do)


def test_who_waits_for_a_model_that_is_unloaded_gets_an_answer(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            go_on = threading.Event()
            loads = made.counted("a", lambda: go_on.wait(LONG))
            asked = asyncio.create_task(made.ask("a"))
            await until(lambda: loads)
            await made.repository.unload("a")
            assert made.states()["a/1"] == "retiring"
            go_on.set()
            assert await asked == "a"
            await until(lambda: made.closed)

    run(do)


def test_whoever_loads_a_model_that_sleeps_wakes_it(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            await made.repository.load("a")
            assert made.states() == {"a/1": "ready"}

    run(do)
