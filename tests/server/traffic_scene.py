"""A registry with two versions of a model: real queues and decoders, networks of the test's own."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from glimpse.models import bundle
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.labels import ClassLabel
from glimpse.models.outputs import LOGITS, PROBABILITIES, Outputs
from glimpse.models.spec import NetworkSummary
from glimpse.server.access.call_context import CallContext
from glimpse.server.batching.batcher import Batcher
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.decoding.where import Decoding
from glimpse.server.domain import (
    Caller,
    ClassChoice,
    Classification,
    ClassifyRequest,
    ImageResult,
    Prediction,
    RawImage,
    Timing,
)
from glimpse.server.fair_queue import Lane
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.registry import ModelRegistry
from glimpse.server.repository.copies import Copies
from glimpse.server.repository.rollout import Kind, Rollout, Rollouts, Terms
from glimpse.server.repository.traffic import Traffic
from tests.server.fake_executor import FakeClock, Observed

LONG = 60.0  # seconds; until something is called hung

NAMES = [f"class {number}" for number in range(10)]

PHOTO = RawImage(32, 32, bytes(32 * 32 * 3))

CALLER = Caller(Lane("somebody"))


class Network:
    """Gives all images the same probabilities, or fails, when the test lets it."""

    def __init__(self, clock: FakeClock, first: int = 0, probability: float = 0.9) -> None:
        self.clock, self.first, self.probability = clock, first, probability
        self.seconds = 0.0  # that a batch takes, on the clock
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()
        self.images = 0

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        assert self.go.wait(LONG)
        self.clock.now += self.seconds
        if self.error is not None:
            raise self.error
        self.images += len(pixels)
        values = np.full((len(pixels), 10), (1 - self.probability) / 9, np.float32)
        values[:, self.first] = self.probability
        return dict.fromkeys(outputs, values)


class Scene:
    """Two versions of a model, of which 1 is stable."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics, self.registry = Metrics(), ModelRegistry()
        self.networks = {version: Network(self.clock) for version in "12"}
        self.models = {version: self._load(version, NAMES) for version in "12"}
        for model in self.models.values():
            self.registry.put(model)
        self.registry.alias("cifar", {"stable": "1"})
        self.rollouts = Rollouts(self.metrics.rollouts, self.clock)
        self._decoders = DecodePool(1)
        limits = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20)
        self._decoding = Decoding(limits, in_processes=False, workers=1, memory_bytes=1 << 30, seconds=LONG)
        self.copies = Copies(self.registry, self.rollouts, self._decoders, self._decoding, clock=self.clock)
        self.sample = 0.5
        self.traffic = Traffic(self.registry, self.rollouts, self.copies, sample=lambda: self.sample)
        self.answered_by: list[str] = []
        self.errors: dict[str, BaseException] = {}  # that the pipeline raises, by version

    def load(self, version: str, names: list[str], choice: ClassChoice | None = None) -> None:
        """Another model in the place of a version; `choice`: its own classes that answer by default."""
        model = self.models[version] = dataclasses.replace(self._load(version, names), choice=choice)
        before = self.registry.put(model)
        assert before is not None
        before.close()

    def _load(self, version: str, names: list[str]) -> LoadedModel:
        of = bundle.read(bundle.EMBEDDED_DEFAULT)
        labels = tuple(map(ClassLabel, names))
        batcher = Batcher(
            self.networks[version],
            input_shape=of.input_shape,
            batch_sizes=(1,),
            outputs=frozenset({PROBABILITIES, LOGITS}),
            capacity=16,
            observer=Observed(),
            clock=self.clock,
        )
        batcher.start()
        return LoadedModel(
            bundle=dataclasses.replace(of, name="cifar", version=version, labels=labels),
            network=NetworkSummary("", (), 0, 0),
            runtime="held",
            device="cpu",
            precision="float32",
            batch_sizes=(1,),
            batcher=batcher,
        )

    def roll_out(self, kind: Kind, **terms: float) -> Rollout:
        self.rollouts.put("cifar", kind, Terms("2", **{"share": 1.0, **terms}), "1")  # type: ignore[arg-type]
        found = self.rollouts.of("cifar", kind)
        assert found is not None
        return found

    async def classify(self, *, images: int = 1, caller: Caller = CALLER) -> str:
        """The version that answers a request."""
        request = ClassifyRequest((PHOTO,) * images)
        assert self.traffic.divided(request.model)
        call = CallContext("", "", "ipv4:192.0.2.1:40000")
        return (await self.traffic.classify(request, call, caller, self.compute)).model.version

    async def compute(self, request: ClassifyRequest) -> Classification:
        """The pipeline: version 1 answers that the first class has 0.9."""
        model = self.registry.resolve(request.model)
        version = model.identity.version
        self.answered_by.append(version)
        if version in self.errors:
            raise self.errors[version]
        network = self.networks[version]
        first = Prediction(network.first, model.bundle.labels[network.first].label, "", network.probability)
        return Classification(
            model.identity, tuple(ImageResult(Timing(), (first,)) for _ in request.images), model.bundle.labels
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + LONG
        while not condition():
            assert time.monotonic() < end, "it did not come about"
            await asyncio.sleep(0.005)

    def close(self) -> None:
        for network in self.networks.values():
            network.go.set()
        for model in self.models.values():
            model.close()
        self._decoders.close()
        self._decoding.close()


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    running = asyncio.create_task(made.copies.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.to_thread(made.close)


def run(do: Callable[[Scene], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with scene() as made:
            await do(made)

    asyncio.run(asyncio.wait_for(all_of_it(), 5 * LONG))
