"""Models that sleep in an engine, and the workers that answer with them, on a simulated device in one process."""

from __future__ import annotations

import asyncio
import socket
import sys
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
from glimpse.server.engine.host import Host
from glimpse.server.errors import DeadlineExceededError, FailedPreconditionError, OverloadedError, Reason
from glimpse.server.metrics import Metrics
from glimpse.server.progress import Progress
from glimpse.server.registry import LoadedModel, ModelRegistry
from glimpse.server.repository import known, served_workers, sleeping, waking
from glimpse.server.repository.model_sleep import ModelSleep
from glimpse.server.repository.remote import RemoteRepository
from glimpse.server.repository.remote_sleep import RemoteSleep
from glimpse.server.repository.rollout import Rollouts
from glimpse.server.repository.served import ServedModels
from glimpse.server.settings import Settings
from glimpse.server.startup import ModelLoadError
from tests.server.repositories import add
from tests.server.test_sleeping import MAY_SLEEP, models, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only")
LONG = 60.0  # seconds; until something is called hung
SIZE = 10_000_000  # bytes that each model is expected to take


async def nothing(*_: object) -> None:
    pass


class Worker:
    """What a worker has of the models; `engine` is joined at once."""

    def __init__(self, engine: ServedModels, number: int) -> None:
        self.registry = ModelRegistry()
        self.repository = RemoteRepository(
            self.registry,
            slots=16,
            changed=nothing,
            loaded=lambda _: None,
            closed=nothing,
            rejoin=lambda: None,
            rollouts=Rollouts(Metrics().rollouts),
        )
        self._engine, self._number = engine, number
        self.join()

    def join(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._engine.join(self._number, ours)
        self.repository.connect(theirs)

    def model(self, name: str = "a") -> LoadedModel:
        return self.registry.resolve(ModelSelector(name))

    def sleep(self, name: str = "a") -> RemoteSleep:
        found = self.model(name).sleep
        assert isinstance(found, RemoteSleep)
        return found

    async def ask(self, name: str = "a", deadline: float | None = None) -> str:
        """As a request does: have the model awake, and an image computed."""
        model = self.model(name)
        with model.uses:
            await self.sleep(name).wake(deadline)
            pixels = np.zeros(model.bundle.recipe.pixels_shape, np.uint8)
            answer = await asyncio.wrap_future(model.batcher.submit(pixels))
            assert answer.outputs[PROBABILITIES].shape == (10,)
            return f"{model.identity.name}/{model.identity.version}"


class Both:
    """An engine, and two workers."""

    def __init__(self, root: Path) -> None:
        self.metrics = Metrics()
        plain = Settings(runtime="simulated", log_level="error")  # type: ignore[call-arg]
        chosen = Settings.model_construct(**{**dict(plain), "models": root, "models_poll": 0.0})
        self.engine = ServedModels(root, chosen, self.metrics, lambda _: None)
        self.sleepers = self.engine.repository.sleepers
        self.sleepers.memory.measure = lambda: None
        self.sleepers.memory.available = lambda: None
        self.workers = [Worker(self.engine, number) for number in (1, 2)]

    def allow(self, fit: int) -> None:
        """Let so many models be awake at once."""
        self.sleepers.memory.limit = fit * SIZE

    def states(self) -> list[dict[str, str]]:
        """As the engine and each worker list them."""
        registries = [self.engine._registry, *(each.registry for each in self.workers)]
        return [{f"{each.name}/{each.version}": each.state.value for each in every.models()} for every in registries]

    async def all_say(self, state: str, version: str = "a/1") -> None:
        await until(lambda: all(each.get(version) == state for each in self.states()))

    def sleep(self, name: str = "a") -> ModelSleep:
        found = self.engine._registry.resolve(ModelSelector(name)).sleep
        assert isinstance(found, ModelSleep)
        return found

    def served(self, name: str = "a") -> Host:
        """What serves a model to the workers."""
        return self.engine._served[id(self.engine._registry.resolve(ModelSelector(name)))].host

    def aged(self, seconds: float, name: str = "a") -> None:
        """Have everything that was asked of a model be so much longer ago."""
        self.sleep(name).used -= seconds
        self.served(name)._used -= seconds

    async def put_to_sleep(self, name: str = "a") -> bool:
        async with self.sleepers.changing:
            return await self.sleepers._put_to_sleep(self.sleep(name))

    def counted(self, before: Callable[[], object] = lambda: None, name: str = "a") -> list[int]:
        """Count how often a model is loaded again, from now on; `before` is called in the thread that loads."""
        queue, loads = self.sleep(name).queue, list[int]()
        load = queue.load

        def counting(progress: Progress) -> ModelQueue:
            loads.append(1)
            before()
            return load(progress)

        queue.load = counting
        return loads

    def wake_ups(self, outcome: str, name: str = "a") -> float:
        labels = {"model": name, "outcome": outcome}
        return self.metrics.registry.get_sample_value("glimpse_model_wake_ups_total", labels) or 0.0


@asynccontextmanager
async def both(root: Path, fit: int = 0) -> AsyncIterator[Both]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glimpse.server.runtime.memory_budget.expected", lambda *_, **__: SIZE)
        made = Both(root)
        made.allow(fit)
        running = asyncio.create_task(made.engine.run())
        stop = asyncio.Event()
        for worker in made.workers:
            assert await asyncio.wait_for(worker.repository.start(stop), LONG)
        try:
            yield made
        finally:
            made.engine.stop()
            await asyncio.wait_for(running, LONG)
            for model in [*made.engine._registry, *(model for each in made.workers for model in each.registry)]:
                model.close()


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies there is complete."""
    monkeypatch.setattr(known, "_OLD_SECONDS", 0.0)
    monkeypatch.delenv("GLIMPSE_WEIGHTS", raising=False)
    monkeypatch.setattr(sleeping, "_PATIENCE", 0.0)


def run(do: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(do(), 5 * LONG))


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


def test_a_request_for_a_model_that_is_awake_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            assert await made.put_to_sleep()
            first, second = made.workers
            assert await first.ask() == "a/1"
            await until(lambda: not second.sleep().asleep)
            monkeypatch.setattr(made.engine, "_wake", lambda *_: pytest.fail("the engine was asked"))
            assert await first.ask() == await second.ask() == "a/1"

    run(do)


def test_a_model_that_any_worker_uses_stays_awake(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            for user, other in (made.workers, reversed(made.workers)):
                with user.model().uses:
                    assert not await made.put_to_sleep()
                    assert await other.ask() == await user.ask() == "a/1"
                    assert [each["a/1"] for each in made.states()] == ["ready"] * 3
            assert made.wake_ups("woken") == 0
            assert await made.put_to_sleep()

    run(do)


def test_a_request_that_crosses_the_question_is_answered(tmp_path: Path) -> None:
    """One worker can do without the model, and is asked for it before the other one has said that it cannot."""
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            first, second = made.workers
            for in_use in (False, True):
                if in_use:
                    second.model().uses.__enter__()
                falling = asyncio.create_task(made.put_to_sleep())
                while not first.sleep().asleep:  # looks more often than messages come
                    assert not falling.done()
                    await asyncio.sleep(0)
                assert await first.ask() == "a/1"
                assert await falling is not in_use
            second.model().uses.__exit__()
            assert made.wake_ups("woken") == 1

    run(do)


def test_of_two_models_with_memory_for_one_each_wakes_in_its_turn(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path, fit=1) as made:
            assert [each["a/1"] for each in made.states()] == ["sleeping"] * 3
            for worker in made.workers * 2:
                for name in ("a", "b"):
                    assert await worker.ask(name) == f"{name}/1"
                    awake = [model.identity.name for model, _ in made.sleepers.taken()]
                    assert awake == [name]
                    await until(lambda: not any(each.model("b").uses for each in made.workers))

    run(do)


def test_the_model_that_workers_have_used_least_recently_sleeps(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP, c=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path, fit=3) as made:
            first, second = made.workers
            for worker, name in ((first, "b"), (second, "c"), (first, "a"), (second, "b")):
                await worker.ask(name)
            made.allow(2)
            await made.sleepers.fit(made.sleep("b"))
            assert made.states()[0] == {"a/1": "ready", "b/1": "ready", "c/1": "sleeping"}

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
                with pytest.raises(FailedPreconditionError, match=r"could not be loaded again: .* its disk is gone"):
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


def test_a_new_version_takes_the_place_of_one_that_sleeps(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            assert await made.put_to_sleep()
            loads = made.counted()
            add(tmp_path, 2, "a")
            await made.engine.repository._looking.now()
            for each in made.workers:
                assert await each.ask() == "a/2"
            await made.all_say("unloaded", "a/1")
            assert loads == []

    run(do)


def test_a_model_is_unloaded_and_loaded_by_workers_while_it_sleeps(tmp_path: Path) -> None:
    models(tmp_path, a=MAY_SLEEP, b=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            first, second = made.workers
            assert await made.put_to_sleep()
            await second.repository.load("a")
            assert await first.ask() == "a/1"
            await until(lambda: made.states() == [{"a/1": "ready", "b/1": "ready"}] * 3)
            assert await made.put_to_sleep()
            await first.repository.unload("a")
            await made.all_say("unloaded")
            await first.repository.load("a")
            assert await second.ask() == "a/1"

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


def test_a_worker_that_does_not_answer_keeps_a_model_awake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models(tmp_path, a=MAY_SLEEP)
    monkeypatch.setattr(served_workers, "_REST_SECONDS", 0.05)

    async def do() -> None:
        async with both(tmp_path) as made:
            silent, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with silent:
                made.engine.join(3, ours)
                await until(lambda: any(each.number == 3 and each.given for each in made.engine._workers._workers))
                assert not await made.put_to_sleep()
                assert [await each.ask() for each in made.workers] == ["a/1"] * 2
            await until(lambda: len(made.engine._workers._workers) == 2)  # it has gone
            assert await made.put_to_sleep()

    run(do)


def test_models_sleep_after_the_time_in_which_no_worker_is_asked(tmp_path: Path) -> None:
    models(tmp_path, a=f"{MAY_SLEEP}sleep_after = 60\n", b=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            for seconds, state in ((59.0, "ready"), (2.0, "sleeping")):
                made.aged(seconds)
                await made.sleepers.look()
                assert made.states()[0] == {"a/1": state, "b/1": "ready"}
            assert await made.workers[1].ask() == "a/1"
            made.sleep().used -= 300.0  # that an image has come since is all that counts
            await made.sleepers.look()
            assert made.states()[0]["a/1"] == "ready"
            made.aged(300.0)
            with made.workers[0].model().uses:
                await made.sleepers.look()
                assert made.states()[0]["a/1"] == "ready"
            made.aged(300.0)
            await made.sleepers.look()
            await made.all_say("sleeping")
            assert made.states()[0]["b/1"] == "ready"

    run(do)


@pytest.mark.ci
@pytest.mark.parametrize(("patience", "found"), [(0.0, {False, True}), (30.0, {True})])
def test_no_request_fails_while_a_model_is_put_to_sleep_at_any_moment(
    patience: float, found: set[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that lets its requests end can always do without the model; one that does not often has a request."""
    monkeypatch.setattr("glimpse.server.repository.remote_sleep._PATIENCE", patience)
    monkeypatch.setattr("glimpse.server.repository.served_workers._REST_SECONDS", 2 * patience + 1.0)
    models(tmp_path, a=MAY_SLEEP)

    async def do() -> None:
        async with both(tmp_path) as made:
            asking, outcomes = True, list[bool]()

            async def disturb() -> None:
                while asking:
                    if not made.sleep().asleep:
                        outcomes.append(await made.put_to_sleep())
                    await asyncio.sleep(0.001)

            async def call(worker: Worker, pause: float) -> None:
                for _ in range(40):
                    assert await worker.ask() == "a/1"
                    await asyncio.sleep(pause)

            disturbing = asyncio.create_task(disturb())
            calls = [call(worker, pause) for worker in made.workers for pause in (0.0, 0.002, 0.01)]
            await asyncio.gather(*calls)
            asking = False
            await disturbing
            assert set(outcomes) == found
            assert made.wake_ups("failed") == made.wake_ups("refused") == 0
            assert outcomes.count(True) - 1 <= made.wake_ups("woken") <= outcomes.count(True)

    run(do)
