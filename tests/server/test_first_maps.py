"""The first class maps of a model: what computes them is made ready beside the batches, not by a thread of theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from glimpse.models.outputs import CLASS_MAPS, LOGITS, PROBABILITIES
from glimpse.server.batching.batch_queue import Answer, Slot
from glimpse.server.errors import InternalError, OverloadedError, UnavailableError
from glimpse.server.fair_queue import NO_LANE
from glimpse.server.loading.loading import load_model
from glimpse.server.loading.options import LoadOptions, model_source
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.settings import Settings
from tests.server.fake_executor import SECOND, SHAPE, WAIT, Bench, benches, value

EXPLAINED = frozenset({PROBABILITIES, CLASS_MAPS})
OUTPUTS = frozenset({PROBABILITIES, LOGITS, CLASS_MAPS})


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    with benches() as build:
        yield build


class Prepared:
    """Is made ready when it is let to."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.fails = False

    def __call__(self) -> None:
        self.begun.release()
        assert self.go.acquire(timeout=WAIT)
        if self.fails:
            raise RuntimeError("no room")


def maps_of(future: Future[Answer]) -> float:
    return float(future.result(WAIT).outputs[CLASS_MAPS][0])


def test_others_are_answered_while_the_first_maps_are_made_ready(make: Callable[..., Bench]) -> None:
    prepared = Prepared()
    bench = make(outputs=OUTPUTS, prepare_maps=prepared)
    first, second = bench.submit(1, outputs=EXPLAINED), bench.submit(2, outputs=EXPLAINED)
    assert prepared.begun.acquire(timeout=WAIT)
    ordinary = bench.submit(3)
    bench.release()
    assert value(ordinary) == 3
    assert not first.done()
    assert (bench.batcher.depth(), bench.batcher.ready()) == (2, 0)
    assert bench.model.asked == [frozenset({PROBABILITIES})]
    prepared.go.release()
    for _ in range(2):
        bench.release()
    assert [maps_of(first), maps_of(second)] == [1 + SECOND, 2 + SECOND]
    assert bench.batcher.depth() == 0
    third = bench.submit(4, outputs=EXPLAINED)
    bench.release()
    assert maps_of(third) == 4 + SECOND
    assert not prepared.begun.acquire(blocking=False), "once is enough"


def test_images_of_other_processes_wait_for_the_first_maps_too(make: Callable[..., Bench]) -> None:
    prepared = Prepared()
    bench = make(outputs=OUTPUTS, prepare_maps=prepared)
    explained, ordinary = (
        Slot(np.full(SHAPE, number, np.uint8), NO_LANE, None, 0.0, Future(), outputs)
        for number, outputs in ((1, EXPLAINED), (2, frozenset({PROBABILITIES})))
    )
    bench.batcher.put([explained, ordinary])
    bench.release()
    assert value(ordinary.future) == 2
    prepared.go.release()
    bench.release()
    assert maps_of(explained.future) == 1 + SECOND


def test_maps_that_cannot_be_made_ready_fail_those_who_wait_alone(make: Callable[..., Bench]) -> None:
    """The next one who asks has it tried again."""
    prepared = Prepared()
    prepared.fails = True
    bench = make(outputs=OUTPUTS, prepare_maps=prepared)
    first = bench.submit(1, outputs=EXPLAINED)
    prepared.go.release()
    with pytest.raises(InternalError):
        first.result(WAIT)
    ordinary = bench.submit(2)
    bench.release()
    assert value(ordinary) == 2
    prepared.fails = False
    again = bench.submit(3, outputs=EXPLAINED)
    prepared.go.release()
    bench.release()
    assert maps_of(again) == 3 + SECOND


def test_who_waits_for_the_first_maps_takes_room_and_is_answered_at_the_end(make: Callable[..., Bench]) -> None:
    prepared = Prepared()
    bench = make(outputs=OUTPUTS, prepare_maps=prepared, capacity=2)
    waiting = [bench.submit(number, outputs=EXPLAINED) for number in (1, 2)]
    with pytest.raises(OverloadedError, match="2 images are in the queue"):
        bench.submit(3)
    assert not bench.batcher.close(0)
    prepared.go.release()
    for _ in range(2):
        bench.release()
    assert [maps_of(each) for each in waiting] == [1 + SECOND, 2 + SECOND]
    assert bench.batcher.close(WAIT)


