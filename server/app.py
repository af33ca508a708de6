"""The life of a server: open the ports, load, serve, drain. Everything is put together here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from glimpse.models.decoding.cost import EXPENSIVE_WORK
from glimpse.models.decoding.limits import ImageLimits
from glimpse.server import message_fields, stopping
from glimpse.server.access.control import AccessControl
from glimpse.server.admission import Admission, Permits
from glimpse.server.background import keep_running
from glimpse.server.calls import Calls
from glimpse.server.connection_monitor import ConnectionMonitor
from glimpse.server.decoding.isolated import memory_for
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.decoding.where import Decoding
from glimpse.server.describe import limits
from glimpse.server.drift import Drift
from glimpse.server.guard import Guard
from glimpse.server.health import HEALTH, Health
from glimpse.server.interceptors import CallInterceptor
from glimpse.server.interruptible import run_until_stopped
from glimpse.server.loading import default_choice, load_configured
from glimpse.server.memory import Memory, keep_trimmed, settle
from glimpse.server.metrics import Metrics
from glimpse.server.open_inference import servicer as open_inference
from glimpse.server.open_inference.servicer import OpenInference
from glimpse.server.penalties import Penalty
from glimpse.server.pipeline import Pipeline
from glimpse.server.ports import Bound, Ports, Servicers, SharedPorts
from glimpse.server.registry import LoadedModel, ModelRegistry
from glimpse.server.repository.copies import Copies
from glimpse.server.repository.management import ModelManagement
from glimpse.server.repository.remote import RemoteRepository
from glimpse.server.repository.repository import Repository, nothing
from glimpse.server.repository.rollout import Rollouts
from glimpse.server.repository.traffic import Traffic
from glimpse.server.repository_servicer import ModelRepositoryServicer
from glimpse.server.runtime import converted_cache
from glimpse.server.runtimes import RUNTIMES
from glimpse.server.service import Service
from glimpse.server.servicer import SERVICE, ImageClassifier, gates
from glimpse.server.settings import Settings
from glimpse.server.startup import ModelLoadError, StartupError
from glimpse.server.stop_signals import StopEvent, stop_on_signals
from glimpse.server.tracing import start as start_tracing
from glimpse.server.watchdog import Watchdog

if TYPE_CHECKING:
    from glimpse.server.http.port import HttpPort

_log = structlog.get_logger(__name__)

T = TypeVar("T")

# Of an ordinary photo. What a larger one takes makes nobody's upload end who has not begun to fill the budget.
_DECODING_BYTES = 32 << 20
_ALLOWANCE = 256  # useless calls that an address may send at once: as many as have places by default
_LOOKING_SECONDS = 5.0  # that a model which is being loaded may take to be given up
_TRACES_SECONDS = 3.0  # that the last traces may take to be sent; a collector may be gone


class Provider(Protocol):
    """Where a worker's model comes from: an engine, of which the supervisor tells."""

    async def model(self, stop: asyncio.Event) -> LoadedModel | None:
        """The model, once an engine has loaded it; None: the server is told to stop before."""

    def available(self) -> bool:
        """Whether an engine answers now."""


@dataclass(frozen=True, slots=True)
class WorkerPart:
    """What makes a server one worker of several: its ports are shared, its model is computed by an engine."""

    ports: SharedPorts
    provider: Provider
    listening: Callable[[Bound], object]  # called once it listens
    changed: Callable[[bool, bool, str | None], object]  # told: alive, ready, what hangs
    rejoin: Callable[[], object] = lambda: None  # asks for another channel to the engine of a repository


