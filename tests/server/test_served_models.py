"""The models of an engine, in the test's own process: what it says of one that hangs."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.processes.control_channel import ControlChannel
from glimpse.server.repository import served_workers
from glimpse.server.repository.served import ServedModels
from tests.server.repositories import add
from tests.server.repository_scene import LONG, settings, settled

__all__ = ["settled"]  # whatever lies there is complete
HANGS = "A batch of 1 image has been computing for 3 s."


@pytest.mark.parametrize("required", [True, False])
def test_only_a_model_that_is_needed_is_trouble_of_the_engine(tmp_path: Path, *, required: bool) -> None:
    """An engine with trouble is killed, and all of its models with it."""
    for name in ("first", "second"):
        add(tmp_path, 1, name)
    (tmp_path / "first" / "model.toml").write_text(f"required = {str(required).lower()}\n")
    told: list[str | None] = []

    async def do() -> None:
        made = ServedModels(tmp_path, settings().model_copy(update={"stuck_seconds": 0.1}), Metrics(), told.append)
        running = asyncio.create_task(made.run())

        async def until(names: dict[str, bool]) -> None:
            while made._told(0)[0].names != names:
                assert not running.done()
                await asyncio.sleep(0.01)

        try:
            await until({"first": True, "second": True})
            batcher = next(each.model.batcher for each in made._served.values() if each.model.identity.name == "first")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(batcher, "trouble", lambda: HANGS)
                await until({"first": False, "second": True})
            await until({"first": True, "second": True})
            assert told == ([HANGS, None] if required else [])
        finally:
            made.stop()
            await running
            for served in made._served.values():
                await asyncio.to_thread(served.host.close)
                served.model.close()

    asyncio.run(asyncio.wait_for(do(), LONG))


@pytest.mark.parametrize("most", [1, 2, 3, 64])
def test_a_worker_is_given_no_more_models_than_its_channel_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Else it would be lost, join again, and be lost again."""
    monkeypatch.setattr(served_workers, "_MOST_GIVEN", most)
    names = {"a": True, "b": True, "c": True}
    for name in names:
        add(tmp_path, 1, name)

    async def do() -> None:
        made = ServedModels(tmp_path, settings(), Metrics(), lambda _: None)
        running = asyncio.create_task(made.run())
        while made._told(0)[0].names != names:
            assert not running.done()
            await asyncio.sleep(0.01)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel, heard = ControlChannel(theirs), list[str]()
        made.join(1, ours)
        try:
            while "state" not in heard:
                message = await channel.received()
                assert message is not None
                heard.append(message.body["do"])
                if heard[-1] != "model":
                    channel.send({"did": "told", "number": message.body["number"]})
                message.close()
            assert heard.count("model") == len(names)
            assert heard.count("wait") == (len(names) - 1) // most
        finally:
            channel.close()
            made.stop()
            await running
            for served in made._served.values():
                await asyncio.to_thread(served.host.close)
                served.model.close()

    asyncio.run(asyncio.wait_for(do(), LONG))


def test_a_model_is_looked_at_while_it_shows_its_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If its first image hangs, the other models are computed nevertheless."""
    add(tmp_path, 1)
    watched: list[int] = []

    async def do() -> None:
        made = ServedModels(tmp_path, settings(), Metrics(), lambda _: None)

        def shows(model: LoadedModel) -> ModelFacts:
            end = time.monotonic() + LONG
            while model.batcher not in made.repository.hanging._watched and time.monotonic() < end:
                time.sleep(0.005)
            watched.append(len(made.repository.hanging._watched))
            raise ValueError("it shows nothing")

        monkeypatch.setattr(ModelFacts, "of", shows)
        running = asyncio.create_task(made.run())
        while not made.repository.began:
            assert not running.done()
            await asyncio.sleep(0.01)
        assert watched == [1]
        assert not made.repository.hanging._watched
        made.stop()
        await running

    asyncio.run(asyncio.wait_for(do(), LONG))
