"""How models that sleep in an engine wake for the callers of several workers, on a simulated device in one process."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

from glimpse.server.errors import DeadlineExceededError, FailedPreconditionError, OverloadedError, Reason
from glimpse.server.processes.startup import ModelLoadError
from glimpse.server.repository import waking
from tests.server.sleeping_scene import MAY_SLEEP, models, until
from tests.server.sleeping_workers_scene import LONG, Worker, both, run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only"),
    pytest.mark.usefixtures("settled"),
]


def test_callers_at_both_workers_wake_a_model_once(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            assert await made.put_to_sleep()
            await made.all_say("sleeping")
            loads = made.counted()
            asked = [each.ask() for each in made.workers for _ in range(10)]
            assert await asyncio.gather(*asked) == ["a/1"] * 20
            assert loads == [1]
            assert made.wake_ups("woken") == 1
            await made.all_say("ready")

    run(do)


def test_a_wake_up_that_fails_is_told_at_both_workers(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            assert await made.put_to_sleep()
            broken = True

            def load() -> None:
                if broken:
                    raise ModelLoadError("Cannot load the model: its disk is gone")

            loads = made.counted(load)
            for each in made.workers:  # the second is told without another attempt
                with pytest.raises(FailedPreconditionError, match=r"could not be loaded again\. The server's log and"):
                    await each.ask()
            assert loads == [1]
            assert made.wake_ups("failed") == 1
            await until(lambda: all(each.repository.names() == {"a": False, "b": True} for each in made.workers))
            await made.all_say("sleeping")
            for each in made.workers:
                assert await each.ask("b") == "b/1"
            broken, made.sleep().again = False, 0.0
            for each in made.workers:
                assert await each.ask() == "a/1"
            await until(lambda: all(each.repository.names() == {"a": True, "b": True} for each in made.workers))

    run(do)


def test_a_worker_is_told_when_there_is_no_memory_and_when_to_retry(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path, fit=1) as made:
            first, second = made.workers
            with first.model("b").uses:
                with pytest.raises(OverloadedError, match=r"others are needed, or in use\. Try again later") as refused:
                    await second.ask("a")
                assert refused.value.reason is Reason.MEMORY_FULL
                assert refused.value.retry_after
            assert made.wake_ups("refused") == 1
            assert await second.ask("a") == "a/1"

    run(do)


def test_each_caller_of_a_worker_has_a_deadline_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models(tmp_path, a=MAY_SLEEP)
    monkeypatch.setattr(waking, "_MOST_WAITING", 2)

    async def do() -> None:
        async with both(tmp_path) as made:
            assert await made.put_to_sleep()
            go_on = threading.Event()
            loads = made.counted(lambda: go_on.wait(LONG))
            worker = made.workers[0]
            patient = asyncio.create_task(worker.ask())
            await until(lambda: loads)
            with pytest.raises(DeadlineExceededError, match="was loaded again"):
                await worker.ask(deadline=time.monotonic() + 0.01)
            another = asyncio.create_task(worker.ask())
            await until(lambda: worker.sleep().waiting == 2)
            with pytest.raises(OverloadedError) as refused:
                await worker.ask()
            assert refused.value.reason is Reason.QUEUE_FULL
            go_on.set()
            assert [await patient, await another] == ["a/1", "a/1"]
            assert loads == [1]

    run(do)


def test_who_waits_for_a_model_that_is_unloaded_gets_an_answer(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            assert await made.put_to_sleep()
            go_on = threading.Event()
            loads = made.counted(lambda: go_on.wait(LONG))
            first, second = made.workers
            asked = asyncio.create_task(first.ask())
            await until(lambda: loads)
            await second.repository.unload("a")
            go_on.set()
            assert await asked == "a/1"
            await made.all_say("unloaded")

    run(do)


def test_a_worker_that_comes_while_a_model_sleeps_wakes_it(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            assert await made.put_to_sleep()
            third = Worker(made.engine, 3)
            made.workers.append(third)
            assert await asyncio.wait_for(third.repository.start(asyncio.Event()), LONG)
            assert third.sleep().asleep
            assert await third.ask() == "a/1"
            await made.all_say("ready")
            assert [await each.ask() for each in made.workers] == ["a/1"] * 3

    run(do)


def test_a_worker_that_loses_the_engine_asks_it_anew_when_it_is_back(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            assert await made.put_to_sleep()
            worker = made.workers[0]
            before = worker.model()
            worker.join()  # as the supervisor has it do
            await until(lambda: worker.model() is not before)
            assert worker.sleep().asleep
            assert await worker.ask() == "a/1"

    run(do)