class Server:
    """One server, or one worker of several: `run` is its whole life."""

    def __init__(self, settings: Settings, worker: WorkerPart | None = None) -> None:
        """Put the parts together; nothing listens yet. Needs a running event loop.

        `worker`: None for a server of one process, which loads its model itself.
        """
        self._settings = settings
        self._worker = worker
        # Of several workers nobody wants to read the same lines; the supervisor writes them for the server.
        self._say: Callable[..., object] = _log.info if worker is None else _log.debug
        self._metrics = Metrics(drift=Drift(window=settings.drift_window_seconds, on=settings.drift))
        self._registry = ModelRegistry(settings.model_aliases)
        self._rollouts = Rollouts(self._metrics.rollouts, decides=worker is None)
        self._repository = None if settings.models is None else self._of_models(settings.models)
        capacity = Permits(settings.max_images_in_flight, settings.max_bytes_in_flight, settings.work_in_flight)
        self._admission = Admission(capacity, streams=settings.max_streams, retry_after=self._seconds_to_answer)
        self._metrics.limits(images=capacity.images, size=capacity.bytes, work=capacity.work)
        access = AccessControl(settings)
        self._decoding = _decoding(settings)
        self._decoders = DecodePool(
            settings.decoders, expensive=self._decoding.expensive_workers, spare=int(settings.decode_in == "threads")
        )
        self._metrics.follow(
            in_flight=lambda: self._admission.in_flight,
            bytes_in_flight=lambda: self._admission.bytes_in_flight,
            work_in_flight=lambda: self._admission.work_in_flight,
            queue_depth=self._queue_depth,
            decode_queue_depth=self._decoders.depth,
            decoders_overdue=lambda: self._decoders.overdue(self._decoding.seconds),
            decoder_restarts=lambda: self._decoding.restarts,
            credentials_stale=lambda: access.stale,
        )
        classes = default_choice(settings)
        pipeline = Pipeline(
            self._registry,
            self._admission,
            self._decoders,
            self._decoding,
            self._metrics,
            max_images=settings.max_images_per_request,
            geometries=settings.allow_geometries,
            novelty=settings.novelty,
            classes=classes,
        )
        services = (SERVICE, open_inference.SERVICE) if settings.open_inference else (SERVICE,)
        self._health = Health(*services, HEALTH)
        self._loaded = self._draining = False
        # An engine that hangs is the supervisor's business.
        watched = self._registry if worker is None else ModelRegistry()
        self._watchdog = Watchdog(
            settings, watched, self._decoders, self._decoding, self.tell, needed=self._needs_model
        )
        self._tracing = start_tracing()
        workers = 1 if worker is None else worker.ports.workers
        guard = Guard(
            # Of the server: a worker is handed its part of the images alone.
            allowance=max(_ALLOWANCE, workers * settings.max_images_in_flight),
            most=settings.max_connections,
            share=settings.connections_per_address,
            message_bytes=settings.max_message_bytes,
            header_bytes=settings.max_metadata_bytes,
            proxies=settings.trusted_proxies,
            workers=workers,
        )
        calls = Calls(self._metrics, access, self._tracing, guard=guard, log_calls=settings.log_calls)
        self._copies = Copies(self._registry, self._rollouts, self._decoders, self._decoding)
        traffic = Traffic(self._registry, self._rollouts, self._copies, classes=default_choice(settings))
        self._service = Service(
            calls,
            self._admission,
            pipeline,
            self._registry,
            stream_window=settings.stream_window,
            traffic=None if self._repository is None else traffic,
        )
        interceptor = CallInterceptor(
            calls,
            {**gates(self._service), **open_inference.gates(self._service)},
            max_message_bytes=settings.max_message_bytes,
            most_fields=max(message_fields.LEAST, settings.max_images_per_request * message_fields.EACH_IMAGE),
            probes=open_inference.PROBES,
            pools={open_inference.SERVICE: open_inference.POOL},
        )
        # The port for probes shares nothing with the calls that it reports on, neither their places nor their turns.
        of_probes = CallInterceptor(Calls(self._metrics, access), {}, checks=access.probes)
        self._memory = Memory(self._in_use)
        self._receiving = access.receiving
        self._receiving.follow(
            memory=self._memory,
            # Whole, but not admitted: the requests of streams wait for that.
            besides=lambda: max(0, self._service.bytes_read - self._admission.bytes_in_flight),
        )
        management = ModelManagement(access, self._registry, self._repository)
        infer = (
            OpenInference(self._service, management, max_images=settings.max_images_per_request)
            if settings.open_inference
            else None
        )
        self._ports = Ports(
            settings,
            Servicers(
                ImageClassifier(self._service, limits(settings)),
                ModelRepositoryServicer(management),
                self._health,
                infer,
            ),
            [interceptor],
            self._metrics.registry,
            of_probes=[of_probes],
            access=access,
            monitor=(ConnectionMonitor(guard, self._metrics, _penalty_log(access)) if settings.flood_guard else None),
            shared=None if worker is None else worker.ports,
        )
        self._ports.http = self._http_port(guard)
        self._access = access

    def _http_port(self, guard: Guard) -> HttpPort | None:
        """The port of HTTP/JSON; None: it is not wanted, and what serves it is not loaded."""
        if self._settings.http_port is None:
            return None
        from glimpse.server.http.port import HttpPort
        from glimpse.server.http.routes import Routes

        routes = Routes(self._service, self._settings)
        return HttpPort(routes, self._settings, self._service.access, guard)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain.

        Raises:
            StartupError: expected; the message says what to do.
        """
        announce = 0.0
        trimming = keep_running(
            "memory trimming",
            lambda: keep_trimmed(self._memory, lambda: self._receiving.held, self._idle),
        )
        watching = keep_running("watchdog", self._watchdog.run)
        looking: asyncio.Task[None] | None = None
        copying: asyncio.Task[None] | None = None
        sleeping: asyncio.Task[None] | None = None
        try:
            bound = await self._ports.open()
            self._say(
                "listening",
                host=self._settings.host,
                port=bound.grpc,
                metrics_port=bound.metrics,
                health_port=bound.health,
                http_port=bound.http,
                **({} if (path := self._settings.unix_socket) is None else {"unix_socket": str(path)}),
            )
            if self._worker is not None:
                self._worker.listening(bound)
            if await self._load(stop):
                self._loaded = True
                if self._repository is not None:
                    looking = keep_running("model repository", self._repository.run)
                    copying = keep_running("copies of requests", self._copies.run)
                if isinstance(self._repository, Repository):
                    sleeping = keep_running("sleeping models", self._repository.sleepers.run)
                await self.tell()
                self._say("serving", port=bound.grpc, metrics_port=bound.metrics)
                announce = self._settings.drain_announce_seconds
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
            self._ports.close()

    async def _load(self, stop: asyncio.Event) -> bool:
        """Load the model beside the event loop; False when told to stop meanwhile, of which nothing is left then."""
        if self._repository is not None:
            self._start_decoding()
            going_on = await self._repository.start(stop)
            await self._settle()
            return going_on
        model = await self._model(stop)
        if model is None:
            return False
        await self._settle()
        if not any(self._registry):  # else another engine has told of its model meanwhile
            self._registry.put(model)
        self._tell_loaded(model)
        return True

    async def _settle(self) -> None:
        """Give back what loading or closing a model has left behind."""
        settle()
        if (trimming := self._memory.trim()) is not None:
            await trimming
        self._memory.settled()

    def _tell_loaded(self, model: LoadedModel) -> None:
        self._metrics.model_loaded(model.identity, model.runtime, model.precision)
        if (found := model.agreement) is not None:
            self._metrics.precision_compared(model.identity, found.precision, found.share)

    def _of_models(self, root: Path) -> Repository | RemoteRepository:
        if self._worker is not None:  # the engine has the models
            return RemoteRepository(
                self._registry,
                slots=self._settings.max_images_in_flight,
                changed=self.tell,
                loaded=self._tell_loaded,
                closed=self._model_closed,
                rejoin=self._worker.rejoin,
                rollouts=self._rollouts,
            )
        self._metrics.follow_models(
            lambda: [(each.name, each.version, each.state.value) for each in self._registry.models()]
        )
        repository = Repository(
            root,
            self._settings,
            self._registry,
            self._metrics.of,
            changed=self.tell,
            loaded=self._tell_loaded,
            closed=self._model_closed,
            rollouts=self._rollouts,
            freed=self._freed,
            woken=self._metrics.memory.woken,
        )
        self._metrics.memory.follow(
            lambda: [(each.identity, size) for each, size in repository.sleepers.taken()],
            self._settings.models_memory_bytes,
        )
        return repository

    def join_models(self, connected: socket.socket) -> None:
        """Answer with the models of the engine at the other end of a channel's socket, from now on."""
        if not isinstance(self._repository, RemoteRepository):
            connected.close()
            raise TypeError("this server has no models of an engine")
        self._repository.connect(connected)

    async def _model_closed(self, model: LoadedModel) -> None:
        self._metrics.model_closed(model.identity, model.runtime, model.precision)
        key = model.identity.name, model.identity.version
        if key not in {(each.identity.name, each.identity.version) for each in self._registry}:
            self._service.statistics.forget(*key)
        del model
        await self._freed()

    async def _freed(self) -> None:
        # What was there when the server had loaded its first models is looked at for garbage, too.
        gc.unfreeze()
        await self._settle()

    def look_at_models(self) -> None:
        """Look at the repository of models now, and try again what could not be loaded; for SIGHUP."""
        if self._repository is not None:
            self._repository.look()

    async def _model(self, stop: asyncio.Event) -> LoadedModel | None:
        if self._worker is None:
            return await run_until_stopped(stop, self._prepare_and_load)
        self._start_decoding()
        return await self._worker.provider.model(stop)

    def _prepare_and_load(self) -> LoadedModel:
        self._start_decoding()
        return load_configured(self._settings, self._metrics.of)

    def _start_decoding(self) -> None:
        try:
            self._decoding.start()
        except RuntimeError as error:
            raise StartupError(str(error)) from error

    def replace_model(self, model: LoadedModel) -> None:
        """Serve another model from now on, which an engine has loaded that replaces another."""
        self._registry.replace(model)
        self._metrics.model_loaded(model.identity, model.runtime, model.precision)

    @property
    def metrics(self) -> CollectorRegistry:
        """What is counted in this process."""
        return self._metrics.registry

    @property
    def access(self) -> AccessControl:
        """The access control of this process."""
        return self._access

    @property
    def in_flight(self) -> int:
        """Images between arrival and answer."""
        return self._admission.in_flight

    async def tell(self) -> None:
        """Say to health checks and to metrics how it is; for whoever changes something that they depend on."""
        trouble = self._watchdog.trouble
        if self._worker is None:
            alive = self._loaded and trouble is None
            ready = alive and not self._draining and (self._repository is None or self._repository.ready)
        else:
            # What hangs is replaced by the supervisor, not by whoever asks for the liveness of the whole server.
            alive = self._loaded
            there = self._repository.ready if self._repository is not None else self._worker.provider.available()
            ready = alive and trouble is None and there and not self._draining
            self._worker.changed(alive, ready, trouble)
        self._metrics.ready(ready=ready)
        # A process that loads its model lives; the liveness of health checks begins with serving.
        self._service.alive, self._service.ready = alive or not self._loaded, ready
        names = {} if self._repository is None else self._repository.names()
        serves = alive and not self._draining
        models = {
            f"{SERVICE}/{name}": serves and of_model and not self._watchdog.hangs(self._registry.usual(name))
            for name, of_model in names.items()
        }
        await self._health.tell(alive=alive, ready=ready, models=models)

    def _needs_model(self, name: str) -> bool:
        return self._repository is None or self._repository.needs(name)

    async def _drain(self, announce: float, say: Callable[..., object]) -> None:
        """NOT_SERVING -> keep serving for `announce` seconds -> take no new calls -> finish those that are there.

        Admission stays open until the last call has ended: one that is here when the ports close is as good as any.
        """
        say("draining", in_flight=self._admission.in_flight)
        self._draining = True
        await self.tell()
        await asyncio.sleep(announce)
        closing = asyncio.create_task(self._ports.drain(self._settings.drain_seconds))
        await asyncio.sleep(0)  # the ports close before the streams are ended, or those would come again
        self._service.drain()
        await self._health.close()
        await closing
        self._admission.close()
        for model in self._registry:
            await asyncio.to_thread(model.close, 1.0)
        self._decoders.close()
        await asyncio.to_thread(self._decoding.close)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close, _TRACES_SECONDS)
        say("stopped", in_flight=self._admission.in_flight)

    def _in_use(self) -> int:
        """Bytes that images in flight may take: the files, twice as gRPC's message, and some of an ordinary size."""
        decoding = (
            0 if self._settings.decode_in == "processes" else min(self._settings.decoders, self._admission.in_flight)
        )
        return 2 * self._admission.bytes_in_flight + decoding * _DECODING_BYTES

    def _idle(self) -> bool:
        return not self._admission.in_flight and not self._receiving.held

    def _queue_depth(self) -> int:
        return sum(model.batcher.depth() for model in self._registry)

    def _seconds_to_answer(self, load: Permits) -> float:
        """How long so many images take: decoding and computing overlap, so the slower of the two says."""
        computing = max((model.batcher.seconds_to_compute(load.images) for model in self._registry), default=1.0)
        return max(computing, self._decoders.expected(load.work, expensive=load.work > load.images * EXPENSIVE_WORK))


