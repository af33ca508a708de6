"""Tasks beside the calls: none of them dies unseen, and a scrape never meets something that is being changed."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from glimpse.server.app import Server
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.fair_queue import Lane
from glimpse.server.metrics import exposition
from glimpse.server.metrics.exposition import Exposition
from glimpse.server.processes.background import keep_running
from glimpse.server.registry import ModelRegistry
from glimpse.server.settings import Settings
from tests.server.conftest import TIMEOUT


def test_a_failed_task_is_logged_with_its_traceback_and_begun_again_ever_later() -> None:
    """A task that fails is logged with its traceback, and begun again later and later."""
    pauses: list[float] = []
    begun: list[int] = []

    async def begin() -> None:
        begun.append(len(begun))
        if len(begun) <= 12:
            raise ValueError("a defect")

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def run() -> None:
        await keep_running("a task", begin, sleep=sleep)

    with structlog.testing.capture_logs() as logs:
        asyncio.run(run())
    assert len(begun) == 13
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert [(line["event"], line["task"], line["again_in_seconds"]) for line in logs] == [
        ("a background task failed", "a task", pause) for pause in pauses
    ]
    assert all(line["exc_info"] for line in logs)


def test_a_task_that_is_cancelled_is_not_begun_again() -> None:
    begun: list[int] = []

    async def begin() -> None:
        begun.append(1)
        await asyncio.sleep(1000)

    async def run() -> None:
        task = keep_running("a task", begin)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with structlog.testing.capture_logs() as logs:
        asyncio.run(run())
    assert (begun, logs) == ([1], [])


class _Watched:
    """In place of a model: its batcher cannot be looked at for a while."""

    def __init__(self) -> None:
        self.batcher = self
        self.fails = 0

    def trouble(self) -> str | None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("a defect of the watchdog's")
        return None

    def depth(self) -> int:
        return 0


def test_while_the_watchdog_fails_liveness_does_and_then_it_watches_on() -> None:
    told: list[tuple[bool, str | None]] = []

    async def run() -> None:
        server = Server(Settings(port=0, metrics_port=0, host="127.0.0.1", stuck_seconds=0.01))  # type: ignore[call-arg]
        watched = _Watched()
        watched.fails = 2
        server._registry._all = (watched,)  # type: ignore[assignment]
        server.life.loaded = True
        changed = asyncio.Event()

        async def tell(*, alive: bool, ready: bool, models: object = None) -> None:
            told.append((alive, server._watchdog.trouble))
            changed.set()

        server._health.tell = tell  # type: ignore[method-assign]
        watching = asyncio.create_task(server._watchdog.run())
        while len(told) < 2:
            changed.clear()
            await asyncio.wait_for(changed.wait(), TIMEOUT)
        watching.cancel()
        server._decoders.close()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(run())
    assert told == [(False, "The watchdog failed with RuntimeError."), (True, None)]
    assert [line["event"] for line in logs] == [
        "a defect of the service",
        "stuck",
        "a defect of the service",
        "no longer stuck",
    ]


def test_work_that_raises_costs_no_decoder_thread() -> None:
    pool = DecodePool(1)

    def fail() -> None:
        raise RuntimeError("a defect")

    done = threading.Event()
    with structlog.testing.capture_logs() as logs:
        pool.submit(Lane(""), fail).result(TIMEOUT)
        pool.submit(Lane(""), done.set).result(TIMEOUT)
    pool.close()
    assert done.is_set()
    assert [line["event"] for line in logs] == ["a defect of the service"]


def test_metrics_are_answered_again_after_their_thread_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_PAUSE", 0.0)
    look = exposition._Server.service_actions
    fails = iter([True])

    def fail_once(server: Any) -> None:
        if next(fails, False):
            raise RuntimeError("a defect")
        look(server)

    monkeypatch.setattr(exposition._Server, "service_actions", fail_once)
    with structlog.testing.capture_logs() as logs:
        served = Exposition("127.0.0.1", 0, CollectorRegistry())
        end = time.monotonic() + TIMEOUT
        while not logs and time.monotonic() < end:
            time.sleep(0.01)
        with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics", timeout=TIMEOUT) as response:
            assert response.status == 200
        served.close()
    assert [(line["event"], line["task"]) for line in logs] == [("a background task failed", "metrics")]


def test_models_may_be_added_while_a_scrape_goes_through_them() -> None:
    registry = ModelRegistry()

    class _Model:
        def __init__(self, name: str) -> None:
            self.identity = self
            self.name = name
            self.version = ""
            self.sleep, self.asleep = None, False

    for name in ("a", "b"):
        registry.put(_Model(name))  # type: ignore[arg-type]
    names = []
    for model in registry:
        registry.put(_Model(f"{model.identity.name}'"))  # type: ignore[arg-type]
        names.append(model.identity.name)
    assert names == ["a", "b"]
    assert [model.identity.name for model in registry] == ["a", "b", "a'", "b'"]
