"""Models that sleep while others need their memory, on a simulated device: which of them, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from glimpse.server.errors import (
    FailedPreconditionError,
    OverloadedError,
    Reason,
)
from glimpse.server.repository import sleeping
from glimpse.server.runtime.memory_budget import MemoryBudget
from tests.server.repositories import add
from tests.server.sleeping_scene import LONG, MAY_SLEEP, models, run, sleepy, until

pytestmark = pytest.mark.usefixtures("settled")


def test_of_three_models_with_memory_for_two_the_least_recent_sleeps(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP, c=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path, fit=2) as made:
            assert made.states() == {"a/1": "sleeping", "b/1": "ready", "c/1": "ready"}
            assert made.repository.ready
            assert made.repository.names() == {"a": True, "b": True, "c": True}  # a request would wake it
            assert len(made.model("a").bundle.labels) == 10
            for name in ("a", "b", "c", "c", "b", "a"):
                assert await made.ask(name) == name
                awake = [model.identity.name for model, _ in made.repository.sleepers.taken()]
                assert len(awake) == 2
                assert name in awake
            assert made.states() == {"a/1": "ready", "b/1": "ready", "c/1": "sleeping"}

    run(do)


def test_what_is_required_resident_or_in_use_stays_awake(tmp_path: Path) -> None:
    models(tmp_path, a="", b=f"{MAY_SLEEP}resident = true\n", c=MAY_SLEEP, d=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path, fit=3) as made:
            assert made.states() == {"a/1": "ready", "b/1": "ready", "c/1": "sleeping", "d/1": "ready"}
            with made.model("d").uses:
                with pytest.raises(OverloadedError, match=r"others are needed, or in use\. Try again later") as refused:
                    await made.ask("c")
                assert refused.value.reason is Reason.MEMORY_FULL
                assert refused.value.retry_after
                assert made.states()["c/1"] == "sleeping"
            assert await made.ask("c") == "c"
            assert made.states()["d/1"] == "sleeping"

    run(do)


def test_none_is_put_to_sleep_where_that_does_not_suffice(tmp_path: Path) -> None:
    models(tmp_path, a="", b=MAY_SLEEP, c=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path, fit=2) as made:
            assert made.states() == {"a/1": "ready", "b/1": "sleeping", "c/1": "ready"}
            made.sleep("b").takes = 10_000_001
            with pytest.raises(OverloadedError, match="takes about 10 MiB of memory, but 0 MiB of the 19 MiB"):
                await made.ask("b")
            assert made.states() == {"a/1": "ready", "b/1": "sleeping", "c/1": "ready"}

    run(do)


def test_a_model_wakes_as_soon_as_another_one_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)
    monkeypatch.setattr(sleeping, "_PATIENCE", LONG)

    async def do() -> None:
        async with sleepy(tmp_path, fit=1) as made:
            with made.model("b").uses:
                asked = asyncio.create_task(made.ask("a"))
                await until(made.repository.sleepers.changing.locked)
                assert made.states() == {"a/1": "sleeping", "b/1": "ready"}
            assert await asked == "a"
            assert made.states() == {"a/1": "ready", "b/1": "sleeping"}

    run(do)


def test_a_model_for_which_none_can_sleep_is_not_loaded(tmp_path: Path) -> None:
    models(tmp_path, a="", b="", c=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path, fit=2) as made:
            assert made.states() == {"a/1": "ready", "b/1": "ready", "c/1": "failed"}
            assert "0 MiB of the 19 MiB for models are free" in made.reason("1", "c")
            with pytest.raises(FailedPreconditionError, match="GLIMPSE_MODELS_MEMORY_BYTES"):
                await made.repository.load("c")
            await made.repository.unload("b")
            assert (await made.repository.load("c")).name == "c"

    run(do)


def test_without_a_limit_models_sleep_where_the_machine_has_no_more(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            free = 9_000_000

            def available() -> MemoryBudget:
                awake = len(list(made.repository.sleepers.taken()))
                return MemoryBudget(free + (1 - awake) * 10_000_000, "the free memory of the machine")

            made.repository.sleepers.memory.available = available
            assert await made.ask("a") == "a"
            assert made.states() == {"a/1": "ready", "b/1": "sleeping"}

    run(do)


def test_a_model_sleeps_after_the_time_that_it_says(tmp_path: Path) -> None:
    models(tmp_path, a=f"{MAY_SLEEP}sleep_after = 60\n", b=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            made.now = 59.0
            await made.repository.sleepers.look()
            assert made.states() == {"a/1": "ready", "b/1": "ready"}
            with made.model("a").uses:
                made.now = 100.0
                await made.repository.sleepers.look()
                assert made.states() == {"a/1": "ready", "b/1": "ready"}
            made.now = 159.0
            await made.repository.sleepers.look()
            assert made.states() == {"a/1": "ready", "b/1": "ready"}
            made.now = 160.0
            await made.repository.sleepers.look()
            assert made.states() == {"a/1": "sleeping", "b/1": "ready"}

    run(do)


def test_a_new_version_takes_the_place_of_one_that_sleeps(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            loads = made.counted("a")
            add(tmp_path, 2, "a")
            await made.look()
            assert made.states() == {"a/1": "unloaded", "a/2": "ready"}
            assert await made.ask("a") == "a"
            assert loads == []
            assert len(made.repository.sleepers.models) == 1

    run(do)


def test_a_model_that_takes_more_than_expected_has_others_sleep(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP, c=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path, fit=3) as made:
            await made.repository.unload("c")
            await until(lambda: made.closed)
            sizes = iter([100_000_000, 117_000_000])  # before and after
            made.repository.sleepers.memory.measure = lambda: next(sizes, None)
            await made.repository.load("c")
            assert made.sleep("c").takes == 17_000_000
            assert made.states() == {"a/1": "sleeping", "b/1": "ready", "c/1": "ready"}

    run(do)


@pytest.mark.parametrize("text", ["sleep_after = 60\n", f"{MAY_SLEEP}resident = true\nsleep_after = 60\n"])
def test_sleep_after_of_a_model_that_never_sleeps_is_refused(tmp_path: Path, text: str) -> None:
    models(tmp_path, a=text, b="")

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            assert made.states() == {"a/1": "failed", "b/1": "ready"}
            assert "sleep_after needs required = false" in made.reason("1", "a")

    run(do)
