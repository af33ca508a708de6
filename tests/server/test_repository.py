"""The life of the models of a repository, on a simulated device: which versions answer, and when."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from glimpse.server.domain import ModelSelector
from glimpse.server.errors import FailedPreconditionError, ModelNotFoundError, Reason, UnavailableError
from glimpse.server.loading import load_model
from glimpse.server.metrics import Metrics
from glimpse.server.registry import LoadedModel, ModelRegistry
from glimpse.server.repository import known
from glimpse.server.repository.repository import Repository
from glimpse.server.repository.rollout import Rollouts
from glimpse.server.settings import Settings
from glimpse.server.startup import ModelLoadError
from tests.server.repositories import add, damage

LONG = 60.0  # seconds; until something is called hung


class Scene:
    """A repository that is looked at whenever a test says so."""

    def __init__(self, root: Path, **chosen: Any) -> None:
        self.stop = asyncio.Event()
        self.registry = ModelRegistry({"photos": "cifar", "usual": ""})
        self.closed: list[LoadedModel] = []
        metrics = Metrics()
        self.rollouts = Rollouts(metrics.rollouts)
        self.repository = Repository(
            root,
            Settings.model_construct(**{**dict(_settings()), "models": root, "models_poll": 0.0, **chosen}),
            self.registry,
            metrics.of,
            changed=_nothing,
            loaded=lambda _: None,
            closed=self._closed,
            rollouts=self.rollouts,
        )

    async def _closed(self, model: LoadedModel) -> None:
        self.closed.append(model)

    async def look(self) -> None:
        await asyncio.wait_for(self.repository._look_now(), LONG)
        await self.settled()

    async def settled(self) -> None:
        """Wait for those that retire and that nobody uses."""
        waits = [task for task in self.repository._retiring if not task.done()]
        if waits and not any(model.uses._number for model in self.registry):
            await asyncio.wait_for(asyncio.gather(*waits), LONG)

    def states(self) -> dict[str, str]:
        return {f"{each.name}/{each.version}": each.state.value for each in self.registry.models()}

    def reason(self, version: str, name: str = "cifar") -> str:
        return next(each.reason for each in self.registry.models() if (each.name, each.version) == (name, version))

    def answers(self, name: str = "", version: str = "") -> str:
        identity = self.registry.resolve(ModelSelector(name, version)).identity
        return f"{identity.name}/{identity.version}"


def _settings() -> Settings:
    return Settings(runtime="simulated", log_level="error")  # type: ignore[call-arg]


async def _nothing() -> None:
    pass


@asynccontextmanager
async def scene(root: Path, **chosen: Any) -> AsyncIterator[Scene]:
    made = Scene(root, **chosen)
    assert await asyncio.wait_for(made.repository.start(made.stop), LONG)
    try:
        yield made
    finally:
        made.stop.set()
        for model in made.registry:
            model.close()


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies there is complete, unless a test says otherwise."""
    monkeypatch.setattr(known, "_OLD_SECONDS", 0.0)
    monkeypatch.delenv("GLIMPSE_WEIGHTS", raising=False)


def run(do: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(do(), 5 * LONG))


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
            await _until(lambda: made.closed == [old])
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
            await _until(lambda: made.closed == [old])
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
            await _until(lambda: made.closed == [first])
            damage(folder)
            await made.look()
            assert made.registry.resolve(ModelSelector()) is second
            assert made.states() == {"cifar/1": "ready"}
            assert "is not the file" in made.reason("1")  # why its new files do not answer

    run(do)


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
            await _until(lambda: bool(free))
            assert free == [True]

    run(do)


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
            monkeypatch.setattr("glimpse.server.repository.repository.load_model", held)
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
            with pytest.raises(UnavailableError) as refused:
                made.answers()
            assert refused.value.reason is Reason.NOT_READY
            assert made.answers("cifar", "2") == "cifar/2"

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
            monkeypatch.setattr("glimpse.server.repository.repository.load_model", held)
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

    monkeypatch.setattr("glimpse.server.repository.repository.load_model", slow)

    async def do() -> None:
        async with scene(tmp_path) as made:
            for name in ("a", "b", "c"):
                add(tmp_path, 1, name)
            loading = [asyncio.create_task(made.repository.load(name)) for name in ("a", "b", "c")]
            await asyncio.gather(*loading)
            assert made.states() == {"a/1": "ready", "b/1": "ready", "c/1": "ready", "cifar/1": "ready"}
            assert most == 1

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
            await _until(lambda: made.states().get("cifar/2") == "failed")
            weights.write_bytes(whole)
            made.repository.look()
            await _until(lambda: made.answers() == "cifar/2")
            made.stop.set()
            await asyncio.wait_for(looking, LONG)

    run(do)


def test_a_repository_is_looked_at_again_and_again(tmp_path: Path) -> None:
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path, models_poll=0.02) as made:
            looking = asyncio.create_task(made.repository.run())
            add(tmp_path, 2)
            await _until(lambda: made.answers() == "cifar/2")
            add(tmp_path, 3)
            await _until(lambda: made.answers() == "cifar/3")
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


async def _until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not done():  # noqa: ASYNC110 - it is told to nobody
            await asyncio.sleep(0.01)


class _Held:
    """Loads of one version of `cifar` wait, at a step that they tell, until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.ended: list[LoadedModel] = []
        load = load_model

        def held(*arguments: Any, **named: Any) -> LoadedModel:
            if named["named"] == ("cifar", version):
                named["progress"]("compute batches of 8 images")
                self.begun.set()
                assert self.go.wait(LONG)
                self.ended.append(model := load(*arguments, **{**named, "progress": lambda *_, **__: None}))
                return model
            return load(*arguments, **named)

        monkeypatch.setattr("glimpse.server.repository.repository.load_model", held)


def test_a_load_that_hangs_fails_and_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should it end after all, what it has loaded is closed."""
    add(tmp_path, 1)
    held = _Held(monkeypatch, "2")

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
            await _until(lambda: bool(held.ended) and not any(each.is_alive() for each in _batchers(held.ended[0])))
            assert made.states()["cifar/2"] == "failed"

    run(do)


def _batchers(model: LoadedModel) -> list[threading.Thread]:
    batcher: Any = model.batcher
    workers: list[threading.Thread] = batcher._queue._workers
    return workers


def test_a_roll_back_and_an_unload_do_not_wait_for_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (1, 2):
        add(tmp_path, version)
    (tmp_path / "cifar" / "model.toml").write_text("keep = 2\n")
    add(tmp_path, 1, "other")
    held = _Held(monkeypatch, "3")

    async def do() -> None:
        async with scene(tmp_path) as made:
            await made.repository.set_alias("cifar", "stable", "2")
            add(tmp_path, 3)
            made.repository.look()
            looking = asyncio.create_task(made.repository._look())
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
