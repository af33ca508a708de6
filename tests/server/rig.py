"""A whole server in the test's own process whose decoding and computing a test can hold and let go.

Everything is real - sockets, gRPC, interceptors, admission, decoding, the batcher - but the network, which answers when
and how the test says.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models import sources
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.outputs import LOGITS, PROBABILITIES, Outputs
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.sources import ModelSource
from glimpse.models.spec import NetworkSummary
from glimpse.server import app, domain, settings
from glimpse.server.batching.batcher import Batcher
from glimpse.server.batching.observer import Observer
from glimpse.server.decoding import where
from glimpse.server.decoding.prepare import Prepared, prepare
from glimpse.server.fair_queue import Lane
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading import loading
from glimpse.server.loading.options import LoadOptions
from glimpse.server.ports import Bound

LONG = 60.0  # seconds; until something is called hung
SIZE = 32  # rows and columns of the shipped model's input


class HeldNetwork:
    """In place of the network: every class is as likely, once the test lets it answer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._free: float = math.inf  # batches that may be answered
        self._computing = threading.Semaphore(0)  # released at the beginning of each batch
        self.errors: list[Exception] = []  # raised in this order, before anything is answered again
        self.batches: list[int] = []  # the sizes of those that were answered

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        """The answer, or the next of the errors, when the test lets it."""
        self._computing.release()
        with self._changed:
            assert self._changed.wait_for(lambda: self._free > 0, LONG)
            self._free -= 1
            if self.errors:
                raise self.errors.pop(0)
            self.batches.append(len(pixels))
        return {name: np.full((len(pixels), 10), 0.1, np.float32) for name in outputs}

    def hold(self) -> None:
        """Answer no batch from now on."""
        with self._changed:
            self._computing = threading.Semaphore(0)
            self._free = 0

    def begun(self) -> None:
        """Wait until one more batch has begun."""
        assert self._computing.acquire(timeout=LONG)

    def let(self, batches: float = math.inf) -> None:
        """Answer so many batches."""
        with self._changed:
            self._free = batches
            self._changed.notify_all()


class HeldDecoding:
    """In place of `prepare`: the same, once the test lets it go on."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.decoding = threading.Semaphore(0)  # released at the beginning of each image

    def __call__(self, image: domain.Image, recipe: Recipe, limits: ImageLimits) -> Prepared:
        """`prepare`, when the test lets it."""
        self.decoding.release()
        assert self.go.wait(LONG)
        return prepare(image, recipe, limits=limits)

    def begun(self) -> None:
        """Wait until one more image has begun."""
        assert self.decoding.acquire(timeout=LONG)

    def hold(self) -> None:
        """Finish no image that begins from now on."""
        self.decoding = threading.Semaphore(0)
        self.go.clear()


class Rig:
    """The server, in a thread of its own."""

    def __init__(self, patch: pytest.MonkeyPatch, *arguments: str, batch_sizes: tuple[int, ...] = (1, 2, 4)) -> None:
        """Start it on free ports, with `arguments` as its command line; ready when this returns."""
        self.network, self.decoding = HeldNetwork(), HeldDecoding()
        self._batch_sizes = batch_sizes
        self._stop: Callable[[], object] = lambda: None
        self._ended = threading.Event()
        own = ["--host=::", "--port=0", "--metrics-port=0"]
        self.settings = settings.load([*own, *arguments])
        patch.setattr(loading, "load_model", self._load)
        patch.setattr(where, "prepare", self._decode)
        self._thread = threading.Thread(target=asyncio.run, args=(self._life(),), name="rig")
        self._thread.start()
        self.wait_until(lambda: self._ended.is_set() or self.gauge("glimpse_ready") == 1)
        assert not self._ended.is_set(), "the server did not start"
        port = self._bound.grpc
        self.target = f"127.0.0.1:{port}"
        self.other_target = f"[::1]:{port}"  # whoever calls here comes from another address, and so is another party

    def close(self) -> None:
        """Let everything go, drain the server and wait for its end."""
        self.network.let()
        self.decoding.go.set()
        self.stop()
        self._thread.join(LONG)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        """As a signal would; does not wait."""
        if not self._ended.is_set():
            self._stop()

    def gauge(self, name: str, **labels: str) -> float:
        """The value of a metric, of all models together; -1 while there is no server yet."""
        server = getattr(self, "server", None)
        if server is None:
            return -1.0
        samples = (sample for metric in server._metrics.registry.collect() for sample in metric.samples)
        found = [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
        return float(sum(found))

    def held(self) -> dict[str, float]:
        """Whatever a request can hold: all of it is 0 when nothing is in flight."""
        admission = self.server._admission
        return {
            "images": self.gauge("glimpse_images_in_flight"),
            "bytes": self.gauge("glimpse_image_bytes_in_flight"),
            "queue": self.gauge("glimpse_queue_depth"),
            "decoding": self.server._decoders.ahead(Lane("nobody")).items,
            "calls": admission.calls.held.images,
            "lanes of calls": len(admission.calls),
            "streams": admission.streams.held.images,
            "uploads": self.server._ports._access.uploads._held != {},
            "work": self.gauge("glimpse_decoding_pixels_in_flight"),
            "lanes of images": len(admission._all),
            "bulk": admission._bulk.held.images,
            "waiting": admission._waits.total(),
        }

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes about by itself."""
        end = time.monotonic() + LONG
        while not condition():
            assert time.monotonic() < end, "it did not come about"
            time.sleep(0.005)

    async def _life(self) -> None:
        try:
            stop = asyncio.Event()
            self.loop = loop = asyncio.get_running_loop()
            self._stop = lambda: loop.call_soon_threadsafe(stop.set)
            self.server = app.Server(self.settings)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self.server._ports, "open", partial(self._open, self.server._ports.open))
                await self.server.run(stop)
        finally:
            self._ended.set()

    async def _open(self, open_ports: Callable[[], Awaitable[Bound]]) -> Bound:
        """Have the ports opened, and keep which of the free ones they are."""
        self._bound = await open_ports()
        return self._bound

    def _load(
        self, source: ModelSource, options: LoadOptions, observe: Callable[[str, str], Observer], **_: object
    ) -> LoadedModel:
        bundle = sources.resolve(source)
        batcher = Batcher(
            self.network,
            input_shape=bundle.input_shape,
            batch_sizes=self._batch_sizes,
            capacity=options.max_images_in_flight,
            observer=observe(bundle.name, bundle.version),
            outputs=frozenset({PROBABILITIES, LOGITS}),  # as every runtime has them
        )
        batcher.start()
        return LoadedModel(
            bundle=bundle,
            network=NetworkSummary("", (), 0, 0),
            runtime="held",
            device="cpu",
            precision="float32",
            batch_sizes=self._batch_sizes,
            batcher=batcher,
        )

    def _decode(self, image: domain.Image, recipe: Recipe, limits: ImageLimits) -> Prepared:
        return self.decoding(image, recipe, limits)
