"""The life of a server: open the doors, load, serve, drain. Everything is put together here and nowhere else."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import grpc
import grpc.aio
import prometheus_client
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc
from server.admission import Admission, Load
from server.decoding.decode import FORMATS
from server.decoding.isolated import Isolated, memory_for
from server.decoding.limits import ImageLimits
from server.decoding.prepare import prepare
from server.health import Health
from server.interceptors import Observability
from server.loading import load_model
from server.memory import keep_trimmed
from server.metrics import Metrics
from server.pipeline import Pipeline
from server.registry import LoadedModel, ModelRegistry
from server.servicer import SERVICE, ImageClassifier
from server.settings import Settings

_log = structlog.get_logger(__name__)

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


class StartupError(Exception):
    """The server cannot start; the message says why and what to do."""


class PortTakenError(StartupError):
    """Somebody else listens on the port."""


class ModelLoadError(StartupError):
    """The model cannot be loaded."""


class Server:
    """One server: `run` is its whole life."""

    def __init__(self, settings: Settings) -> None:
        """Put the parts together; nothing listens yet. Needs a running event loop."""
        self._settings = settings
        self._metrics = Metrics()
        self._registry = ModelRegistry()
        capacity = Load(settings.max_images_in_flight, settings.max_bytes_in_flight)
        self._admission = Admission(capacity, retry_after=self._seconds_to_compute)
        self._metrics.follow(
            in_flight=lambda: self._admission.in_flight,
            bytes_in_flight=lambda: self._admission.bytes_in_flight,
            queue_depth=self._queue_depth,
            decoder_restarts=lambda: self._isolated.restarts if self._isolated is not None else 0,
        )
        self._decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        self._isolated = _isolated(settings) if settings.decode_in == "processes" else None
        pipeline = Pipeline(
            self._registry,
            self._admission,
            self._decoders,
            self._isolated or partial(prepare, limits=_image_limits(settings)),
            self._metrics,
            max_images=settings.max_images_per_request,
            geometries=settings.allow_geometries,
        )
        self._health = Health(SERVICE, _HEALTH)
        self._classifier = ImageClassifier(
            pipeline, self._registry, self._metrics, _limits(settings), stream_window=settings.stream_window
        )
        self._grpc = grpc.aio.server(
            interceptors=[Observability(self._metrics, {f"/{SERVICE}/Classify": self._admission.call})],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                # On by default, it would let a second server start silently on the same port.
                ("grpc.so_reuseport", 0),
            ],
        )
        classifier_pb2_grpc.add_ImageClassifierServicer_to_server(self._classifier, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        _add_reflection(self._grpc)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain.

        Raises:
            StartupError: expected; the message says what to do.
        """
        with self._metrics_endpoint() as metrics_port:
            port = await self._listen()
            _log.info("listening", host=self._settings.host, port=port, metrics_port=metrics_port)
            announce = 0.0
            trimming = asyncio.create_task(
                keep_trimmed(lambda: self._admission.bytes_taken, lambda: self._admission.in_flight)
            )
            try:
                if await self._load(stop):
                    await self._health.set_serving(serving=True)
                    self._metrics.ready(ready=True)
                    _log.info("serving", port=port, metrics_port=metrics_port)
                    announce = self._settings.drain_announce_seconds
                    await stop.wait()
            finally:
                trimming.cancel()
                await self._drain(announce)

    async def _listen(self) -> int:
        """Open the port. Health answers NOT_SERVING and everything else NOT_READY until the model is loaded."""
        host = self._settings.host
        address = f"[{host}]:{self._settings.port}" if ":" in host else f"{host}:{self._settings.port}"
        try:
            port = self._grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise PortTakenError(
                f"Cannot listen on {address}: {error}. Stop what listens there, or choose another GLIMPSE_PORT."
            ) from error
        await self._grpc.start()
        return int(port)

    @contextmanager
    def _metrics_endpoint(self) -> Iterator[int]:
        address = f"{self._settings.host}:{self._settings.metrics_port}"
        try:
            httpd, thread = prometheus_client.start_http_server(
                self._settings.metrics_port, self._settings.host, self._metrics.registry
            )
        except OSError as error:
            raise PortTakenError(
                f"Cannot listen on {address}: {error.strerror}. Stop what listens there, or choose another "
                "GLIMPSE_METRICS_PORT."
            ) from error
        try:
            yield httpd.server_port
        finally:
            httpd.shutdown()
            httpd.server_close()
            thread.join()

    async def _load(self, stop: asyncio.Event) -> bool:
        """Load the model beside the event loop; False when told to stop meanwhile."""
        loading = asyncio.create_task(asyncio.to_thread(self._prepare_and_load))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        model = await loading
        self._registry.add(model)
        self._metrics.model_loaded(model.identity, model.runtime)
        return not stop.is_set()

    def _prepare_and_load(self) -> LoadedModel:
        if self._isolated is not None:
            try:
                self._isolated.start()
            except RuntimeError as error:
                raise StartupError(str(error)) from error
        try:
            return load_model(self._settings, self._metrics)
        except ValueError as error:
            raise ModelLoadError(f"Cannot load the model: {error}") from error

    async def _drain(self, announce: float) -> None:
        """NOT_SERVING -> keep serving for `announce` seconds -> refuse new work -> finish what is in flight."""
        _log.info("draining", in_flight=self._admission.in_flight)
        self._metrics.ready(ready=False)
        await self._health.set_serving(serving=False)
        await asyncio.sleep(announce)
        self._admission.close()
        self._classifier.drain()
        await self._health.close()
        await self._grpc.stop(self._settings.drain_seconds)
        for model in self._registry:
            await asyncio.to_thread(model.batcher.close, 1.0)
        self._decoders.shutdown(wait=False, cancel_futures=True)
        if self._isolated is not None:
            await asyncio.to_thread(self._isolated.close)
        _log.info("stopped", in_flight=self._admission.in_flight)

    def _queue_depth(self) -> int:
        return sum(model.batcher.depth() for model in self._registry)

    def _seconds_to_compute(self, images: int) -> float:
        return max((model.batcher.seconds_to_compute(images) for model in self._registry), default=1.0)


