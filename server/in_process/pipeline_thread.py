"""The pipeline with its model, on an event loop of its own in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
import time
from concurrent.futures import Future
from functools import partial

from glimpse.client.errors import Code, UnavailableError
from glimpse.models.decoding.limits import ImageLimits
from glimpse.server.admission import Admission, Permits
from glimpse.server.answers.occlusion import COPIES
from glimpse.server.decoding.isolated import memory_for
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.decoding.where import Decoding
from glimpse.server.domain import Arrival, Caller, Classification, ClassifyRequest
from glimpse.server.errors import Reason, ServiceError
from glimpse.server.fair_queue import NO_LANE
from glimpse.server.in_process.in_flight_limit import InFlightLimit
from glimpse.server.in_process.values import to_error
from glimpse.server.loading.loading import load_configured
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.pipeline import Pipeline
from glimpse.server.processes import event_loops
from glimpse.server.registry import ModelRegistry
from glimpse.server.request_checks import RequestChecks
from glimpse.server.settings import Settings

_LOOKING_SECONDS = 1.0  # of a wait for an answer, after which the device is asked whether it hangs
_CLOSING_SECONDS = 5.0  # for the batcher to end; where the device hangs it does not
_CALLER = Caller(NO_LANE)


class PipelineThread:
    """Classifies for any number of threads. `close` it; a process that ends need not."""

    def __init__(self, settings: Settings, limits: ImageLimits) -> None:
        """Load the model of the settings, in the calling thread, and begin to wait for images.

        Raises:
            StartupError: expected; the message says what to do.
        """
        metrics, registry = Metrics(), ModelRegistry()
        in_processes = settings.decode_in == "processes"
        self._decoding = Decoding(
            limits,
            in_processes=in_processes,
            expensive_in_processes=in_processes,
            workers=settings.decoders,
            memory_bytes=settings.decode_memory_bytes or memory_for(limits),
            seconds=settings.decode_seconds,
        )
        self.model = load_configured(settings, metrics.of)
        registry.put(self.model)
        self._decoders = DecodePool(
            settings.decoders, expensive=self._decoding.expensive_workers, name="glimpse-decode"
        )
        capacity = Permits(settings.max_images_in_flight, settings.max_bytes_in_flight, settings.work_in_flight)
        admission = Admission(capacity, streams=1, retry_after=lambda _: 1.0)
        self._room = InFlightLimit(admission.bulk_capacity.images, admission.bulk_capacity.bytes)
        checks = RequestChecks(
            registry,
            self._decoders,
            metrics,
            # Requests have one image; its explanation may count for more.
            max_images=min(1 + COPIES, admission.bulk_capacity.images),
            geometries=frozenset(settings.allow_geometries),
        )
        self._pipeline = Pipeline(admission, self._decoders, self._decoding, metrics, checks)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._loop = (event_loops.factory() or asyncio.new_event_loop)()
        self._thread = threading.Thread(target=self._run, name="glimpse-classifier", daemon=True)
        try:
            if in_processes:
                self._decoding.start()
        except BaseException:
            self._decoders.close()
            self.model.close(_CLOSING_SECONDS)
            self._loop.close()
            raise
        self._thread.start()

    def submit(self, request: ClassifyRequest) -> Future[Classification]:
        """Have the only image of a request classified, as soon as there is room for it, for which this waits.

        Raises:
            UnavailableError: `close` has been called.
            RuntimeError: this process is a fork of the one that has loaded the model.
        """
        self._check_usable()
        size = sum(len(image.data) for image in request.images)
        while not self._room.take(size, _LOOKING_SECONDS):
            self.model.batcher.trouble()  # as below: where the device hangs, nobody else may be asking
            self._check_usable()
        try:
            with self._lock:
                self._check_usable()
                future = asyncio.run_coroutine_threadsafe(self._classify(request), self._loop)
        except BaseException:
            self._room.give_back(size)
            raise
        future.add_done_callback(partial(self._done, size))
        return future

    def wait(self, future: Future[Classification]) -> Classification:
        """The answer that `submit` has promised.

        Raises:
            GlimpseError: the request was refused, or it failed.
        """
        try:
            while not concurrent.futures.wait((future,), _LOOKING_SECONDS).done:
                self.model.batcher.trouble()  # it refuses all that waits where the device hangs
        except BaseException:  # KeyboardInterrupt
            future.cancel()
            raise
        try:
            return future.result()
        except ServiceError as error:
            raise to_error(error) from error

    def close(self) -> None:
        """Take no more images, answer those that are there, end all threads and let go of the model."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._process != os.getpid():  # a fork has none of the threads
            return
        asyncio.run_coroutine_threadsafe(self._answered(), self._loop).result()
        self.model.close(_CLOSING_SECONDS)
        self._decoders.close()
        self._decoding.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _check_usable(self) -> None:
        if self._closed:
            raise UnavailableError(Code.UNAVAILABLE, Reason.DRAINING, "The classifier is closed. Load it again.")
        if self._process != os.getpid():
            raise RuntimeError(
                "This process was forked from the one that loaded the classifier, and has none of its threads. Load a "
                "classifier in each process, after the fork."
            )

    def _done(self, size: int, _: Future[Classification]) -> None:
        self._room.give_back(size)

    async def _classify(self, request: ClassifyRequest) -> Classification:
        now = time.monotonic()
        answer = await self._pipeline.classify(request, _CALLER, bulk=True, arrival=Arrival(now, now))
        self._pipeline.replied(answer)
        return answer

    async def _answered(self) -> None:
        """Wait until all that has been submitted has its answer."""
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=_LOOKING_SECONDS)
            self.model.batcher.trouble()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_forever()
