"""The life of a server of several processes: reserve the ports, start engines and workers, watch, replace, drain.

From outside it is what a server of one process is: the same log events, exit codes, ports, signals and /metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Coroutine, Iterable
from contextlib import ExitStack
from typing import Any

import structlog

from glimpse.server.access.shared_rates import relayed
from glimpse.server.metrics.exposition import exposed
from glimpse.server.metrics.merge import Kind, MergedMetrics
from glimpse.server.processes.background import keep_running
from glimpse.server.processes.control_channel import Message
from glimpse.server.processes.startup import StartupError
from glimpse.server.processes.stop_signals import stop_on_signals
from glimpse.server.settings import Settings
from glimpse.server.sockets import port_lock, port_reservation
from glimpse.server.supervisor.backoff import Backoff
from glimpse.server.supervisor.child import Child, ChildEndedError, ChildFailedError, metrics_in
from glimpse.server.supervisor.plan import Plan, check_memory
from glimpse.server.supervisor.processes import Processes, SharedPorts
from glimpse.server.supervisor.watch import Watch

_log = structlog.get_logger(__name__)

_START_SECONDS = 120.0  # until a worker that has not begun to listen is taken for one that never will
_END_SECONDS = 5.0  # for a process to end that has nothing left to do
_LATE_SECONDS = 10.0  # that a drain may take longer than it is given, before it is ended


class Supervisor:
    """One server: `run` is its whole life."""

    def __init__(self, settings: Settings, plan: Plan, stderr: int | None = None) -> None:
        """Nothing is started yet. Needs a running event loop.

        Args:
            settings: those of the server, which its processes are handed.
            plan: the processes.
            stderr: descriptor for their logs; None: this process's standard error.
        """
        self._settings, self._plan = settings, plan
        self._processes = Processes(settings, plan, stderr=stderr, heard=self._hear)
        self._watch = Watch(settings, self._processes)
        self._first: set[tuple[Kind, int]] = set()  # what has been started well once
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._all_ready = asyncio.Event()
        self._metrics_port: int | None = None
        self._ending = self._told_serving = False
        self._metrics = MergedMetrics(ready=self._ready)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain.

        Raises:
            StartupError: expected; the message says what to do.
        """
        check_memory(self._plan)
        with ExitStack() as opened:
            await self._open(opened)
            self._keeping = [
                *(asyncio.create_task(self._keep("engine", each + 1)) for each in range(self._plan.engines)),
                *(asyncio.create_task(self._keep("worker", each + 1)) for each in range(self._plan.workers)),
            ]
            beside = [keep_running("watch over processes", self._watch.run)]
            if self._settings.serve_metrics:
                beside.append(keep_running("metrics of processes", self._metrics.keep_asking))
            try:
                await self._serve(stop)
            finally:
                self._ending = True
                await self._drain(_log.info if stop.is_set() else _log.debug)
                for each in beside:
                    each.cancel()
                self._processes.close()

    async def _open(self, opened: ExitStack) -> None:
        """Take the ports for this server alone."""
        settings = self._settings
        port_reservation.check_free(settings.host, settings.ports)
        if settings.serve_metrics:
            exposition = exposed(settings.host, settings.metrics_port, self._metrics.registry)
            opened.callback(exposition.close)
            self._metrics_port = exposition.port
        port = await _reserved(settings.host, settings.port, "GLIMPSE_PORT", opened)
        health = http = None
        if settings.health_port is not None:
            health = await _reserved(settings.host, settings.health_port, "GLIMPSE_HEALTH_PORT", opened)
        if settings.http_port is not None:
            http = await _reserved(settings.host, settings.http_port, "GLIMPSE_HTTP_PORT", opened)
        self._processes.ports = SharedPorts(port, health, http)

    async def _serve(self, stop: asyncio.Event) -> None:
        if not await self._until(stop, self._processes.all_listen):
            return
        path, ports = self._settings.unix_socket, self._processes.ports
        _log.info(
            "listening",
            host=self._settings.host,
            port=ports.port,
            metrics_port=self._metrics_port,
            health_port=ports.health_port,
            http_port=ports.http_port,
            workers=self._plan.workers,
            engines=self._plan.engines,
            **({} if path is None else {"unix_socket": str(path)}),
        )
        if not await self._until(stop, self._all_ready):
            return
        _log.info("serving", port=ports.port, metrics_port=self._metrics_port)
        self._told_serving = True
        await stop.wait()

    async def _until(self, stop: asyncio.Event, event: asyncio.Event) -> bool:
        """Wait for an event; False where the server is told to stop before.

        Raises:
            StartupError: expected; a process cannot start.
        """
        waits: list[asyncio.Future[Any]] = [asyncio.create_task(each.wait()) for each in (stop, event)]
        await asyncio.wait([*waits, self._failed], return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        if stop.is_set():
            return False
        if self._failed.done():
            await self._failed
        return True

    async def _keep(self, kind: Kind, number: int) -> None:
        """Have this process run for as long as the server does."""
        backoff = Backoff()
        while not self._ending:
            up: float | None = None  # since when it has been of use
            child = None
            detail = ""
            try:
                child = self._processes.begin(kind, number)
                self._metrics.began(kind, child.name, child.metrics)
                # The steps of loading have limits of their own, see `Watch`.
                limit = None if kind == "engine" else _START_SECONDS
                await asyncio.wait_for(self._processes.bring_up(child), limit)
                up = time.monotonic()
                self._first.add((kind, number))
                self._look_whether_ready()
                await child.gone()
            except ChildFailedError as error:
                detail = str(error)
                self._refuse_start(kind, number, error.exit_code, detail, again=True)
            except TimeoutError:
                detail = f"The {kind} has not been started within {_START_SECONDS:g} s."
                self._refuse_start(kind, number, 1, detail)
                if child is not None:
                    child.hung = detail
            except (ChildEndedError, OSError) as error:
                detail = (child.hung if child is not None else "") or str(error)
                self._refuse_start(kind, number, 1, detail)
            except Exception as error:  # noqa: BLE001 - whatever it is, the process is begun again
                _log.exception("a defect of the service")
                detail = str(error)
                self._refuse_start(kind, number, 1, detail)
            # A start that takes long and fails must not be repeated without a pause.
            pause = backoff.pause(0.0 if up is None else time.monotonic() - up)
            if child is not None:
                await self._over(child, detail, pause)
            else:
                _log.error("a process cannot be started", process_kind=kind, number=number, detail=detail)
            if not self._ending:
                await asyncio.sleep(pause)

    def _refuse_start(self, kind: Kind, number: int, code: int, detail: str, *, again: bool = False) -> None:
        """End the server where a process cannot be started that never was; later it is tried again.

        `again`: it would fail again, so that until the server has served it does not matter that it was started once.
        """
        started = (kind, number) in self._first and (self._told_serving or not again)
        if not self._ending and not self._failed.done() and not started:
            self._failed.set_exception(_startup_error(code, detail))

    async def _over(self, child: Child, detail: str, pause: float) -> None:
        """A process has ended, or is of no use."""
        code = await child.killed()
        self._processes.forget(child)
        replaced = not self._ending and not self._failed.done()
        self._metrics.ended(child.name, restart=("hung" if child.hung else "ended") if replaced else None)
        if replaced:
            _log.error(
                "a process is replaced",
                process_kind=child.kind,
                number=child.number,
                pid=child.pid,
                exit_code=code,
                hung=bool(child.hung),
                again_in_seconds=pause,
                **({"detail": detail} if detail else {}),
            )

    def _hear(self, child: Child, message: Message) -> None:
        """Something that a process says by itself."""
        body = message.body
        if body.get("did") == "metrics":  # on its way out, or later than it was waited for
            self._metrics.took(child.name, metrics_in(message))
            return
        message.close()
        match body.get("did", body.get("do")):
            case "state":
                child.alive, child.ready = bool(body["alive"]), bool(body["ready"])
                self._look_whether_ready()
                if body["trouble"] and not self._ending:
                    self._watch.hangs(child, body["trouble"])
            case "trouble":
                if body["detail"] and not self._ending:
                    self._watch.hangs(child, body["detail"])
            case "rejoin":
                self._processes.rejoin(child, body.get("number"), body.get("joins", 0))
            case "spent" | "feedback":
                relayed(body, child.number, {number: each.send for number, each in self._processes.workers.items()})
            case other:
                _log.debug("a process says what nobody waits for", process_kind=child.kind, said=other)

    def look_at_models(self) -> None:
        """Look at the repository of models now, and try again what could not be loaded; for SIGHUP."""
        self._processes.look_at_models()

    def _look_whether_ready(self) -> None:
        """The start is over when the server answers and each of its engines has loaded the model.

        That of a repository is over when all that was found has been loaded or has failed: others answer meanwhile.
        """
        loaded = sum(kind == "engine" for kind, _ in self._first)
        over = self._ready() if self._settings.models is None else self._processes.alive
        if loaded == self._plan.engines and over:
            self._all_ready.set()

    def _ready(self) -> bool:
        """Whether the server answers."""
        return not self._ending and self._processes.ready

    async def _drain(self, say: Any) -> None:
        """Have all workers finish what is there, then end the engines."""
        processes = self._processes
        say("draining", in_flight=processes.in_flight)
        for worker in processes.workers.values():
            worker.send({"do": "drain"})
        settings = self._settings
        given = settings.drain_announce_seconds + settings.drain_seconds if self._told_serving else 0.0
        await _all(each.end(given + _LATE_SECONDS) for each in [*processes.workers.values()])
        for engine in processes.engines.values():
            engine.send({"do": "end"})
        await _all(each.end(_END_SECONDS) for each in [*processes.engines.values()])
        for each in self._keeping:
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._keeping, return_exceptions=True)
        # Some may have been begun meanwhile.
        await _all(each.end(0.0) for each in processes.all)
        say("stopped", in_flight=processes.in_flight)


async def supervise(settings: Settings, plan: Plan, *, stderr: int | None = None) -> None:
    """Run a server of several processes until SIGTERM or SIGINT, then drain it; a second signal ends it at once.

    Raises:
        StartupError: expected; the message says what to do.
    """
    supervisor = Supervisor(settings, plan, stderr)
    if settings.models is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, supervisor.look_at_models)
    await supervisor.run(stop_on_signals())


async def _reserved(host: str, port: int, setting: str, opened: ExitStack) -> int:
    """Hold a port until `opened` is closed.

    Raises:
        PortTakenError: expected; the message says what to do.
    """
    async with port_lock.held(port) if port else contextlib.nullcontext():
        if port and port_reservation.is_taken(host, port):
            raise port_reservation.in_use(host, port, setting)
        held, number = port_reservation.reserve(host, port, setting)
        for each in held:
            opened.enter_context(each)
        return number


async def _all(ending: Iterable[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*ending)


def _startup_error(code: int, detail: str) -> StartupError:
    """The error of this process that another one ended with."""
    kinds = {each.exit_code: each for each in StartupError.__subclasses__()}
    return kinds.get(code, StartupError)(detail)
