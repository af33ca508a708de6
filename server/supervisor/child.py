"""One process of the server with its control channel: begun, told, asked, watched, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from prometheus_client.metrics_core import Metric

from glimpse.models.child_environment import child_environment
from glimpse.server.metrics.merge import Kind, loaded
from glimpse.server.processes.control_channel import ControlChannel, Message, read_memory_file

_log = structlog.get_logger(__name__)

_DEATH_SECONDS = 10.0  # for the kernel to take a process down, which may hold many gigabytes


class ChildEndedError(Exception):
    """Expected: the process has ended before it did what was waited for."""


class ChildFailedError(Exception):
    """Expected: the process says that it cannot start; `exit_code` and the message say why."""

    def __init__(self, exit_code: int, detail: str) -> None:
        super().__init__(detail)
        self.exit_code = exit_code


class Child:
    """A worker or an engine. Lives on the event loop."""

    def __init__(
        self,
        kind: Kind,
        number: int,
        *,
        stderr: int | None,
        heard: Callable[[Child, Message], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Begin the process; returns at once.

        Args:
            kind: what it is.
            number: from 1, among those of its kind.
            stderr: descriptor for its standard error; None: that of this process.
            heard: called with what it says and nobody waits for.
            environment: variables besides those of this process.

        Raises:
            OSError: the system has no room for another process, or for a thread that waits for its end.
        """
        self.kind, self.number = kind, number
        self.begun = time.monotonic()
        self.in_flight = 0  # images, as it said last
        self.alive = self.ready = False  # of a worker, as it said last
        self.joins = Counter[int]()  # of a worker: how often it was told of each engine
        self.listens = False  # it has been started, and is asked for signs of life
        self.step = "start"  # of loading, as an engine said last; what it does
        self.step_limited = True  # whether that may be taken to hang where it takes very long
        self._step_begun = self.begun
        self.hung = ""  # why it was killed: what hangs, for people
        self.failure: ChildFailedError | None = None  # why it cannot go on, as it said
        self._heard_last = self.begun
        self._heard = heard
        self._numbers = itertools.count(1)
        self._awaited: dict[tuple[str, int | None], asyncio.Future[Message]] = {}
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()  # its exit code
        self._given_up: asyncio.Future[None] = loop.create_future()  # nobody waits any more for its end
        self._channel, theirs = ControlChannel.pair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, with a module of ours
                    [
                        *(sys.executable, "-P", "-m", f"glimpse.server.{kind}_process"),
                        *("--control", str(theirs.fileno())),
                    ],
                    stdin=subprocess.DEVNULL,
                    stderr=stderr,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # out of reach of a terminal's Ctrl+C
                    env={**child_environment(), **(environment or {})},
                )
            except OSError:
                self._channel.close()
                raise
        self.name = f"{kind} {number}, pid {self._process.pid}"
        try:
            threading.Thread(target=self._wait, args=(loop,), name=self.name, daemon=True).start()
        except RuntimeError as error:  # else it would go on, and nobody would know of it
            self.kill()
            self._process.wait()
            self._channel.close()
            raise OSError(str(error)) from error
        self._reading = asyncio.create_task(self._read(), name=f"what {self.name} says")

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._process.pid

    @property
    def silent(self) -> float:
        """Seconds since it has said anything."""
        return time.monotonic() - self._heard_last

    @property
    def at_step(self) -> float:
        """Seconds since it began the step of loading that it is at."""
        return time.monotonic() - self._step_begun

    def send(self, body: dict[str, Any], files: Sequence[int] = ()) -> bool:
        """Tell it something; whether that could be sent."""
        return not self.ended.done() and self._channel.send(body, files)

    async def told(self, did: str, number: int | None = None) -> Message:
        """What it says next of this kind. To be called before it can say it.

        Raises:
            ChildEndedError: expected; it has ended.
            ChildFailedError: expected; it cannot start.
        """
        if self.failure is not None:
            raise self.failure
        if self.ended.done() or self._given_up.done():
            raise ChildEndedError(f"The {self.name}, has ended.")
        key = did, number
        future = self._awaited.setdefault(key, asyncio.get_running_loop().create_future())
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # What comes later is heard as what nobody waits for; and so is what came just now, whose files would
            # stay open else.
            if self._awaited.get(key) is future:
                del self._awaited[key]
            if future.done() and not future.cancelled() and future.exception() is None:
                self._heard(self, future.result())
            raise

    async def metrics(self) -> list[Metric]:
        """Its metrics, as it says.

        Raises:
            ChildEndedError: expected; it has ended.
        """
        number = next(self._numbers)
        self.send({"do": "metrics", "number": number})
        return metrics_in(await self.told("metrics", number))

    async def gone(self) -> None:
        """Wait until it has ended and all that it said has been read.

        Raises:
            ChildFailedError: expected; it ended because it could not go on.
            ChildEndedError: expected; it was given up, and has not ended.
        """
        waits: list[asyncio.Future[Any]] = [self.ended, self._given_up]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not self.ended.done():
            raise ChildEndedError(f"The {self.name}, does not end.")
        await asyncio.wait([self._reading])
        if self.failure is not None:
            raise self.failure

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.send({"do": "ping", "number": next(self._numbers)})

    def awake(self) -> None:
        """Count the silence, and the time of a step, from now on."""
        self._heard_last = self._step_begun = time.monotonic()

    def kill(self) -> None:
        """End it at once, with all that is in its session's group."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def give_up(self) -> None:
        """End it at once; whoever waits for its end, or for what it says, waits no longer than that should take."""

        def let_go() -> None:
            if not self.ended.done() and not self._given_up.done():
                self._given_up.set_result(None)
                self._fail(ChildEndedError(f"The {self.name}, does not end."))

        self.kill()
        asyncio.get_running_loop().call_later(_DEATH_SECONDS, let_go)

    async def end(self, seconds: float) -> None:
        """Wait so long for its end, then end it."""
        await asyncio.wait([self.ended], timeout=seconds)
        await self.killed()

    async def killed(self) -> int | None:
        """End it at once; its exit code. None: the kernel does not let go of it, as where a driver or a disk hangs."""
        self.kill()
        await asyncio.wait([self.ended], timeout=_DEATH_SECONDS)
        if self.ended.done():
            return self.ended.result()
        _log.error(
            "a process cannot be ended",
            process_kind=self.kind,
            number=self.number,
            pid=self.pid,
            detail="It waits within the kernel, for a device, its driver or a disk that does not answer. Look at the "
            "kernel's log. If it stays there, restart the machine.",
        )
        return None

    async def _read(self) -> None:
        while (message := await self._channel.received()) is not None:
            self._heard_last = time.monotonic()
            did, number = message.body.get("did"), message.body.get("number")
            if did == "pong":
                self.in_flight = int(message.body.get("in_flight", 0))
            elif did == "loading":
                self.step, self.step_limited = str(message.body["step"]), bool(message.body["limited"])
                self._step_begun = self._heard_last
                _log.debug("loading", engine=self.number, step=self.step)
            elif did == "failed":
                self.failure = ChildFailedError(message.body["exit"], message.body["detail"])
                self._fail(self.failure)
            elif (future := self._awaited.pop((str(did), number), None)) is not None:
                future.set_result(message)
            else:
                try:
                    self._heard(self, message)
                except Exception:  # noqa: BLE001 - what it says next, a sign of life for one, has to be heard
                    _log.exception("a defect of the service")

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        code = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(self._over, code)

    def _over(self, code: int) -> None:
        """It has ended; what it began and left behind ends, too. What it said is read first."""
        self.kill()
        self.ended.set_result(code)

        def close(_: object) -> None:
            self._fail(ChildEndedError(f"The {self.name}, has ended with exit code {code}."))
            self._channel.close()

        # Where another process holds the other end, reading would not end by itself.
        timer = asyncio.get_running_loop().call_later(1.0, self._reading.cancel)
        self._reading.add_done_callback(lambda _: timer.cancel())
        self._reading.add_done_callback(close)

    def _fail(self, error: Exception) -> None:
        awaited, self._awaited = self._awaited, {}
        for future in awaited.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # looked at: perhaps nobody waits any more


def metrics_in(message: Message) -> list[Metric]:
    """The metrics that a process sent; closes their file."""
    content = read_memory_file(message.files[0])
    return loaded(content) if content else []