async def serve(settings: Settings) -> None:
    """Run a server until SIGTERM or SIGINT, then drain it; a second signal ends it at once."""
    server = Server(settings)
    with contextlib.suppress(AttributeError, NotImplementedError):  # Windows
        if settings.models is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.look_at_models)
    await server.run(stop_on_signals())


async def prepare_start(settings: Settings) -> int:
    """Load the model as a start with these settings does, and keep what a later one can take from there.

    Returns:
        The exit code: 0, or that for the signal by which it was told to stop.

    Raises:
        StartupError: expected; such a start would fail, or there is no place to keep anything.
    """
    stop = stop_on_signals()
    if settings.models is not None:
        return await _prepare_models(settings, settings.models, stop)
    model = await run_until_stopped(stop, partial(load_configured, settings, Metrics().of))
    if model is None:
        return stopping.exit_code(stop.number, prepares=True)
    model.close()
    if not _is_kept(model):
        raise ModelLoadError(
            "The model loads, but the converted model could not be stored, so that each start would convert it again. "
            "Set GLIMPSE_CACHE to a writable folder with enough space."
        )
    _log.info("prepared", model=model.identity.name)
    return 0


async def _prepare_models(settings: Settings, root: Path, stop: StopEvent) -> int:
    registry, metrics = ModelRegistry(), Metrics()
    repository = Repository(
        root,
        settings,
        registry,
        metrics.of,
        changed=nothing,
        loaded=lambda _: None,
        closed=nothing,
        rollouts=Rollouts(metrics.rollouts),
    )
    if not await repository.start(stop):
        return stopping.exit_code(stop.number, prepares=True)
    if failed := [f"{each.name} {each.version}: {each.reason}" for each in registry.models() if each.reason]:
        raise ModelLoadError(f"Not all models of {root} can be loaded. {' '.join(failed)}")
    for model in registry:
        model.close()
    if lacking := [f"{each.identity.name} {each.identity.version}" for each in registry if not _is_kept(each)]:
        raise ModelLoadError(
            f"The models load, but the converted models of {', '.join(lacking)} could not be stored, so that each "
            "start would convert them again. Set GLIMPSE_CACHE to a writable folder with enough space."
        )
    for model in registry:
        _log.info("prepared", model=model.identity.name, version=model.identity.version)
    return 0


def _is_kept(model: LoadedModel) -> bool:
    """Whether a later start finds what this one has converted, where its runtime needs that."""
    return not RUNTIMES[model.runtime].reads_converted or converted_cache.is_cached(model.bundle)


def _penalty_log(access: AccessControl) -> Callable[[Penalty, int], None] | None:
    return None if access.audit is None else access.audit.closed


def _decoding(settings: Settings) -> Decoding:
    limits = _image_limits(settings)
    return Decoding(
        limits,
        in_processes=settings.decode_in == "processes",
        workers=settings.decoders,
        memory_bytes=settings.decode_memory_bytes or memory_for(limits),
        seconds=settings.decode_seconds,
    )


def _image_limits(settings: Settings) -> ImageLimits:
    return ImageLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        max_jpeg_pixels=settings.max_jpeg_pixels,
        reducing_gap=settings.jpeg_reducing_gap,
    )
