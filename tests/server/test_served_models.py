"""The models of an engine, in the test's own process: what it says of one that hangs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from glimpse.server.metrics import Metrics
from glimpse.server.repository.served import ServedModels
from tests.server.repositories import add
from tests.server.test_repository import LONG, _settings, settled

__all__ = ["settled"]  # whatever lies there is complete
HANGS = "A batch of 1 images has been computing for 3 s."


@pytest.mark.parametrize("required", [True, False])
def test_only_a_model_that_is_needed_is_trouble_of_the_engine(tmp_path: Path, *, required: bool) -> None:
    """An engine with trouble is killed, and all of its models with it."""
    for name in ("first", "second"):
        add(tmp_path, 1, name)
    (tmp_path / "first" / "model.toml").write_text(f"required = {str(required).lower()}\n")
    told: list[str | None] = []

    async def do() -> None:
        made = ServedModels(tmp_path, _settings().model_copy(update={"stuck_seconds": 0.1}), Metrics(), told.append)
        running = asyncio.create_task(made.run())

        async def until(names: dict[str, bool]) -> None:
            while made._told()[0].names != names:
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