def test_who_leaves_before_the_first_maps_are_there_takes_no_room(make: Callable[..., Bench]) -> None:
    prepared = Prepared()
    bench = make(outputs=OUTPUTS, prepare_maps=prepared, capacity=2)
    for number in (1, 2):
        assert bench.submit(number, outputs=EXPLAINED).cancel()
    ordinary = bench.submit(3)
    assert bench.observed.cancelled_images == 2
    for number in (4, 5, 6):
        explained = Slot(np.full(SHAPE, number, np.uint8), NO_LANE, None, 0.0, Future(), EXPLAINED)
        bench.batcher.put([explained])
        assert explained.future.cancel(), "it was refused"
    bench.release()
    assert value(ordinary) == 3
    prepared.go.release()


def test_where_no_thread_may_begin_the_first_maps_are_made_in_a_batch(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(outputs=OUTPUTS, prepare_maps=Prepared())

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError(f"can't start new thread {thread.name}")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refused)
        explained = bench.submit(1, outputs=EXPLAINED)
    bench.release()
    assert maps_of(explained) == 1 + SECOND
    assert bench.batcher.depth() == 0


def test_first_maps_that_hang_fail_those_who_wait_and_nobody_else(make: Callable[..., Bench]) -> None:
    """However late they come, they are there from then on."""
    prepared = Prepared()
    bench = make(outputs=OUTPUTS, prepare_maps=prepared, stuck_seconds=5.0)
    waiting = bench.submit(1, outputs=EXPLAINED)
    assert prepared.begun.acquire(timeout=WAIT)
    bench.clock.now += 5.0
    assert bench.batcher.trouble() is None
    assert not waiting.done()
    bench.clock.now += 1.0
    for each in (waiting, bench.submit(2, outputs=EXPLAINED)):
        assert bench.batcher.trouble() is None, "the device answers others"
        with pytest.raises(UnavailableError, match=r"class maps has been made ready for 6 s\."):
            each.result(0)
    ordinary = bench.submit(3)
    bench.release()
    assert value(ordinary) == 3
    prepared.go.release()
    explained = bench.submit(4, outputs=EXPLAINED)
    bench.release()
    assert maps_of(explained) == 4 + SECOND


def test_threads_do_not_rest_while_an_image_waits_for_the_first_maps(make: Callable[..., Bench]) -> None:
    """A batcher whose threads have ended takes itself to be closed, with images that nobody has answered."""
    prepared = Prepared()
    bench = make(outputs=OUTPUTS, prepare_maps=prepared, idle_seconds=0.001)
    explained = bench.submit(1, outputs=EXPLAINED)
    assert prepared.begun.acquire(timeout=WAIT)
    assert not bench.batcher.close(0.1)
    prepared.go.release()
    bench.release()
    assert maps_of(explained) == 1 + SECOND
    assert bench.batcher.close(WAIT)


def test_openvino_compiles_the_first_maps_beside_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a model is loaded; what computes batches finds them ready."""
    compiled = list[str]()
    compile_maps = OpenVINORuntime.prepare_maps

    def noted(runtime: OpenVINORuntime) -> None:
        compiled.append(threading.current_thread().name)
        compile_maps(runtime)

    monkeypatch.setattr(OpenVINORuntime, "prepare_maps", noted)
    chosen: dict[str, Any] = {"runtime": "openvino", "weights": "cifar10", "golden": "off"}
    settings = Settings(**chosen)
    loaded = load_model(model_source(settings), LoadOptions.of(settings), Metrics().of)
    try:
        pixels = np.zeros(loaded.bundle.recipe.pixels_shape, np.uint8)
        for _ in range(2):
            answer = loaded.batcher.submit(pixels, outputs=EXPLAINED).result(WAIT)
            assert answer.outputs.keys() == EXPLAINED
    finally:
        loaded.close(WAIT)
    assert compiled == ["class maps"]
