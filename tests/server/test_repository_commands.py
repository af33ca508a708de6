"""Loading and unloading the versions of a repository by hand, on a simulated device, one beside the other."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from glimpse.server.errors import FailedPreconditionError, ModelNotFoundError
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_model
from tests.server.repositories import add, damage
from tests.server.repository_scene import LONG, Held, run, scene, settled, until

__all__ = ["settled"]  # a fixture of every test here


def test_a_version_is_loaded_and_unloaded_by_hand(tmp_path: Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2)

    async def do() -> None:
        async with scene(tmp_path) as made:
            loaded = await made.repository.load("photos", "1")
            assert (loaded.name, loaded.version) == ("cifar", "1")
            add(tmp_path, 3)
            await made.look()
            assert made.states() == {"cifar/1": "ready", "cifar/2": "unloaded", "cifar/3": "ready"}
            await made.repository.unload("cifar", "1")
            await made.settled()
            assert made.states()["cifar/1"] == "unloaded"
            await made.repository.unload("cifar", "3")  # the one before takes its place
            await made.settled()
            assert made.states() == {"cifar/1": "unloaded", "cifar/2": "ready", "cifar/3": "unloaded"}
            await made.look()
            assert made.answers() == "cifar/2"
            await made.repository.unload("cifar")
            await made.settled()
            assert set(made.states().values()) == {"unloaded"}
            assert not made.repository.ready
            await made.repository.load("cifar")
            assert made.answers() == "cifar/3"

    run(do)


@pytest.mark.parametrize("version", ["", "1"])
def test_whoever_loads_a_version_that_another_unloads_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    add(tmp_path, 1)
    begun, go_on = threading.Event(), threading.Event()

    def held(*arguments: Any, **named: Any) -> LoadedModel:
        begun.set()
        assert go_on.wait(LONG)
        return load_model(*arguments, **named)

    async def do() -> None:
        async with scene(tmp_path) as made:
            await made.repository.unload("cifar")
            monkeypatch.setattr("glimpse.server.repository.lifecycle.load_model", held)
            loading = asyncio.create_task(made.repository.load("cifar", version))
            await asyncio.to_thread(begun.wait, LONG)
            unloading = asyncio.create_task(made.repository.unload("cifar"))
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(FailedPreconditionError, match=r"cifar 1 has been unloaded meanwhile\."):
                await asyncio.wait_for(loading, LONG)
            await unloading
            await made.settled()
            assert made.states() == {"cifar/1": "unloaded"}

    run(do)


def test_a_load_that_has_failed_is_not_asked_for_any_more(tmp_path: Path) -> None:
    folder = add(tmp_path, 1)
    add(tmp_path, 2)
    weights = next(folder.glob("*.safetensors"))
    whole = weights.read_bytes()
    damage(folder)

    async def do() -> None:
        async with scene(tmp_path) as made:
            with pytest.raises(FailedPreconditionError):
                await made.repository.load("cifar", "1")
            weights.write_bytes(whole)
            await made.look()
            assert made.states() == {"cifar/1": "unloaded", "cifar/2": "ready"}

    run(do)


def test_the_stable_version_is_not_unloaded_by_itself(tmp_path: Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2)

    async def do() -> None:
        async with scene(tmp_path) as made:
            await made.repository.set_alias("cifar", "stable", "1")
            with pytest.raises(FailedPreconditionError, match="cifar 1 is stable"):
                await made.repository.unload("cifar", "1")
            assert made.answers() == "cifar/1"

    run(do)


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("no", "", "There is no model 'no' in the repository. There are: cifar."),
        ("../cifar", "1", "There is no model '../cifar' in the repository."),
        ("cifar", "9", "Model cifar has no version '9' in the repository. There are: 1."),
        ("cifar", "../1", "Model cifar has no version '../1' in the repository."),
    ],
)
def test_what_is_not_in_the_repository_is_not_found(tmp_path: Path, name: str, version: str, said: str) -> None:
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path) as made:
            for ask in (made.repository.load, made.repository.unload):
                with pytest.raises(ModelNotFoundError) as error:
                    await ask(name, version)
                assert error.value.message.startswith(said)

    run(do)


def test_whoever_asks_for_a_damaged_version_is_told_why(tmp_path: Path) -> None:
    add(tmp_path, 1)
    damage(add(tmp_path, 2))

    async def do() -> None:
        async with scene(tmp_path) as made:
            for ask in (made.repository.load("cifar", "2"), made.repository.set_alias("cifar", "stable", "2")):
                with pytest.raises(FailedPreconditionError, match=r"cifar 2 cannot be loaded: .* is not the file"):
                    await ask
            assert made.answers() == "cifar/1"

    run(do)


def test_a_load_waits_for_the_one_before_and_both_come_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, 1)
    at_once, most = 0, 0
    lock = threading.Lock()
    load = load_model

    def slow(*arguments: Any, **named: Any) -> LoadedModel:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.1)
        try:
            return load(*arguments, **named)
        finally:
            with lock:
                at_once -= 1

    monkeypatch.setattr("glimpse.server.repository.lifecycle.load_model", slow)

    async def do() -> None:
        async with scene(tmp_path) as made:
            for name in ("a", "b", "c"):
                add(tmp_path, 1, name)
            loading = [asyncio.create_task(made.repository.load(name)) for name in ("a", "b", "c")]
            await asyncio.gather(*loading)
            assert made.states() == {"a/1": "ready", "b/1": "ready", "c/1": "ready", "cifar/1": "ready"}
            assert most == 1

    run(do)


def test_a_load_that_hangs_fails_and_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should it end after all, what it has loaded is closed."""
    add(tmp_path, 1)
    held = Held(monkeypatch, "2")

    async def do() -> None:
        async with scene(tmp_path, load_step_seconds=0.2) as made:
            add(tmp_path, 2)
            await made.look()
            assert made.states() == {"cifar/1": "ready", "cifar/2": "failed"}
            assert "at one step for 0.2 s: compute batches of 8 images" in made.reason("2")
            assert "GLIMPSE_LOAD_STEP_SECONDS" in made.reason("2")
            assert made.answers() == "cifar/1"
            add(tmp_path, 1, "other")
            await made.look()
            assert made.answers("other") == "other/1"
            assert not held.ended
            held.go.set()
            await until(lambda: bool(held.ended) and not any(each.is_alive() for each in _batchers(held.ended[0])))
            assert made.states()["cifar/2"] == "failed"

    run(do)


def _batchers(model: LoadedModel) -> list[threading.Thread]:
    batcher: Any = model.batcher
    workers: list[threading.Thread] = batcher._queue._workers.threads
    return workers


def test_a_roll_back_and_an_unload_do_not_wait_for_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (1, 2):
        add(tmp_path, version)
    (tmp_path / "cifar" / "model.toml").write_text("keep = 2\n")
    add(tmp_path, 1, "other")
    held = Held(monkeypatch, "3")

    async def do() -> None:
        async with scene(tmp_path) as made:
            await made.repository.set_alias("cifar", "stable", "2")
            add(tmp_path, 3)
            made.repository.look()
            looking = asyncio.create_task(made.repository._looking._look())
            await asyncio.to_thread(held.begun.wait, LONG)
            assert await made.repository.set_alias("cifar", "stable", "1")
            assert made.answers() == "cifar/1"
            await made.repository.unload("other")
            assert made.states()["other/1"] in {"retiring", "unloaded"}
            with pytest.raises(ModelNotFoundError):
                made.answers("other")
            assert made.states()["cifar/3"] == "loading"
            held.go.set()
            await looking
            assert made.answers() == "cifar/1"
            assert made.answers("cifar", "3") == "cifar/3"

    run(do)
