"""What the service cannot be faster than: its own decoder and its own runtime, without a service around them.

A worker (`python -m tools.bench.alone`): it reads `GLIMPSE_*` like the service, loads the model with the service's own
code, and runs the very function and the very object that the service would run, with as many threads.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.server import domain
from glimpse.server.app import Server
from glimpse.server.batching.batcher import Batcher
from glimpse.server.loading.loading import load_model
from glimpse.server.loading.options import LoadOptions, model_source
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.settings import Settings
from tools.bench import machine, photos
from tools.bench.worker import serve

_DISTINCT = 4  # batches that are computed in turn, so that none is always in the cache


class Alone:
    """The decoder and the runtime of a service, at hand."""

    def __init__(self) -> None:
        """Load the model that the environment names."""
        self._settings = Settings()  # type: ignore[call-arg]  # from the environment
        self._model = load_model(model_source(self._settings), LoadOptions.of(self._settings), Metrics().of)
        batcher = self._model.batcher
        assert isinstance(batcher, Batcher)
        device = batcher._device
        self._compute, self._compute_alone = device._compute, device._alone
        self._streams = batcher.streams.number
        self._prepare = asyncio.run(self._taken_from_a_server())
        self._pool = ThreadPoolExecutor(self._settings.decoders)
        self._images: list[domain.Image] = []

    async def _taken_from_a_server(self) -> Any:
        # Nowhere else is the function put together with its limits.
        return Server(self._settings)._service._pipeline._decoding

    def describe(self) -> dict[str, Any]:
        """What was loaded."""
        model = self._model
        return {
            "model": model.identity.name,
            "runtime": model.runtime,
            "device": model.device,
            "precision": model.precision,
            "batch_sizes": list(model.batch_sizes),
            "input_shape": list(model.bundle.input_shape),
            "decoders": self._settings.decoders,
        }

    def images(self, kind: str) -> int:
        """Take these images from now on: ``jpeg``, or ``raw`` of the network's size. Returns how many there are."""
        height, width, _ = self._model.bundle.input_shape
        if kind == "jpeg":
            self._images = [domain.EncodedImage(data) for data in photos.jpegs()]
        else:
            self._images = [domain.RawImage(height, width, data) for data in photos.pixels(height, width)]
        return len(self._images)

    def compute(self, batch: int, seconds: float) -> dict[str, float]:
        """The runtime, one batch after the other on each of its streams."""
        pixels = self._batches(batch)
        with _Measured() as measured, ThreadPoolExecutor(self._streams) as pool:
            end = time.monotonic() + seconds

            def work(_: int) -> int:
                done = 0
                for one in cycle(pixels):
                    self._compute(one, DEFAULT_OUTPUTS)
                    done += batch
                    if time.monotonic() >= end:
                        break
                return done

            measured.images = sum(pool.map(work, range(self._streams)))
        return measured.result()

    def decode(self, seconds: float) -> dict[str, float]:
        """Decode and pre-stem, in as many threads as the service has."""
        with _Measured() as measured:
            end = time.monotonic() + seconds

            def work(start: int) -> int:
                done = 0
                for image in cycle([*self._images[start:], *self._images[:start]]):
                    self._prepare(image, self._model.bundle.recipe)
                    done += 1
                    if time.monotonic() >= end:
                        break
                return done

            share = len(self._images) // self._settings.decoders
            measured.images = sum(self._pool.map(work, range(0, share * self._settings.decoders, share)))
        return measured.result()

    def together(self, batch: int, seconds: float) -> dict[str, float]:
        """Decoder threads and the runtime side by side, as in the service but with no RPC, queue or event loop.

        Not part of the limit: it tells how much of what is missing decoding and computing cost each other.
        """
        recipe, images = self._model.bundle.recipe, cycle(self._images)

        def fill(waiting: deque[Future[Any]]) -> None:
            while len(waiting) < 2 * batch:
                waiting.append(self._pool.submit(self._prepare, next(images), recipe))

        queues: list[deque[Future[Any]]] = [deque() for _ in range(self._streams)]
        for waiting in queues:
            fill(waiting)
        for one in [one for waiting in queues for one in waiting]:
            one.result()
        with _Measured() as measured, ThreadPoolExecutor(self._streams) as pool:
            end = time.monotonic() + seconds

            def work(waiting: deque[Future[Any]]) -> int:
                staging = np.zeros((batch, *self._model.bundle.input_shape), np.uint8)
                done = 0
                while time.monotonic() < end:
                    for row in range(batch):
                        staging[row] = waiting.popleft().result().pixels
                    fill(waiting)
                    self._compute(staging, DEFAULT_OUTPUTS)
                    done += batch
                # What it began with was prepared before; as much is prepared and left over at the end.
                for one in waiting:
                    one.result()
                return done

            measured.images = sum(pool.map(work, queues))
        return measured.result()

    def lone(self, count: int) -> dict[str, list[float]]:
        """One image after the other, alone on the machine: seconds of decoding and of computing each."""
        decoding, computing = [], []
        for _, image in zip(range(count), cycle(self._images), strict=False):
            begun = time.monotonic()
            pixels = self._prepare(image, self._model.bundle.recipe).pixels
            decoded = time.monotonic()
            self._compute_alone(pixels[np.newaxis], DEFAULT_OUTPUTS)
            decoding.append(decoded - begun)
            computing.append(time.monotonic() - decoded)
        return {"decode": decoding, "compute": computing}

    def _batches(self, batch: int) -> list[NDArray[np.uint8]]:
        recipe = self._model.bundle.recipe
        pixels = [self._prepare(image, recipe).pixels for image in self._images[: batch * _DISTINCT]]
        return [np.stack([pixels[(i * batch + row) % len(pixels)] for row in range(batch)]) for i in range(_DISTINCT)]


class _Measured:
    """Wall and CPU seconds of a stretch of this process, and how many images it was good for."""

    def __init__(self) -> None:
        self.images = 0
        self._wall = self._cpu = 0.0

    def __enter__(self) -> Self:
        self._wall, self._cpu = -time.monotonic(), -_cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall += time.monotonic()
        self._cpu += _cpu()

    def result(self) -> dict[str, float]:
        return {"images": self.images, "wall": self._wall, "cpu": self._cpu}


def _cpu() -> float:
    """CPU seconds of this process, and of those that decode for it."""
    return time.process_time() + machine.descendants_cpu_seconds(os.getpid())


def _jobs() -> dict[str, Callable[..., Any]]:
    alone = Alone()
    jobs = (alone.describe, alone.images, alone.compute, alone.decode, alone.together, alone.lone)
    return {job.__name__: job for job in jobs}


if __name__ == "__main__":
    serve(_jobs)
