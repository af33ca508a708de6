"""Models that sleep while others need their memory, on a simulated device: which of them, when, and how they wake."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from glimpse.models.outputs import PROBABILITIES
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.domain import ModelSelector
from glimpse.server.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    OverloadedError,
    Reason,
)
from glimpse.server.progress import Progress, untold
from glimpse.server.registry import LoadedModel
from glimpse.server.repository import known, sleeping, waking
from glimpse.server.repository.model_sleep import ModelSleep
from glimpse.server.runtime.memory_budget import MemoryBudget
from glimpse.server.startup import ModelLoadError
from tests.server.repositories import add
from tests.server.repository_scene import Scene

LONG = 60.0  # seconds; until something is called hung
MAY_SLEEP = "required = false\n"


class Sleepy(Scene):
    """A repository whose models take what is expected of them, by a clock of the test's."""

    def __init__(self, root: Path, limit: int) -> None:
        super().__init__(root, models_memory_bytes=limit)
        self.now = 0.0
        sleepers = self.repository.sleepers
        sleepers.clock = lambda: self.now
        sleepers.memory.measure = lambda: None
        sleepers.memory.available = lambda: None

    def model(self, name: str) -> LoadedModel:
        return self.registry.resolve(ModelSelector(name))

    def sleep(self, name: str) -> ModelSleep:
        found = self.model(name).sleep
        assert isinstance(found, ModelSleep)
        return found

    async def ask(self, name: str, deadline: float | None = None) -> str:
        """As a request does: have the model awake, and an image computed."""
        model = self.model(name)
        self.now += 1.0
        with model.uses:
            assert model.sleep is not None
            await model.sleep.wake(deadline)
            pixels = np.zeros(model.bundle.recipe.pixels_shape, np.uint8)
            answer = await asyncio.wrap_future(model.batcher.submit(pixels))
            assert answer.outputs[PROBABILITIES].shape == (10,)
            return model.identity.name

    def counted(self, name: str, before: Callable[[], object] = lambda: None) -> list[int]:
        """Count how often a model is loaded again, from now on; `before` is called in the thread that loads."""
        queue, loads = self.sleep(name).queue, list[int]()
        load = queue.load

        def counting(progress: Progress) -> ModelQueue:
            loads.append(1)
            progress("compute batches of 8 images")
            before()
            return load(untold)

        queue.load = counting
        return loads

    async def asleep(self, name: str) -> None:
        """Put a model to sleep as the need for memory does."""
        async with self.repository.sleepers.changing:
            await self.repository.sleepers._put_to_sleep(self.sleep(name))


@asynccontextmanager
async def sleepy(root: Path, fit: float = 0.0) -> AsyncIterator[Sleepy]:
    """`fit`: so many models fit into the memory; 0: all do."""
    made = Sleepy(root, 0)
    size = 10_000_000

    def expected(*_: object, **__: object) -> int:
        return size

    made.repository.sleepers.memory.limit = int(fit * size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glimpse.server.runtime.memory_budget.expected", expected)
        assert await asyncio.wait_for(made.repository.start(made.stop), LONG)
        try:
            yield made
        finally:
            made.stop.set()
            for model in made.registry:
                model.close()


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies there is complete."""
    monkeypatch.setattr(known, "_OLD_SECONDS", 0.0)
    monkeypatch.delenv("GLIMPSE_WEIGHTS", raising=False)
    monkeypatch.setattr(sleeping, "_PATIENCE", 0.0)


def run(do: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(do(), 5 * LONG))


def models(root: Path, **files: str) -> Path:
    """A repository of models with these `model.toml`, in alphabetical order."""
    for name, text in files.items():
        folder = add(root, 1, name)
        (folder.parent / "model.toml").write_text(text)
    return root


async def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


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


def test_twenty_callers_wake_a_model_once(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            loads = made.counted("a")
            assert await asyncio.gather(*(made.ask("a") for _ in range(20))) == ["a"] * 20
            assert loads == [1]

    run(do)


def test_a_model_that_cannot_be_woken_is_told_with_the_reason(tmp_path: Path) -> None:
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
                with pytest.raises(FailedPreconditionError, match=r"could not be loaded again: .* its disk is gone"):
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
            with pytest.raises(FailedPreconditionError, match=r"at one step for 0\.2 s: compute batches of 8 images"):
                await hangs
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


def test_whoever_loads_a_model_that_sleeps_wakes_it(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with sleepy(tmp_path) as made:
            await made.asleep("a")
            await made.repository.load("a")
            assert made.states() == {"a/1": "ready"}

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
