"""What of the requests is copied for another version, and how its answers compare."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

from glimpse.models.outputs import PROBABILITIES
from glimpse.server import domain
from glimpse.server.access.call_context import CallContext
from glimpse.server.domain import (
    ClassChoice,
    Classification,
    ClassifyRequest,
    ImageResult,
    Prediction,
    RawImage,
    Timing,
)
from glimpse.server.errors import (
    OverloadedError,
    Reason,
)
from glimpse.server.repository import copies as copies_module
from glimpse.server.repository import traffic as traffic_module
from glimpse.server.repository.rollout import Kind
from tests.server.traffic_scene import CALLER, NAMES, PHOTO, Scene, run


def test_a_copy_for_which_a_sleeping_version_gets_no_memory_is_dropped() -> None:
    class Asleep:
        asleep, trouble = True, ""

        async def wake(self, deadline: float | None) -> None:
            assert deadline is not None
            raise OverloadedError(Reason.MEMORY_FULL, "sleeps", retry_after=1.0)

    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        made.models["2"] = dataclasses.replace(made.models["2"], sleep=Asleep())
        made.registry.put(made.models["2"])
        await made.classify()
        await made.until(lambda: shadow.comparison.dropped == 1)
        assert shadow.new.failed == 0

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


@pytest.mark.parametrize("chosen_by", ["request", "model", "server"])
def test_the_classes_that_may_answer_are_the_same_for_a_copy(chosen_by: str) -> None:
    """Both versions say class 0; among those that may answer, both say class 3 and give it all that these have.

    What the other version would answer with by default does not count.
    """
    choice = ClassChoice(allow=("class 3",))

    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        made.traffic._classes = choice if chosen_by == "server" else ClassChoice(allow=("class 5",))
        if chosen_by == "model":
            made.load("1", NAMES, choice)
        made.load("2", NAMES, ClassChoice(allow=("class 7",)))
        first = Prediction(3, "class 3", "", 1.0)

        async def compute(request: ClassifyRequest) -> Classification:
            model = made.registry.resolve(request.model)
            return Classification(model.identity, (ImageResult(Timing(), (first,)),), model.bundle.labels)

        request = ClassifyRequest((PHOTO,), classes=choice if chosen_by == "request" else None)
        await made.traffic.classify(request, CallContext("", "", ""), CALLER, compute)
        await made.until(lambda: shadow.comparison.images + shadow.new.failed == 1)
        assert (shadow.comparison.agreement, shadow.comparison.mean_difference) == (1, 0)

    run(do)


def test_an_answer_that_became_a_group_is_not_compared() -> None:
    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        group, one = Prediction(0, "animals", "", 1.0, is_group=True), Prediction(0, "class 0", "", 0.9)

        async def compute(request: ClassifyRequest) -> Classification:
            model = made.registry.resolve(request.model)
            results = tuple(ImageResult(Timing(), (each,)) for each in (group, one))
            return Classification(model.identity, results, model.bundle.labels)

        await made.traffic.classify(ClassifyRequest((PHOTO, PHOTO)), CallContext("", "", ""), CALLER, compute)
        await made.until(lambda: shadow.comparison.images == 1)
        assert shadow.comparison.agreement == 1
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


def test_only_raw_images_for_which_there_is_room_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their pixels lie in the message of the request, which nobody is to keep."""
    apart = domain.apart
    copied = list[domain.Image]()
    monkeypatch.setattr(copies_module, "_MOST_BYTES", 5000)

    def noted(image: domain.Image) -> domain.Image:
        copied.append(image)
        return apart(image)

    monkeypatch.setattr(traffic_module, "apart", noted)
    raw = RawImage(32, 32, memoryview(bytes(3072)))

    async def do(made: Scene) -> None:
        shadow = made.roll_out(Kind.SHADOW)
        made.networks["2"].go.clear()
        request = ClassifyRequest((raw,) * 3)
        await made.traffic.classify(request, CallContext("", "", ""), CALLER, made.compute)
        assert (len(copied), shadow.comparison.dropped) == (1, 2)
        (waiting,) = made.copies._waiting
        assert isinstance(waiting.image.data, bytes)
        made.networks["2"].go.set()
        await made.until(lambda: shadow.comparison.images == 1)

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
