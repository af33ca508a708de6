"""Canaries and shadows of a repository: what its files say, and what commands make of them; on a simulated device."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from glimpse.server.errors import FailedPreconditionError, ModelNotFoundError
from glimpse.server.repository import rollout_file
from glimpse.server.repository.rolling import RolloutCommands
from glimpse.server.repository.rollout import Kind, Rollout, Terms
from tests.server.repositories import add, damage
from tests.server.repository_scene import Scene, run, scene, settled, until

__all__ = ["settled"]  # whatever lies there is complete

CANARY = "[canary]\nversion = 2\nshare = 0.25\nmin_agreement = 0.9\n"


def commands(made: Scene) -> RolloutCommands:
    return RolloutCommands(made.repository, made.repository.rolling, made.registry)


def canary(made: Scene) -> Rollout:
    found = made.rollouts.of("cifar", Kind.CANARY)
    assert found is not None
    return found


def write(root: Path, text: str, stable: int = 1) -> None:
    (root / "cifar" / rollout_file.FILE).write_text(text)
    (root / "cifar" / "aliases.toml").write_text(f"stable = {stable}\n")


def test_the_version_of_a_file_is_loaded_and_stays_while_newer_ones_come(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        add(tmp_path, version)
    write(tmp_path, CANARY)

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.states() == {"cifar/1": "ready", "cifar/2": "ready", "cifar/3": "ready"}
            assert (canary(made).terms.share, canary(made).reference, made.answers()) == (0.25, "1", "cifar/1")
            (tmp_path / "cifar" / rollout_file.FILE).unlink()
            await made.look()
            assert not list(made.rollouts)
            assert made.states() == {"cifar/1": "ready", "cifar/2": "unloaded", "cifar/3": "ready"}

    run(do)


def test_a_changed_file_takes_effect_and_a_damaged_one_changes_nothing(tmp_path: Path) -> None:
    for version in (1, 2):
        add(tmp_path, version)
    write(tmp_path, CANARY)

    async def do() -> None:
        async with scene(tmp_path) as made:
            canary(made).answered(0.1, new=True)
            write(tmp_path, CANARY.replace("0.25", "0.5"))
            await made.look()
            assert (canary(made).terms.share, canary(made).new.answered) == (0.5, 1)
            write(tmp_path, "[canary")
            await made.look()
            assert canary(made).terms.share == 0.5
            shutil.rmtree(tmp_path / "cifar")
            add(tmp_path, 1, "other")
            await made.look()
            await made.look()
            assert not list(made.rollouts)

    run(do)


def test_a_command_is_kept_and_makes_the_usual_version_stable(tmp_path: Path) -> None:
    for version in (1, 2):
        add(tmp_path, version)

    async def do() -> None:
        async with scene(tmp_path) as made:
            assert made.answers() == "cifar/2"  # the newest, as nobody has said which
            assert await commands(made).set_rollout("cifar", Kind.CANARY, Terms("1", 0.1))
            assert made.answers() == "cifar/2"
            assert (tmp_path / "cifar" / "aliases.toml").read_text() == "stable = 2\n"
            assert await commands(made).set_rollout("cifar", Kind.SHADOW, Terms("1", 0.5))
        kept = rollout_file.read(tmp_path / "cifar")
        assert kept.rollouts == {Kind.CANARY: Terms("1", 0.1), Kind.SHADOW: Terms("1", 0.5, min_agreement=0.9)}
        async with scene(tmp_path) as made:  # another server, or the same one later
            assert [(each.kind, each.terms.share, each.reference) for each in made.rollouts] == [
                (Kind.CANARY, 0.1, "2"),
                (Kind.SHADOW, 0.5, "2"),
            ]
            assert made.states() == {"cifar/1": "ready", "cifar/2": "ready"}
            assert await commands(made).set_rollout("cifar", Kind.SHADOW, Terms("1", 0.0))
            assert await commands(made).set_rollout("cifar", Kind.CANARY, Terms("1", 0.0))
        assert rollout_file.read(tmp_path / "cifar").rollouts == {}

    run(do)


@pytest.mark.parametrize("end", ["by command", "by roll-back", "by itself"])
def test_an_older_version_is_let_go_when_its_canary_ends(tmp_path: Path, end: str) -> None:
    for version in (1, 2):
        add(tmp_path, version)

    async def do() -> None:
        async with scene(tmp_path) as made:
            looking = asyncio.create_task(made.repository.run())
            terms = Terms("1", 0.5, max_error_rate=0.1, min_requests=1)
            await commands(made).set_rollout("cifar", Kind.CANARY, terms)
            await made.look()
            assert made.states() == {"cifar/1": "ready", "cifar/2": "ready"}
            if end == "by command":
                await commands(made).set_rollout("cifar", Kind.CANARY, Terms("", 0.0))
            elif end == "by roll-back":
                await commands(made).roll_back("cifar")
            else:
                canary(made).answered(0.0, new=True, ok=False)
                made.rollouts.judge(canary(made))
            await until(lambda: made.states() == {"cifar/1": "unloaded", "cifar/2": "ready"})
            made.stop.set()
            await looking

    run(do)


def test_an_older_version_that_was_loaded_by_hand_outlives_its_canary(tmp_path: Path) -> None:
    for version in (1, 2):
        add(tmp_path, version)

    async def do() -> None:
        async with scene(tmp_path) as made:
            await made.repository.load("cifar", "1")
            await commands(made).set_rollout("cifar", Kind.CANARY, Terms("1", 0.5))
            await commands(made).set_rollout("cifar", Kind.CANARY, Terms("", 0.0))
            await made.look()
            assert made.states() == {"cifar/1": "ready", "cifar/2": "ready"}

    run(do)


def test_what_was_counted_of_a_version_goes_with_it(tmp_path: Path) -> None:
    for version in (1, 2):
        add(tmp_path, version)
    write(tmp_path, CANARY)

    async def do() -> None:
        async with scene(tmp_path) as made:

            def counted(version: str) -> list[float | None]:
                labels = {"model": "cifar", "version": version, "rollout": "canary"}
                value = made.metrics.registry.get_sample_value
                return [
                    value("glimpse_rollout_answers_total", {**labels, "outcome": "answered"}),
                    value("glimpse_rollout_seconds_count", labels),
                    value("glimpse_rollout_compared_images_total", {**labels, "agrees": "yes"}),
                    value("glimpse_rollout_probability_difference_count", labels),
                    value("glimpse_rollout_dropped_images_total", labels),
                    value("glimpse_rollbacks_total", {"model": "cifar", "version": version, "cause": "errors"}),
                ]

            for new in (True, False):
                canary(made).answered(0.1, new=new)
            canary(made).compare(0.0, agrees=True)
            canary(made).drop()
            (tmp_path / "cifar" / rollout_file.FILE).unlink()
            await made.look()
            assert counted("2") == [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]  # it is there, and may be looked at
            shutil.rmtree(tmp_path / "cifar" / "2")
            for _ in range(3):
                await made.look()
            assert made.states() == {"cifar/1": "ready"}
            assert counted("2") == [None] * 6
            assert counted("1")[:2] == [1.0, 1.0]

    run(do)


def test_a_canary_that_was_rolled_back_stays_so_for_servers_that_come(tmp_path: Path) -> None:
    for version in (1, 2):
        add(tmp_path, version)
    write(tmp_path, CANARY.replace("min_agreement = 0.9", "max_error_rate = 0.1\nmin_requests = 5"))

    async def do() -> None:
        async with scene(tmp_path) as made, scene(tmp_path) as other:
            assert canary(other).running
            for _ in range(5):
                canary(made).answered(0.0, new=True, ok=False)
                made.rollouts.judge(canary(made))
            for task in list(made.repository.rolling._writing):
                assert await task
            await other.look()
            assert canary(other).terms.rolled_back == "5 of its last 5 requests failed; at most 10.00% may."
            await made.look()
            assert not canary(made).running
        async with scene(tmp_path) as made:
            assert canary(made).terms.rolled_back
            assert not made.rollouts.any("cifar")

    run(do)


def test_a_promotion_in_the_file_of_aliases_ends_a_canary(tmp_path: Path) -> None:
    for version in (1, 2):
        add(tmp_path, version)
    write(tmp_path, CANARY)

    async def do() -> None:
        async with scene(tmp_path) as made:
            (tmp_path / "cifar" / "aliases.toml").write_text("stable = 2\n")
            await made.look()
            assert made.answers() == "cifar/2"
            assert not list(made.rollouts)
            assert rollout_file.read(tmp_path / "cifar").rollouts == {}

    run(do)


def test_a_version_that_cannot_be_loaded_gets_nothing(tmp_path: Path) -> None:
    add(tmp_path, 1)
    damage(add(tmp_path, 2))

    async def do() -> None:
        async with scene(tmp_path) as made:
            with pytest.raises(FailedPreconditionError, match="cifar 2 cannot be loaded"):
                await commands(made).set_rollout("cifar", Kind.CANARY, Terms("2", 0.1))
            assert not list(made.rollouts)
            assert not (tmp_path / "cifar" / rollout_file.FILE).exists()
            assert made.answers() == "cifar/1"
            # Nothing has begun, and so newer versions go on to take the place of this one.
            assert made.repository.aliases("cifar") == {}
            with pytest.raises(ModelNotFoundError):
                await commands(made).set_rollout("cifar", Kind.CANARY, Terms("9", 0.1))
            assert made.repository.aliases("cifar") == {}

    run(do)


@pytest.mark.parametrize("kind", list(Kind))
def test_ending_a_rollout_of_a_model_that_is_not_there_is_refused(tmp_path: Path, kind: Kind) -> None:
    add(tmp_path, 1)

    async def do() -> None:
        async with scene(tmp_path) as made:
            with pytest.raises(ModelNotFoundError, match=r"no model 'cifra' in .* There are: cifar"):
                await commands(made).set_rollout("cifra", kind, Terms("", 0.0))
            with pytest.raises(ModelNotFoundError, match="There is no model 'cifra'"):
                await commands(made).roll_back("cifra")
            await commands(made).set_rollout("cifar", kind, Terms("", 0.0))  # which has none, and that is as well

    run(do)


def test_a_repository_that_cannot_be_written_has_canaries_all_the_same(tmp_path: Path) -> None:
    """Told by a folder in the place of the file: whoever runs the tests may be allowed to write anywhere."""
    for version in (1, 2):
        add(tmp_path, version)
    write(tmp_path, "")
    (tmp_path / "cifar" / rollout_file.FILE).unlink()

    async def do() -> None:
        async with scene(tmp_path) as made:
            (tmp_path / "cifar" / rollout_file.FILE).mkdir()
            assert not await commands(made).set_rollout("cifar", Kind.CANARY, Terms("2", 0.1))
            await made.look()
            assert canary(made).running
            assert await commands(made).roll_back("cifar") == ("1", False)
            assert not canary(made).running

    run(do)
