"""Several processes that send one load: each sends its share, and their books are added up.

They are started once, before the first phase, and wait for orders on a pipe each: a phase and the moment at which it
begins, or its early end. One whose pipe ends, because the command has gone, ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from typing import TYPE_CHECKING, Any, Self

from glimpse.client.load import idle
from glimpse.client.load.driver import PhaseRun
from glimpse.client.load.images import Pictures
from glimpse.client.load.plan import Plan
from glimpse.client.load.sender import Sender
from glimpse.v1 import classifier_pb2 as pb

if TYPE_CHECKING:
    from glimpse.client.connection import Connection

_HEAD_START = 0.1  # seconds from the order until the phase begins, so that all begin together
_SEEDS = 1_000_003  # between the seeds of two processes
_PATIENCE = 5.0  # seconds in which a process that was told to end may do so


class LoadProcessError(Exception):
    """Expected: a process of callers has ended or failed; the message says what is known."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a process is given once."""

    connection: Connection
    pictures: tuple[tuple[bytes, ...], tuple[bytes, ...]]  # good and broken images
    connections: int
    retries: bool
    model: str
    version: str
    seed: int
    processes: int  # that share the memory of what is in flight


@dataclass(frozen=True, slots=True)
class _Order:
    """A phase for one process."""

    plan: Plan
    start: float  # on the clock of `time.monotonic`, which is the same in all processes


class _Stop:
    """The order to end the phase early."""


class _End:
    """No more orders come."""


def split(number: int, parts: int) -> list[int]:
    """A number in so many parts that differ by one at most, the larger ones first."""
    return [number // parts + (part < number % parts) for part in range(parts)]


def shares(plan: Plan, parts: int) -> list[Plan]:
    """The plan of each of so many processes; together they are the plan.

    Raises:
        ValueError: there are not enough callers, or not enough requests, for each to have one.
    """
    for number, what in ((0 if plan.rate else plan.callers, "callers"), (plan.requests, "requests")):
        if 0 < number < parts:
            raise ValueError(
                f"{parts} processes need {parts} {what} or more, and {plan.name} has {number}. Give more {what} or "
                "fewer --processes."
            )
    callers, requests = split(plan.callers, parts), split(plan.requests, parts)
    return [
        replace(plan, callers=max(1, callers[part]), requests=requests[part], rate=plan.rate / parts)
        for part in range(parts)
    ]


class Processes:
    """The near end of so many processes of callers. Use `with`."""

    def __init__(self, number: int, share: Share) -> None:
        """Start them; returns when all of them are ready.

        Args:
            number: of processes, 2 or more.
            share: what each is given; its connections are divided, at least one each, and so is its seed.

        Raises:
            LoadProcessError: expected; one of them could not be started.
        """
        context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        self._pipes: list[Pipe] = []
        self._processes: list[Any] = []
        try:
            for part, connections in enumerate(split(max(number, share.connections), number)):
                near, far = context.Pipe()
                own = replace(share, connections=connections, seed=share.seed + part * _SEEDS, processes=number)
                process = context.Process(target=_serve, args=(far, own), name=f"callers-{part + 1}", daemon=True)
                with _interrupts_ignored():
                    process.start()
                far.close()
                self._pipes.append(near)
                self._processes.append(process)
            for part in range(number):
                self._receive(part)
        except BaseException:
            self.close()
            raise

    async def run(self, plan: Plan, stop: asyncio.Event) -> PhaseRun:
        """A phase, sent by all of them; `stop` ends it early.

        Raises:
            LoadProcessError: expected; one of them has ended or failed.
        """
        start = time.monotonic() + _HEAD_START
        for part, own in enumerate(shares(plan, len(self._pipes))):
            # Else all of them would send at the same moments.
            offset = part / plan.rate if plan.steady and plan.rate else 0.0
            self._send(part, _Order(own, start + offset))
        stopping = asyncio.create_task(self._stop_at(stop))
        try:
            runs = await asyncio.gather(*(asyncio.to_thread(self._receive, part) for part in range(len(self._pipes))))
        except BaseException:
            self.close()  # else the threads that wait for answers would go on waiting
            raise
        finally:
            stopping.cancel()
        return merged(plan, runs)

    async def _stop_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        for part in range(len(self._pipes)):
            self._send(part, _Stop())

    def _send(self, part: int, order: _Order | _Stop) -> None:
        with contextlib.suppress(OSError):  # it has ended, which `_receive` tells
            self._pipes[part].send(order)

    def _receive(self, part: int) -> Any:
        try:
            answer = self._pipes[part].recv()
        except (EOFError, OSError):
            self._processes[part].join(_PATIENCE)
            code = self._processes[part].exitcode
            raise LoadProcessError(
                f"Process {part + 1} of the callers has ended before its time, with exit code {code}."
            ) from None
        if isinstance(answer, LoadProcessError):
            raise answer
        return answer

    def close(self) -> None:
        """End all of them."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all of them."""
        self.close()


def merged(plan: Plan, runs: list[PhaseRun]) -> PhaseRun:
    """The phase that several processes have run, as one; each stays in `usages`."""
    first, *others = runs
    for other in others:
        first.tally.merge(other.tally)
    usages = tuple(usage for run in runs for usage in run.usages)
    return PhaseRun(plan, first.tally, usages, any(run.stopped for run in runs))


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Within, processes are started that ignore Ctrl-C: it reaches all of a terminal, and the command tells them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Pipe, share: Share) -> None:
    """The far end: do what the pipe says until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # the near end has gone
        idle.run(_Callers(pipe, share).work())


class _Callers:
    """The callers of one process."""

    def __init__(self, pipe: Pipe, share: Share) -> None:
        self._pipe = pipe
        good, broken = (tuple(map(pb.Image.FromString, images)) for images in share.pictures)
        self._sender = Sender(
            connection=share.connection,
            pictures=Pictures(good, broken),
            connections=share.connections,
            retries=share.retries,
            model=share.model,
            version=share.version,
            seed=share.seed,
            share=share.processes,
        )
        self._orders: asyncio.Queue[_Order | _Stop | _End] = asyncio.Queue()

    async def work(self) -> None:
        """Run each phase that is ordered."""
        threading.Thread(target=self._listen, args=(asyncio.get_running_loop(),), name="orders", daemon=True).start()
        self._pipe.send("ready")
        while not isinstance(order := await self._orders.get(), _End):
            if isinstance(order, _Order):  # else it is the early end of a phase that is over already
                answer = await self._until_over_or_ordered(order)
                if answer is None:
                    return
                self._pipe.send(answer)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        order: _Order | _Stop | _End = _Stop()
        while not isinstance(order, _End):
            try:
                order = self._pipe.recv()
            except (EOFError, OSError):
                order = _End()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._orders.put_nowait, order)

    async def _until_over_or_ordered(self, order: _Order) -> PhaseRun | LoadProcessError | None:
        """Run a phase until its end, or until the next order; None: nobody waits for it any more."""
        stop = asyncio.Event()
        phase = asyncio.create_task(self._phase(order, stop))
        following = asyncio.create_task(self._orders.get())
        await asyncio.wait({phase, following}, return_when=asyncio.FIRST_COMPLETED)
        if following.done() and isinstance(following.result(), _End):
            phase.cancel()
            return None
        following.cancel()
        stop.set()
        try:
            return await phase
        except (OSError, ValueError) as error:
            return LoadProcessError(str(error))

    async def _phase(self, order: _Order, stop: asyncio.Event) -> PhaseRun:
        await asyncio.sleep(order.start - time.monotonic())
        return await self._sender.run(order.plan, stop)
