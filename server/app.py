"""A server's parts, put together from its settings here and nowhere else; `life.py` has them begin and end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from glimpse.models.decoding.cost import EXPENSIVE_WORK
from glimpse.server.access.control import AccessControl
from glimpse.server.admission import Admission, Permits
from glimpse.server.answers.drift import Drift
from glimpse.server.calls import Calls
from glimpse.server.decoding.configured import decoding_of
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.floods.connection_monitor import ConnectionMonitor
from glimpse.server.floods.guard import Guard
from glimpse.server.floods.penalties import Penalty
from glimpse.server.grpc import message_fields, repository_servicer
from glimpse.server.grpc.health import HEALTH, Health
from glimpse.server.grpc.interceptors import CallInterceptor
from glimpse.server.grpc.repository_servicer import ModelRepositoryServicer
from glimpse.server.grpc.servicer import SERVICE, ImageClassifier, gates, names, readers
from glimpse.server.labelling.feedback import Feedback
from glimpse.server.labelling.labelling import Labelling
from glimpse.server.life import Life, WorkerPart
from glimpse.server.loading.options import default_choice
from glimpse.server.machine.awake import AwakeClock
from glimpse.server.machine.memory import Memory
from glimpse.server.messages.describe import limits
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.open_inference import servicer as open_inference
from glimpse.server.open_inference.servicer import OpenInference
from glimpse.server.pipeline import Pipeline
from glimpse.server.ports import Ports, Servicers
from glimpse.server.processes.stop_signals import stop_on_signals
from glimpse.server.registry import ModelRegistry
from glimpse.server.repository.copies import Copies
from glimpse.server.repository.management import ModelManagement
from glimpse.server.repository.rollout import Rollouts
from glimpse.server.repository.traffic import Traffic
from glimpse.server.request_checks import RequestChecks
from glimpse.server.server_models import ServerModels
from glimpse.server.service import Service
from glimpse.server.settings import Settings
from glimpse.server.tracing import start as start_tracing
from glimpse.server.watchdog import Watchdog

if TYPE_CHECKING:
    from glimpse.server.http.port import HttpPort

# Of an ordinary photo. What a larger one takes makes nobody's upload end who has not begun to fill the budget.
_DECODING_BYTES = 32 << 20
_ALLOWANCE = 256  # useless calls that an address may send at once: as many as have places by default


class Server:
    """One server, or one worker of several: `run` is its whole life."""

    def __init__(self, settings: Settings, worker: WorkerPart | None = None) -> None:
        """Put the parts together; nothing listens yet. Needs a running event loop.

        `worker`: None for a server of one process, which loads its model itself.
        """
        self._settings = settings
        self._metrics = Metrics(
            drift=Drift(window=settings.drift_window_seconds, on=settings.drift),
            labelling=settings.samples is not None or bool(settings.feedback),
        )
        self._registry = ModelRegistry(settings.model_aliases)
        self._rollouts = Rollouts(self._metrics.rollouts, decides=worker is None)
        capacity = Permits(settings.max_images_in_flight, settings.max_bytes_in_flight, settings.work_in_flight)
        self._admission = Admission(capacity, streams=settings.max_streams, retry_after=self._seconds_to_answer)
        self._metrics.limits(images=capacity.images, size=capacity.bytes, work=capacity.work)
        access = AccessControl(settings)
        self._decoding = decoding_of(settings)
        self._decoders = DecodePool(
            settings.decoders,
            expensive=self._decoding.expensive_workers,
            spare=int(settings.decode_in == "threads"),
            clock=AwakeClock(limit=self._decoding.seconds),
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
        self._memory = Memory(self._in_use)
        self.models = ServerModels(
            settings,
            self._registry,
            self._rollouts,
            self._metrics,
            self._decoding,
            memory=self._memory,
            provider=None if worker is None else worker.provider,
            rejoin=(lambda: None) if worker is None else worker.rejoin,
            changed=self.tell,
            forget=self._forget,
        )
        self._labelling = labelling = Labelling.of(settings, access, self._registry, self._metrics.labelling)
        classes = default_choice(settings)
        checks = RequestChecks(
            self._registry,
            self._decoders,
            self._metrics,
            max_images=settings.max_images_per_request,
            geometries=settings.allow_geometries,
            novelty=settings.novelty,
            classes=classes,
            looked_at=None if labelling is None else labelling.needs,
        )
        pipeline = Pipeline(self._admission, self._decoders, self._decoding, self._metrics, checks)
        services = (SERVICE, open_inference.SERVICE) if settings.open_inference else (SERVICE,)
        self._health = Health(*services, HEALTH)
        # An engine that hangs is the supervisor's business.
        watched = self._registry if worker is None else ModelRegistry()
        self._watchdog = Watchdog(
            settings, watched, self._decoders, self._decoding, self.tell, needed=self.models.needs
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
        copies = Copies(self._registry, self._rollouts, self._decoders, self._decoding)
        traffic = Traffic(self._registry, self._rollouts, copies, classes=classes, labelling=labelling)
        self._service = Service(
            calls,
            self._admission,
            pipeline,
            self._registry,
            stream_window=settings.stream_window,
            traffic=None if self.models.repository is None else traffic,
            labelling=labelling,
        )
        interceptor = CallInterceptor(
            calls,
            {**gates(self._service), **open_inference.gates(self._service)},
            max_message_bytes=settings.max_message_bytes,
            readers=readers(),
            most_fields=max(message_fields.LEAST, settings.max_images_per_request * message_fields.EACH_IMAGE),
            probes=open_inference.PROBES,
            pools={open_inference.SERVICE: open_inference.POOL},
            names={**names(), **repository_servicer.names(), **open_inference.names()},
        )
        # The port for probes shares nothing with the calls that it reports on, neither their places nor their turns.
        of_probes = CallInterceptor(Calls(self._metrics, access), {}, checks=access.probes)
        access.receiving.follow(
            memory=self._memory,
            # Whole, but not admitted: the requests of streams wait for that.
            besides=lambda: max(0, self._service.bytes_read - self._admission.bytes_in_flight),
        )
        management = ModelManagement(access, self._registry, self.models.repository)
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
        self.life = Life(
            settings=settings,
            worker=worker,
            ports=self._ports,
            models=self.models,
            registry=self._registry,
            service=self._service,
            health=self._health,
            watchdog=self._watchdog,
            metrics=self._metrics,
            memory=self._memory,
            receiving=access.receiving,
            admission=self._admission,
            decoders=self._decoders,
            decoding=self._decoding,
            copies=copies,
            tracing=self._tracing,
            labelling=labelling,
        )

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
        await self.life.run(stop)

    @property
    def metrics(self) -> CollectorRegistry:
        """What is counted in this process."""
        return self._metrics.registry

    @property
    def access(self) -> AccessControl:
        """The access control of this process."""
        return self._access

    @property
    def feedback(self) -> Feedback | None:
        """What takes feedback in this process; None: nothing does."""
        return None if self._labelling is None else self._labelling.feedback

    @property
    def in_flight(self) -> int:
        """Images between arrival and answer."""
        return self._admission.in_flight

    async def tell(self) -> None:
        """Say to health checks and to metrics how it is; for whoever changes something that they depend on."""
        await self.life.tell()

    def _in_use(self) -> int:
        """Bytes that images in flight may take: the files, twice as gRPC's message, and some of an ordinary size."""
        decoding = (
            0 if self._settings.decode_in == "processes" else min(self._settings.decoders, self._admission.in_flight)
        )
        return 2 * self._admission.bytes_in_flight + decoding * _DECODING_BYTES

    def _forget(self, model: str, version: str) -> None:
        self._service.statistics.forget(model, version)

    def _queue_depth(self) -> list[tuple[str, str, int]]:
        return [(each.identity.name, each.identity.version, each.batcher.depth()) for each in self._registry]

    def _seconds_to_answer(self, load: Permits) -> float:
        """How long so many images take: decoding and computing overlap, so the slower of the two says."""
        computing = max((model.batcher.seconds_to_compute(load.images) for model in self._registry), default=1.0)
        return max(computing, self._decoders.expected(load.work, expensive=load.work > load.images * EXPENSIVE_WORK))


async def serve(settings: Settings) -> None:
    """Run a server until SIGTERM or SIGINT, then drain it; a second signal ends it at once."""
    server = Server(settings)
    with contextlib.suppress(AttributeError, NotImplementedError):  # Windows
        if settings.models is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.models.look)
    await server.run(stop_on_signals())


def _penalty_log(access: AccessControl) -> Callable[[Penalty, int], None] | None:
    return None if access.audit is None else access.audit.closed
