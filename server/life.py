"""The life of a server: open the ports, load, serve, drain; and what is told meanwhile of how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from glimpse.server.access.receiving import Receiving
from glimpse.server.admission import Admission
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.decoding.where import Decoding
from glimpse.server.grpc.health import Health
from glimpse.server.grpc.servicer import SERVICE
from glimpse.server.labelling.labelling import Labelling
from glimpse.server.machine.memory import Memory, keep_for_reuse, keep_trimmed
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.ports import Bound, Ports, SharedPorts
from glimpse.server.processes.background import keep_running
from glimpse.server.registry import ModelRegistry
from glimpse.server.repository.copies import Copies
from glimpse.server.repository.repository import Repository
from glimpse.server.server_models import Provider, ServerModels
from glimpse.server.service import Service
from glimpse.server.settings import Settings
from glimpse.server.tracing import Tracing
from glimpse.server.watchdog import Watchdog

_log = structlog.get_logger(__name__)

_LOOKING_SECONDS = 5.0  # that a model which is being loaded may take to be given up
_SAMPLES_SECONDS = 3.0  # that the last samples may take to be written
_TRACES_SECONDS = 3.0  # that the last traces may take to be sent; a collector may be gone


@dataclass(frozen=True, slots=True)
class WorkerPart:
    """What makes a server one worker of several: its ports are shared, its model is computed by an engine."""

    ports: SharedPorts
    provider: Provider
    listening: Callable[[Bound], object]  # called once it listens
    changed: Callable[[bool, bool, str | None], object]  # told: alive, ready, what hangs
    rejoin: Callable[[], object] = lambda: None  # asks for another channel to the engine of a repository


@dataclass(slots=True, kw_only=True)
class Life:
    """Has the parts of a server begin, end and tell how they are; `run` is called once."""

    settings: Settings
    worker: WorkerPart | None
    ports: Ports
    models: ServerModels
    registry: ModelRegistry
    service: Service
    health: Health
    watchdog: Watchdog
    metrics: Metrics
    memory: Memory
    receiving: Receiving
    admission: Admission
    decoders: DecodePool
    decoding: Decoding
    copies: Copies
    tracing: Tracing | None
    labelling: Labelling | None
    loaded: bool = field(default=False, init=False)
    draining: bool = field(default=False, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain.

        Raises:
            StartupError: expected; the message says what to do.
        """
        announce = 0.0
        trimming = keep_running(
            "memory trimming",
            lambda: keep_trimmed(self.memory, lambda: self.receiving.held, self._idle),
        )
        watching = keep_running("watchdog", self.watchdog.run)
        looking: asyncio.Task[None] | None = None
        copying: asyncio.Task[None] | None = None
        sleeping: asyncio.Task[None] | None = None
        try:
            bound = await self.ports.open()
            self._say(
                "listening",
                host=self.settings.host,
                port=bound.grpc,
                metrics_port=bound.metrics,
                health_port=bound.health,
                http_port=bound.http,
                **({} if (path := self.settings.unix_socket) is None else {"unix_socket": str(path)}),
            )
            if self.worker is not None:
                self.worker.listening(bound)
            if self.labelling is not None:
                self.labelling.start()
            if await self.models.load(stop):
                self.loaded = True
                keep_for_reuse()
                repository = self.models.repository
                if repository is not None:
                    looking = keep_running("model repository", repository.run)
                    copying = keep_running("copies of requests", self.copies.run)
                if isinstance(repository, Repository):
                    sleeping = keep_running("sleeping models", repository.sleepers.run)
                await self.tell()
                self._say("serving", port=bound.grpc, metrics_port=bound.metrics)
                announce = self.settings.drain_announce_seconds
                await stop.wait()
        finally:
            trimming.cancel()
            if copying is not None:
                copying.cancel()
            # Of a server that could not start, the reason is the last that is logged, and not that nothing is drained.
            await self._drain(announce, say=self._say if stop.is_set() else _log.debug)
            watching.cancel()
            if sleeping is not None:
                sleeping.cancel()
            if looking is not None:  # it ends by itself, and removes what it has begun
                await asyncio.wait((looking,), timeout=_LOOKING_SECONDS)
                looking.cancel()
            self.ports.close()

    async def tell(self) -> None:
        """Say to health checks and to metrics how it is; for whoever changes something that they depend on."""
        trouble = self.watchdog.trouble
        if self.worker is None:
            alive = self.loaded and trouble is None
            ready = alive and not self.draining and self.models.ready
        else:
            # What hangs is replaced by the supervisor, not by whoever asks for the liveness of the whole server.
            alive = self.loaded
            ready = alive and trouble is None and self.models.ready and not self.draining
            self.worker.changed(alive, ready, trouble)
        self.metrics.ready(ready=ready)
        # A process that loads its model lives; the liveness of health checks begins with serving.
        self.service.alive, self.service.ready = alive or not self.loaded, ready
        serves = alive and not self.draining
        models = {
            name: serves and of_model and not self.watchdog.hangs(self.registry.usual(name))
            for name, of_model in self.models.ready_by_name().items()
        }
        self.service.serves, self.service.models_ready = serves, models
        told = {f"{SERVICE}/{name}": of_model for name, of_model in models.items()}
        await self.health.tell(alive=alive, ready=ready, models=told)

    async def _drain(self, announce: float, say: Callable[..., object]) -> None:
        """NOT_SERVING -> keep serving for `announce` seconds -> take no new calls -> finish those that are there.

        Admission stays open until the last call has ended: one that is here when the ports close is as good as any.
        """
        say("draining", in_flight=self.admission.in_flight)
        self.draining = True
        await self.tell()
        await asyncio.sleep(announce)
        closing = asyncio.create_task(self.ports.drain(self.settings.drain_seconds))
        await asyncio.sleep(0)  # the ports close before the streams are ended, or those would come again
        self.service.drain()
        await self.health.close()
        await closing
        self.admission.close()
        for model in self.registry:
            await asyncio.to_thread(model.close, 1.0)
        self.decoders.close()
        await asyncio.to_thread(self.decoding.close)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close, _TRACES_SECONDS)
        if self.labelling is not None:
            await asyncio.to_thread(self.labelling.close, _SAMPLES_SECONDS)
        say("stopped", in_flight=self.admission.in_flight)

    def _say(self, event: str, **values: object) -> None:
        """Log it; of several workers nobody wants to read the same lines, and the supervisor writes them for them."""
        (_log.info if self.worker is None else _log.debug)(event, **values)

    def _idle(self) -> bool:
        return not self.admission.in_flight and not self.receiving.held
