"""Models that sleep in an engine while workers answer with others, on a simulated device in one process."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from glimpse.server.repository import served_workers
from tests.server.repositories import add
from tests.server.sleeping_scene import MAY_SLEEP, models, until
from tests.server.sleeping_workers_scene import Worker, both, run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only"),
    pytest.mark.usefixtures("settled"),
]


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
                while set(outcomes) != found or outcomes.count(True) < 6:
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
