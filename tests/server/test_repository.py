"""The life of the models of a repository, on a simulated device: which versions answer, and when."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from pathlib import Path

import pytest

from glimpse.server.domain import ModelSelector
from glimpse.server.errors import ModelNotFoundError
from glimpse.server.loaded_model import LoadedModel
from tests.server.repositories import add, damage
from tests.server.repository_scene import Scene, run, scene, settled, until

__all__ = ["settled"]  # a fixture of every test here


def test_the_newest_version_answers_by_its_own_name_and_number(tmp_path: Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2)

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.states() == {"cifar/1": "unloaded", "cifar/2": "ready"}
            assert made.repository.ready
            assert made.answers() == made.answers("cifar", "2") == made.answers("cifar", "latest") == "cifar/2"
            assert made.answers("photos") == made.answers("usual") == "cifar/2"  # by GLIMPSE_MODEL_ALIASES
            with pytest.raises(ModelNotFoundError, match=r"has no version '1'\. Loaded: 2"):
                made.answers("cifar", "1")

    run(do)


def test_a_new_version_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path) as made:
            old = made.registry.resolve(ModelSelector())
            add(tmp_path, 2)
            await made.look()
            assert made.answers() == "cifar/2"
            await until(lambda: made.closed == [old])
            assert made.states() == {"cifar/1": "unloaded", "cifar/2": "ready"}
            assert [each.identity.version for each in made.registry] == ["2"]

    run(do)


def test_a_version_that_requests_use_is_closed_after_the_last(tmp_path: Path) -> None:
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path) as made:
            old = made.registry.resolve(ModelSelector())
            with old.uses:
                add(tmp_path, 2)
                await made.look()
                assert made.states() == {"cifar/1": "retiring", "cifar/2": "ready"}
                assert made.answers() == "cifar/2"
                await asyncio.sleep(0.05)
                assert not made.closed
                assert old in list(made.registry)  # the watchdog goes on looking at it
            await until(lambda: made.closed == [old])
            assert old not in list(made.registry)

    run(do)


def test_as_many_of_the_newest_are_kept_as_the_model_says(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        add(tmp_path, version)
    (tmp_path / "cifar" / "model.toml").write_text("keep = 2\n")

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.states() == {"cifar/1": "unloaded", "cifar/2": "ready", "cifar/3": "ready"}
            (tmp_path / "cifar" / "model.toml").write_text("keep = 3\n")
            await made.look()
            assert made.states() == {"cifar/1": "ready", "cifar/2": "ready", "cifar/3": "ready"}
            assert made.answers() == "cifar/3"

    run(do)


def test_a_damaged_version_leaves_the_one_before_as_it_is(tmp_path: Path) -> None:
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path) as made:
            folder = add(tmp_path, 2)
            damage(folder)
            await made.look()
            assert made.states() == {"cifar/1": "ready", "cifar/2": "failed"}
            assert "is not the file that the bundle was made with" in made.reason("2")
            assert made.answers() == "cifar/1"
            assert made.repository.ready
            shutil.rmtree(folder)
            add(tmp_path, 2)  # copied again
            await made.look()
            assert made.states() == {"cifar/1": "unloaded", "cifar/2": "ready"}

    run(do)


def test_at_the_start_an_older_version_answers_for_a_damaged_one(tmp_path: Path) -> None:
    add(tmp_path, 1)
    damage(add(tmp_path, 2))

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.states() == {"cifar/1": "ready", "cifar/2": "failed"}

    run(do)


def test_a_damaged_version_that_is_mended_in_its_place_is_loaded(tmp_path: Path) -> None:
    folder = add(tmp_path, 1)
    weights = next(folder.glob("*.safetensors"))
    whole = weights.read_bytes()
    damage(folder)

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.states() == {"cifar/1": "failed"}
            assert not made.repository.ready
            with pytest.raises(ModelNotFoundError, match="No model 'cifar' is loaded"):
                made.answers("cifar")
            weights.write_bytes(whole)
            await made.look()
            assert made.states() == {"cifar/1": "ready"}
            assert made.repository.ready

    run(do)


def test_other_files_of_a_version_that_answers_are_loaded_beside_it(tmp_path: Path) -> None:
    folder = add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path) as made:
            first = made.registry.resolve(ModelSelector())
            (tmp_path / "cifar" / "model.toml").write_text("max_batch_size = 2\n")
            await made.look()
            second = made.registry.resolve(ModelSelector())
            assert (second is first, second.batch_sizes[-1]) == (False, 2)
            await until(lambda: made.closed == [first])
            damage(folder)
            await made.look()
            assert made.registry.resolve(ModelSelector()) is second
            assert made.states() == {"cifar/1": "ready"}
            assert "is not the file" in made.reason("1")  # why its new files do not answer

    run(do)


def test_a_model_that_is_removed_answers_no_more(tmp_path: Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 1, "other")

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.repository.names() == {"cifar": True, "other": True}
            shutil.rmtree(tmp_path / "other")
            await made.look()
            assert made.answers("other") == "other/1"  # one look may have met it half renamed
            await made.look()
            with pytest.raises(ModelNotFoundError):
                made.answers("other")
            assert made.states() == {"cifar/1": "ready"}
            assert made.repository.names() == {"cifar": True}
            assert made.repository.ready

    run(do)


def test_the_last_version_goes_on_though_its_folder_is_gone(tmp_path: Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 1, "other")

    async def do() -> None:
        async with scene(tmp_path) as made:
            shutil.rmtree(tmp_path / "cifar" / "1")
            damage(add(tmp_path, 2))
            for _ in range(3):
                await made.look()
            assert made.answers("cifar") == "cifar/1"
            add(tmp_path, 3)
            await made.look()
            assert made.states() == {"cifar/2": "failed", "cifar/3": "ready", "other/1": "ready"}

    run(do)


def test_the_version_before_comes_back_where_the_newest_is_removed(tmp_path: Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2)

    async def do() -> None:
        async with scene(tmp_path) as made:
            shutil.rmtree(tmp_path / "cifar" / "2")
            for _ in range(3):
                await made.look()
            assert made.states() == {"cifar/1": "ready"}

    run(do)


def test_what_a_model_held_is_free_when_memory_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, 1)
    free = []

    async def closed(_: Scene, model: LoadedModel) -> None:
        batcher = weakref.ref(model.batcher)
        del model
        gc.collect()
        free.append(batcher() is None)

    monkeypatch.setattr(Scene, "_closed", closed)

    async def do() -> None:
        async with scene(tmp_path) as made:
            add(tmp_path, 2)
            await made.look()
            await until(lambda: bool(free))
            assert free == [True]

    run(do)
