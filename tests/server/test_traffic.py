"""Which version answers a request, and what is copied: real queues and decoders, networks of the test's own."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models import bundle
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.labels import ClassLabel
from glimpse.models.outputs import LOGITS, PROBABILITIES, Outputs
from glimpse.models.spec import NetworkSummary
from glimpse.server.access.call_context import CallContext
from glimpse.server.access.call_metadata import read_metadata
from glimpse.server.batching.batcher import Batcher
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.decoding.where import Decoding
from glimpse.server.domain import (
    Caller,
    ClassChoice,
    Classification,
    ClassifyRequest,
    ImageResult,
    ModelSelector,
    Prediction,
    RawImage,
    Timing,
)
from glimpse.server.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    Reason,
)
from glimpse.server.fair_queue import Lane
from glimpse.server.metrics import Metrics
from glimpse.server.registry import LoadedModel, ModelRegistry
from glimpse.server.repository import copies as copies_module
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

    def load(self, version: str, names: list[str]) -> None:
        """Another model in the place of a version."""
        model = self.models[version] = self._load(version, names)
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

    async def classify_as(self, request: ClassifyRequest, *predictions: Prediction) -> None:
        """Have a request for one image answered like this by the usual version."""

        async def compute(asked: ClassifyRequest) -> Classification:
            model = self.registry.resolve(asked.model)
            return Classification(model.identity, (ImageResult(Timing(), predictions),), model.bundle.labels)

        await self.traffic.classify(request, CallContext("", "", ""), CALLER, compute)

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


def test_only_requests_that_name_no_version_are_divided() -> None:
    async def do(made: Scene) -> None:
        assert not made.traffic.divided(ModelSelector())
        made.roll_out(Kind.CANARY)
        assert made.traffic.divided(ModelSelector())
        assert made.traffic.divided(ModelSelector("cifar"))
        assert not made.traffic.divided(ModelSelector("cifar", "1"))
        assert not made.traffic.divided(ModelSelector("cifar", "stable"))
        assert not made.traffic.divided(ModelSelector("other"))

    run(do)


def test_a_canary_that_is_not_loaded_gets_nothing() -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY)
        assert await made.classify() == "2"
        made.registry.take("cifar", "2")
        assert await made.classify() == "1"
        assert (canary.new.answered, canary.new.failed, canary.usual.answered) == (1, 0, 1)

    run(do)


def test_what_only_the_canary_refuses_is_answered_and_counts_as_its_error() -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY, max_error_rate=0.1, min_requests=3)
        made.errors["2"] = InvalidRequestError(Reason.TOP_K_OUT_OF_RANGE, "", field="")
        assert [await made.classify() for _ in range(3)] == ["1", "1", "1"]
        assert canary.new.failed == 3
        assert "3 of its last 3 requests failed" in canary.terms.rolled_back
        assert made.answered_by == ["2", "1"] * 3
        assert not made.traffic.divided(ModelSelector())

    run(do)


def test_what_both_versions_refuse_is_the_callers_error() -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY, max_error_rate=0.0, min_requests=1)
        made.errors |= dict.fromkeys("12", InvalidRequestError(Reason.TOP_K_OUT_OF_RANGE, "", field=""))
        with pytest.raises(InvalidRequestError):
            await made.classify()
        assert (canary.new.failed, canary.usual.failed, canary.running) == (0, 0, True)

    run(do)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (InternalError(""), True),
        (DeadlineExceededError(""), True),
        (ZeroDivisionError(), True),
        (OverloadedError(Reason.QUEUE_FULL, "", retry_after=1.0), False),
    ],
    ids=lambda each: type(each).__name__,
)
def test_errors_of_the_server_roll_a_canary_back(error: Exception, *, counts: bool) -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY, max_error_rate=0.02, min_requests=2)
        made.errors["2"] = error
        for _ in range(2):
            with pytest.raises(type(error)):
                await made.classify()
        assert canary.running is not counts
        assert canary.new.failed == 2 * counts
        if counts:
            made.rollouts.put("cifar", Kind.SHADOW, Terms("2", 0.1), "1")  # so that it is divided at all
            assert await made.classify() == "1"

    run(do)


@pytest.mark.parametrize(("left", "failed"), [(-1.0, 1), (LONG, 0), (None, 0)])
def test_a_deadline_that_passes_counts_and_a_caller_who_leaves_does_not(left: float | None, failed: int) -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY)
        made.errors["2"] = asyncio.CancelledError()
        caller = Caller(Lane("somebody"), None if left is None else time.monotonic() + left)
        with pytest.raises(asyncio.CancelledError):
            await made.classify(caller=caller)
        assert canary.new.failed == failed

    run(do)


def test_a_copy_is_compared_by_the_name_of_the_class() -> None:
    """The other version may have its classes in another order."""

    async def do(made: Scene) -> None:
        made.networks["2"].first, made.networks["2"].probability = 9, 0.7
        made.load("2", NAMES[::-1])
        shadow = made.roll_out(Kind.SHADOW)
        assert await made.classify(images=2) == "1"
        await made.until(lambda: shadow.comparison.images == 2)
        assert shadow.comparison.agreement == 1
        assert shadow.comparison.mean_difference == pytest.approx(0.2, abs=1e-6)
        assert (shadow.new.answered, shadow.usual.answered) == (2, 2)

    run(do)


def test_a_class_that_the_other_version_lacks_has_no_probability_there() -> None:
    async def do(made: Scene) -> None:
        made.load("2", ["another", *NAMES[1:]])
        shadow = made.roll_out(Kind.SHADOW)
        await made.classify()
        await made.until(lambda: shadow.comparison.images == 1)
        assert shadow.comparison.agreement == 0
        assert shadow.comparison.mean_difference == pytest.approx(0.9)

    run(do)


def test_probabilities_that_are_asked_for_as_numbers_are_compared_too() -> None:
    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        values = np.linspace(0, 1, 10, dtype=np.float32)

        async def compute(request: ClassifyRequest) -> Classification:
            model = made.registry.resolve(request.model)
            results = (ImageResult(Timing(), outputs={PROBABILITIES: values}), ImageResult(Timing()))
            return Classification(model.identity, results, model.bundle.labels)

        call = CallContext("", "", "")
        await made.traffic.classify(ClassifyRequest((PHOTO, PHOTO)), call, CALLER, compute)
        await made.until(lambda: shadow.comparison.images == 1)  # nothing is known of the other one
        assert shadow.comparison.agreement == 0
        assert shadow.comparison.mean_difference == pytest.approx(1 - 0.1 / 9)

    run(do)


def test_a_copy_is_answered_by_the_classes_that_may_answer() -> None:
    """Else the other version names one that may not, and seems to disagree."""

    async def do(made: Scene) -> None:
        made.networks["2"].first = 1  # without the choice
        shadow = made.roll_out(Kind.SHADOW)
        request = ClassifyRequest((PHOTO,), classes=ClassChoice(("class 3",)))
        await made.classify_as(request, Prediction(3, "class 3", "", 1.0))
        await made.until(lambda: shadow.comparison.images == 1)
        assert shadow.comparison.agreement == 1
        assert shadow.comparison.mean_difference == 0

    run(do)


def test_of_an_answer_with_a_group_the_first_class_is_compared() -> None:
    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        group, first = Prediction(0, "some", "", 0.95, is_group=True), Prediction(0, "class 0", "", 0.8)
        request = ClassifyRequest((PHOTO,), roll_up=0.9)
        await made.classify_as(request, group)  # which does not say it
        await made.classify_as(request, group, first)
        await made.until(lambda: shadow.comparison.images == 1)
        assert shadow.comparison.agreement == 1
        assert shadow.comparison.mean_difference == pytest.approx(0.1, abs=1e-6)
        assert made.networks["2"].images == 1

    run(do)


def test_a_share_of_the_requests_is_copied() -> None:
    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW, share=0.4)
        for made.sample in (0.39, 0.41, 0.0, 0.99):
            await made.classify()
        await made.until(lambda: shadow.comparison.images == 2)
        assert made.networks["2"].images == 2

    run(do)


def test_a_canary_is_compared_only_where_an_agreement_is_stated() -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY)
        assert await made.classify() == "2"
        canary = made.roll_out(Kind.CANARY, min_agreement=0.9, min_requests=2)
        made.networks["2"].first = 3
        assert [await made.classify(), await made.classify()] == ["2", "2"]
        await made.until(lambda: bool(canary.terms.rolled_back))
        assert made.networks["1"].images == 2
        assert "It names the first class of version 1 for 0 of the last 2 images" in canary.terms.rolled_back

    run(do)


def test_a_shadow_that_fails_or_hangs_costs_no_caller_anything() -> None:
    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        made.networks["2"].error = MemoryError("of the other version")
        assert await made.classify() == "1"
        await made.until(lambda: shadow.new.failed == 1)
        made.networks["2"].error = None
        made.networks["2"].go.clear()
        assert [await made.classify() for _ in range(5)] == ["1"] * 5
        assert shadow.comparison.images == 0
        made.networks["2"].go.set()
        await made.until(lambda: shadow.comparison.images == 5)
        assert shadow.new.failed == 1

    run(do)


def test_more_copies_than_may_wait_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies_module, "_MOST_BYTES", 5 * len(PHOTO.data))

    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        made.networks["2"].go.clear()
        assert await made.classify(images=8) == "1"  # of which one is on its way soon, and holds its bytes
        assert shadow.comparison.dropped == 3
        made.networks["2"].go.set()
        await made.until(lambda: shadow.comparison.images == 5)
        await made.classify(images=5)
        await made.until(lambda: shadow.comparison.images == 10)
        assert shadow.comparison.dropped == 3
        name = "glimpse_rollout_dropped_images_total"
        labels = {"model": "cifar", "version": "2", "rollout": "shadow"}
        assert made.metrics.registry.get_sample_value(name, labels) == 3

    run(do)


def test_copies_wait_while_the_server_is_busy_and_are_dropped_after_a_while() -> None:
    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        usual, queue = made.networks["1"], made.models["1"].batcher
        pixels = np.zeros((32, 32, 3), np.uint8)
        usual.seconds = 1.0
        await asyncio.wrap_future(queue.submit(pixels))  # so that it is known how long a batch takes
        usual.go.clear()
        real = [queue.submit(pixels) for _ in range(4)]
        await made.until(lambda: 0 < queue.depth() < 4)
        assert await made.classify() == "1"
        await asyncio.sleep(0.05)
        assert (made.networks["2"].images, shadow.comparison.dropped) == (0, 0)
        made.clock.now += copies_module._PATIENCE + 1
        await made.until(lambda: shadow.comparison.dropped == 1)
        assert await made.classify() == "1"
        usual.seconds = 0.0
        usual.go.set()
        await asyncio.gather(*map(asyncio.wrap_future, real))
        await made.until(lambda: shadow.comparison.images == 1)
        assert (made.networks["2"].images, shadow.comparison.dropped) == (1, 1)

    run(do)


def test_a_copy_for_a_version_that_is_gone_is_dropped_and_no_error() -> None:
    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        made.registry.take("cifar", "2")
        await made.classify()
        await made.until(lambda: shadow.comparison.dropped == 1)
        assert shadow.new.failed == 0

    run(do)


def test_a_version_waits_for_its_copy_before_it_is_closed() -> None:
    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        made.networks["2"].go.clear()
        await made.classify()
        await made.until(lambda: made.models["2"].uses._number == 1)
        model = made.registry.take("cifar", "2")
        assert model is not None
        retiring = asyncio.create_task(made.registry.retire(model))
        await asyncio.sleep(0)
        assert not retiring.done()
        made.networks["2"].go.set()
        await retiring
        await made.until(lambda: shadow.comparison.images == 1)

    run(do)


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ([], ""),
        ([("x-request-id", "one")], "one"),
        ([("x-request-id", "one"), ("glimpse-key", "user 7")], "user 7"),
        ([("glimpse-key", "user 7"), ("glimpse-key", "user 8")], "user 7"),
        ([("glimpse-key", "x" * 129)], ""),
        ([("glimpse-key", "a\nb"), ("x-request-id", "one")], "one"),
    ],
)
def test_the_key_of_a_call_is_what_it_says_else_its_id(metadata: list[tuple[str, str]], key: str) -> None:
    call, _ = read_metadata(metadata, "", "ipv4:192.0.2.1:40000", None)
    assert call.key == key