async def serve(settings: Settings) -> None:
    """Run a server until SIGTERM or SIGINT, then drain it; a second signal ends it at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        _log.info("signal", signal=number.name)
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await Server(settings).run(stop)


def _limits(settings: Settings) -> pb.Limits:
    return pb.Limits(
        max_images_per_request=settings.max_images_per_request,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_message_bytes=settings.max_message_bytes,
        max_images_in_flight=settings.max_images_in_flight,
        formats=FORMATS,
        max_jpeg_pixels=settings.max_jpeg_pixels,
        jpeg_reducing_gap=settings.jpeg_reducing_gap,
        geometries=sorted(settings.allow_geometries),
        max_bytes_in_flight=settings.max_bytes_in_flight,
    )


def _isolated(settings: Settings) -> Isolated:
    limits = _image_limits(settings)
    memory = settings.decode_memory_bytes or memory_for(limits)
    return Isolated(limits, workers=settings.decoders, memory_bytes=memory, seconds=settings.decode_seconds)


def _image_limits(settings: Settings) -> ImageLimits:
    return ImageLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        max_jpeg_pixels=settings.max_jpeg_pixels,
        reducing_gap=settings.jpeg_reducing_gap,
    )


def _add_reflection(server: grpc.aio.Server) -> None:
    """Reflection as v1alpha, which the library brings, and as v1, whose messages are the same on the wire."""
    servicer = reflection.aio.ReflectionServicer(
        service_names=(SERVICE, _HEALTH, reflection.SERVICE_NAME, _REFLECTION_V1)
    )
    add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(_REFLECTION_V1, {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((generic,))
