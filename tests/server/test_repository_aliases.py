"""Other names of the versions of a repository, on a simulated device: which version answers by them."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from glimpse.server.errors import FailedPreconditionError, InvalidRequestError, Reason, UnavailableError
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_model
from tests.server.repositories import add, damage
from tests.server.repository_scene import LONG, Held, Scene, run, scene, settled

__all__ = ["settled"]  # a fixture of every test here


def test_the_stable_version_goes_on_though_its_folder_is_gone(tmp_path: Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2)
    (tmp_path / "cifar" / "aliases.toml").write_text("stable = 1\n")

    async def do() -> None:
        async with scene(tmp_path) as made:
            shutil.rmtree(tmp_path / "cifar" / "1")
            for _ in range(3):
                await made.look()
            assert made.answers() == "cifar/1"
            await made.repository.set_alias("cifar", "stable", "2")
            await made.look()
            assert made.states() == {"cifar/2": "ready"}

    run(do)


def test_a_version_is_promoted_and_rolled_back_by_its_alias(tmp_path: Path) -> None:
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert await made.repository.set_alias("cifar", "stable", "1")
            add(tmp_path, 2)
            await made.look()
            assert made.states() == {"cifar/1": "ready", "cifar/2": "ready"}
            assert (made.answers(), made.answers("cifar", "latest")) == ("cifar/1", "cifar/2")
            assert await made.repository.set_alias("cifar", "canary", "2")
            assert made.answers("cifar", "canary") == "cifar/2"
            assert await made.repository.set_alias("cifar", "stable", "canary")
            await made.look()
            assert made.answers() == made.answers("cifar", "stable") == "cifar/2"
            assert made.states() == {"cifar/1": "unloaded", "cifar/2": "ready"}
            assert await made.repository.set_alias("cifar", "stable", "1")  # loads it first
            assert made.answers() == "cifar/1"
            assert (tmp_path / "cifar" / "aliases.toml").read_text() == "canary = 2\nstable = 1\n"
        async with scene(tmp_path) as again:  # a server that starts later
            assert again.answers() == "cifar/1"

    run(do)


def test_what_cannot_be_an_alias_is_an_invalid_argument(tmp_path: Path) -> None:
    """Nothing that the server, or its models, could be brought to would change that."""
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path) as made:
            for alias in ("latest", "1st", "a b", ""):
                with pytest.raises(InvalidRequestError) as refused:
                    await made.repository.set_alias("cifar", alias, "1")
                assert (refused.value.reason, refused.value.field) == (Reason.INVALID_PARAMETER, "alias")

    run(do)


def test_an_alias_that_somebody_writes_into_the_repository_holds(tmp_path: Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2)

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.answers() == "cifar/2"
            (tmp_path / "cifar" / "aliases.toml").write_text("stable = 1\n")
            await made.look()
            assert made.answers() == "cifar/1"

    run(do)


@pytest.mark.parametrize("before", ["stable = 2\n", ""])
def test_an_alias_changed_by_file_holds_once_its_version_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Until then the version answers that has answered so far, whether it was called stable or not."""
    add(tmp_path, 1)
    add(tmp_path, 2)
    (tmp_path / "cifar" / "aliases.toml").write_text(before)
    begun, go_on = threading.Event(), threading.Event()

    def held(*arguments: Any, **named: Any) -> LoadedModel:
        begun.set()
        assert go_on.wait(LONG)
        return load_model(*arguments, **named)

    async def do() -> None:
        async with scene(tmp_path) as made:
            monkeypatch.setattr("glimpse.server.repository.lifecycle.load_model", held)
            (tmp_path / "cifar" / "aliases.toml").write_text("stable = 1\n")
            looking = asyncio.create_task(made.look())
            await asyncio.to_thread(begun.wait, LONG)
            assert made.states()["cifar/1"] == "loading"
            assert made.answers() == made.answers("cifar", "stable") == "cifar/2"
            assert made.repository.ready
            go_on.set()
            await looking
            assert made.answers() == made.answers("cifar", "stable") == "cifar/1"

    run(do)


def test_an_alias_of_a_version_that_fails_stays_with_the_one_before(tmp_path: Path) -> None:
    damage(add(tmp_path, 1))
    add(tmp_path, 2)
    (tmp_path / "cifar" / "aliases.toml").write_text("stable = 2\n")

    async def do() -> None:
        async with scene(tmp_path) as made:
            add(tmp_path, 3)
            (tmp_path / "cifar" / "aliases.toml").write_text("stable = 1\n")
            for _ in range(2):
                await made.look()
                assert made.states() == {"cifar/1": "failed", "cifar/2": "ready", "cifar/3": "ready"}
                assert made.answers() == "cifar/2"
            with pytest.raises(FailedPreconditionError, match="cifar 2 is stable"):
                await made.repository.unload("cifar", "2")

    run(do)


def test_no_newer_version_answers_for_a_stable_one_that_fails(tmp_path: Path) -> None:
    damage(add(tmp_path, 1))
    add(tmp_path, 2)
    (tmp_path / "cifar" / "aliases.toml").write_text("stable = 1\n")

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.states() == {"cifar/1": "failed", "cifar/2": "ready"}
            assert not made.repository.ready
            for version in ("", "stable"):
                with pytest.raises(
                    FailedPreconditionError, match=r"cifar 1, which is stable, could not be loaded\. The server's log"
                ) as failed:
                    made.answers("cifar", version)
                assert str(tmp_path) not in failed.value.message
            assert str(tmp_path) in made.reason("1")
            assert made.answers("cifar", "2") == "cifar/2"
            (tmp_path / "cifar" / "aliases.toml").write_text("stable = 7\n")
            await made.look()
            with pytest.raises(FailedPreconditionError, match=r"cifar 7, which is stable, is not loaded\.") as refused:
                made.answers()
            assert refused.value.reason is Reason.MODEL_NOT_LOADED

    run(do)


def test_a_stable_version_that_comes_is_said_to_be_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2)
    (tmp_path / "cifar" / "aliases.toml").write_text("stable = 1\n")
    held = Held(monkeypatch, "1")

    async def do() -> None:
        made = Scene(tmp_path)
        starting = asyncio.create_task(made.repository.start(made.stop))
        await asyncio.to_thread(held.begun.wait, LONG)
        with pytest.raises(UnavailableError, match="still loading") as refused:
            made.answers()
        assert refused.value.reason is Reason.NOT_READY
        held.go.set()
        assert await starting
        assert made.answers() == "cifar/1"
        for model in made.registry:
            model.close()

    run(do)


def test_an_alias_in_a_repository_that_is_read_only_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2)

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("glimpse.server.repository.aliases.write", read_only)

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert not await made.repository.set_alias("cifar", "stable", "1")
            await made.look()
            assert made.answers() == "cifar/1"

    run(do)
