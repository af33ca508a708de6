"""What a worker serves while engines tell it of their models."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import pytest

from glimpse.server.app import Server
from glimpse.server.life import WorkerPart
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.ports import SharedPorts
from tests.server.engine.engines import WAIT, Bench, plain_settings, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only")


class TwoEngines:
    """A second one tells of its model, which has other batch sizes, while that of the first is being taken."""

    def __init__(self, bench: Bench) -> None:
        queue = bench.worker()
        self.first = bench.facts.loaded(queue)
        self.second = replace(bench.facts, batch_sizes=(1, 2)).loaded(queue)
        self.server: Server | None = None

    async def model(self, stop: asyncio.Event) -> LoadedModel | None:
        assert self.server is not None
        assert not stop.is_set()
        self.server.models.replace(self.second)
        return self.first

    def available(self) -> bool:
        return True


def test_a_model_that_two_engines_tell_of_is_served_once() -> None:
    """GPUs of one kind may be measured to have different batch sizes, so that their engines tell different things."""

    async def scene(bench: Bench) -> None:
        engines, ready, stop = TwoEngines(bench), asyncio.Event(), asyncio.Event()

        def changed(_: bool, is_ready: bool, __: str | None) -> None:  # noqa: FBT001 - as `WorkerPart` has it
            if is_ready:
                ready.set()

        part = WorkerPart(SharedPorts(0, None, 1, 1), engines, lambda _: None, changed)
        engines.server = server = Server(plain_settings("--no-flood-guard"), part)
        serving = asyncio.create_task(server.run(stop))
        await asyncio.wait_for(ready.wait(), WAIT)
        assert [each.batch_sizes for each in server._registry] == [(1, 2)]
        stop.set()
        await asyncio.wait_for(serving, WAIT)

    run(scene)
