"""Looks at a repository, on a simulated device: when, what they find, and what is ready after them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from glimpse.server.domain import ModelSelector
from glimpse.server.errors import UnavailableError
from glimpse.server.processes.startup import ModelLoadError
from glimpse.server.repository import known
from tests.server.repositories import add, damage
from tests.server.repository_scene import LONG, Scene, run, scene, settled, until

__all__ = ["settled"]  # a fixture of every test here


def test_files_that_change_from_look_to_look_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, 1)
    monkeypatch.setattr(known, "_OLD_SECONDS", 0.0)

    async def do() -> None:
        async with scene(tmp_path) as made:
            monkeypatch.setattr(known, "_OLD_SECONDS", 3600.0)
            made.repository._known.still_seconds = 0.3
            folder = add(tmp_path, 2, complete=False)
            for number in range(4):
                (folder / "more.md").write_text("x" * (number + 1))
                await made.look()
                assert made.states() == {"cifar/1": "ready", "cifar/2": "waiting"}
                assert made.reason("2") == "Its files may still be copied."
            await asyncio.sleep(0.35)
            await made.look()
            assert made.states() == {"cifar/1": "unloaded", "cifar/2": "ready"}

    run(do)


def test_the_repository_may_vanish_and_come_back(tmp_path: Path) -> None:
    root = tmp_path / "root"
    add(root, 1)

    async def do() -> None:
        async with scene(root) as made:
            first = made.registry.resolve(ModelSelector())
            root.rename(tmp_path / "away")
            for _ in range(3):
                await made.look()
            root.mkdir()  # a volume that is not mounted
            for _ in range(3):
                await made.look()
            assert made.registry.resolve(ModelSelector()) is first
            root.rmdir()
            (tmp_path / "away").rename(root)
            add(root, 2)
            await made.look()
            assert made.answers() == "cifar/2"

    run(do)


def test_a_model_of_a_list_is_loaded_by_its_tag(tmp_path: Path) -> None:
    listing = tmp_path / "models.toml"
    listing.write_text('[small]\nweights = "cifar10"\nversion = 4\nruntime = "simulated"\n')

    async def do() -> None:
        async with scene(listing) as made:
            assert made.answers() == "small/4"
            assert not await made.repository.set_alias("small", "stable", "4")  # there is no folder to keep it in
            assert made.answers("small", "stable") == "small/4"

    run(do)


def test_without_polling_only_a_signal_makes_the_server_look(tmp_path: Path) -> None:
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path) as made:
            looking = asyncio.create_task(made.repository.run())
            folder = add(tmp_path, 2)
            weights = next(folder.glob("*.safetensors"))
            whole = weights.read_bytes()
            damage(folder)
            await asyncio.sleep(0.2)
            assert made.states() == {"cifar/1": "ready"}
            made.repository.look()  # as SIGHUP does
            await until(lambda: made.states().get("cifar/2") == "failed")
            weights.write_bytes(whole)
            made.repository.look()
            await until(lambda: made.answers() == "cifar/2")
            made.stop.set()
            await asyncio.wait_for(looking, LONG)

    run(do)


def test_a_repository_is_looked_at_again_and_again(tmp_path: Path) -> None:
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path, models_poll=0.02) as made:
            looking = asyncio.create_task(made.repository.run())
            add(tmp_path, 2)
            await until(lambda: made.answers() == "cifar/2")
            add(tmp_path, 3)
            await until(lambda: made.answers() == "cifar/3")
            made.stop.set()
            await asyncio.wait_for(looking, LONG)

    run(do)


def test_a_repository_that_is_not_there_at_the_start_is_an_error(tmp_path: Path) -> None:
    async def do() -> None:
        made = Scene(tmp_path / "no")
        with pytest.raises(ModelLoadError, match=r"The models of GLIMPSE_MODELS cannot be read: .*No such file"):
            await made.repository.start(made.stop)

    run(do)


@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody rename a folder that is being read")
def test_an_empty_repository_is_waited_for(tmp_path: Path) -> None:
    async def do() -> None:
        async with scene(tmp_path) as made:
            assert not made.repository.ready
            with pytest.raises(UnavailableError):
                made.answers()
            add(tmp_path, 1)
            await made.look()
            assert made.repository.ready

    run(do)


def test_models_that_are_not_required_do_not_hold_up_the_server(tmp_path: Path) -> None:
    add(tmp_path, 1)
    damage(add(tmp_path, 1, "extra"))
    (tmp_path / "extra" / "model.toml").write_text("required = false\n")

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.repository.ready
            assert made.repository.names() == {"cifar": True, "extra": False}
            damage(add(tmp_path, 1, "later"))  # required, but it has never answered
            await made.look()
            assert made.repository.ready

    run(do)


def test_folders_that_are_no_models_do_not_hold_up_the_server(tmp_path: Path) -> None:
    add(tmp_path, 1)
    (tmp_path / "lost+found").mkdir()  # of every ext4 volume

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.repository.ready
            assert "cannot be the name of a model" in made.reason("", "lost+found")

    run(do)


def test_a_model_that_cannot_be_loaded_takes_no_requests_from_others(tmp_path: Path) -> None:
    """It would be the default one by its name."""
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path) as made:
            damage(add(tmp_path, 1, "aaa"))
            await made.look()
            assert made.states() == {"aaa/1": "failed", "cifar/1": "ready"}
            assert made.answers() == "cifar/1"
            add(tmp_path, 2, "aaa")
            await made.look()
            assert made.answers() == "aaa/2"

    run(do)


def test_the_default_model_is_the_one_that_says_so(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        add(tmp_path, 1, name)

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.answers() == "a/1"
            (tmp_path / "b" / "model.toml").write_text("default = true\n")
            await made.look()
            assert made.answers() == "b/1"

    run(do)
