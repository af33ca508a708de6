"""Load a model in a thread, or wake one, and give that up where it hangs, so that others may be loaded."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog

from glimpse.server.loading.loading import explained
from glimpse.server.machine.awake import AwakeClock
from glimpse.server.processes.interruptible import run_until_stopped
from glimpse.server.processes.startup import ModelLoadError
from glimpse.server.progress import Progress

_log = structlog.get_logger(__name__)
_LOOK = 1.0  # seconds between two looks whether a load gets on; shorter where the limit is short


class Closable(Protocol):
    """What a load makes."""

    def close(self, seconds: float | None, /) -> bool:
        """Let go of it."""


T = TypeVar("T", bound=Closable)


class _Steps:
    """The step that a load is at, as its threads tell it; a `Progress`."""

    def __init__(self, warms: Callable[[], object], awake: Callable[[], float]) -> None:
        self._warms, self._awake = warms, awake
        self._now: tuple[str, bool, float] = ("start", True, awake())  # the step, limited, since when

    def __call__(self, step: str, *, limited: bool = True, warms: bool = False) -> None:
        self._now = step, limited, self._awake()
        if warms:
            self._warms()

    def hangs(self, seconds: float) -> str:
        """The step that has taken longer than that and may be taken to hang; empty: none."""
        step, limited, begun = self._now
        return step if limited and self._awake() - begun > seconds else ""


class _GivenUp(Generic[T]):
    """Whether anybody still wants the model; whoever is later, the loading thread or who waits for it, closes it."""

    def __init__(self, name: str, version: str) -> None:
        self._name, self._version = name, version
        self._lock = threading.Lock()
        self._over = False
        self._model: T | None = None

    def loaded(self, model: T) -> T:
        """In the loading thread: there it is."""
        with self._lock:
            if not self._over:
                self._model = model
                return model
        _log.warning("a load has ended that was given up", model=self._name, version=self._version)
        model.close(None)
        return model

    async def give_up(self) -> None:
        """Nobody wants it any more."""
        with self._lock:
            self._over = True
            model, self._model = self._model, None
        if model is not None:
            await asyncio.to_thread(model.close, 1.0)


async def load_watched(
    stop: asyncio.Event,
    load: Callable[[Progress], T],
    *,
    named: tuple[str, str],
    seconds: float,
    warms: Callable[[], object] = lambda: None,
) -> T | None:
    """What `load` returns, run in a thread; None where `stop` is set before.

    Args:
        stop: gives the load up.
        load: loads a model, and tells what it is given of its steps.
        named: name and version of the model, for the log.
        seconds: that one step may take, of those that have no limit of their own.
        warms: called, by the thread, when the model computes its first batches.

    Raises:
        StartupError: expected; the model cannot be loaded, or one step takes too long. The thread of one that hangs
            goes on, because a call into a library or driver cannot be interrupted; nobody waits for it.
    """
    steps, given_up, ended = _Steps(warms, AwakeClock(limit=seconds)), _GivenUp[T](*named), asyncio.Event()
    hung = ""

    async def watch() -> None:
        nonlocal hung
        while not hung and not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min(_LOOK, seconds / 4))
            hung = steps.hangs(seconds)
        ended.set()

    watching = asyncio.create_task(watch(), name="watch over a load")
    try:
        model = await run_until_stopped(ended, lambda: given_up.loaded(explained(lambda: load(steps))))
    finally:
        watching.cancel()
    if model is not None or stop.is_set():
        if model is None:
            await given_up.give_up()
        return model
    await given_up.give_up()
    raise ModelLoadError(
        f"Loading the model has been at one step for {seconds:g} s: {hung}. The device or its driver may hang. If that "
        "step takes longer here, raise GLIMPSE_LOAD_STEP_SECONDS."
    )
