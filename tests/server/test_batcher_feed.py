"""The batcher whose images come by the batch: asked for before each batch, and answered all at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import PROBABILITIES, Outputs
from glimpse.server.batching.batcher import Batcher
from glimpse.server.batching.feed import Given
from glimpse.server.batching.waiting import Waiting
from glimpse.server.errors import OverloadedError, Reason, ServiceError, UnavailableError
from glimpse.server.fair_queue import Lane
from tests.server.fake_executor import SHAPE, WAIT, Observed


class Image(Waiting):
    """One that is not there but for its value."""

    def __init__(self, value: int, lane: str = "a") -> None:
        self.value, self.gone, self.looked_at = value, False, 0
        self.lane, self.deadline, self.enqueued = Lane(lane), None, 0.0
        self.outputs = frozenset({PROBABILITIES})
        self.error: ServiceError | None = None

    def cancelled(self) -> bool:
        self.looked_at += 1
        return self.gone

    def begin(self) -> bool:
        return not self.gone

    def refuse(self, error: ServiceError) -> None:
        self.error = error


class Feed:
    """Has images to be pulled, and keeps what it is given."""

    def __init__(self) -> None:
        self.coming: list[Image] = []
        self.given: list[list[tuple[int, int]]] = []  # value and answer, a batch each
        self.idled, self.gave = threading.Semaphore(0), threading.Semaphore(0)
        self.batcher: Batcher | None = None

    def pull(self, *, wake: bool) -> None:
        images, self.coming = self.coming, []
        if images and self.batcher is not None:
            self.batcher.put(images, wake=wake)

    def idle(self) -> None:
        self.idled.release()

    def gather(self, batch: Sequence[Waiting], staging: NDArray[np.uint8]) -> Sequence[Waiting]:
        rows = sorted([each for each in batch if isinstance(each, Image)], key=lambda image: -image.value)
        for row, image in enumerate(rows):
            staging[row] = image.value
        return rows

    def give(self, given: Given) -> None:
        found: list[tuple[int, int]] = []
        for image, outputs in zip(given.images, given.computed.rows, strict=True):
            assert isinstance(image, Image)
            assert outputs is not None
            found.append((image.value, int(outputs[PROBABILITIES][0])))
        self.given.append(found)
        self.gave.release()


class Network:
    """Answers each image with its first pixel's value, when it is let to."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        self.begun.release()
        assert self.go.acquire(timeout=WAIT)
        return {name: pixels[:, 0, 0, :1].astype(np.float32) for name in outputs}


class Scene:
    def __init__(self, *, capacity: int = 64, sizes: tuple[int, ...] = (1, 2, 4)) -> None:
        self.network, self.feed, self.observed = Network(), Feed(), Observed()
        self.batcher = Batcher(
            self.network, input_shape=SHAPE, batch_sizes=sizes, capacity=capacity, observer=self.observed
        )
        self.feed.batcher = self.batcher
        self.batcher.feed_from(self.feed)
        self.batcher.start()

    def begun(self) -> None:
        assert self.network.begun.acquire(timeout=WAIT)

    def gave(self) -> None:
        assert self.feed.gave.acquire(timeout=WAIT)

    def close(self) -> None:
        self.network.go.release(1000)
        assert self.batcher.close(WAIT)


def test_images_that_came_during_a_batch_are_pulled_for_the_next_one() -> None:
    """Without anybody waking a thread for them."""
    scene = Scene()
    scene.batcher.put([Image(1)])
    scene.begun()
    assert scene.batcher.busy
    scene.feed.coming = [Image(2), Image(3), Image(4)]
    scene.network.go.release()
    scene.begun()
    scene.network.go.release()
    scene.gave()
    scene.gave()
    scene.close()
    assert scene.feed.given == [[(1, 1)], [(4, 4), (3, 3), (2, 2)]]


def test_answers_follow_the_order_in_which_a_batch_was_gathered() -> None:
    scene = Scene()
    scene.batcher.put([Image(value) for value in (5, 9, 7)])
    scene.begun()
    scene.network.go.release()
    scene.gave()
    scene.close()
    assert scene.feed.given == [[(9, 9), (7, 7), (5, 5)]]


def test_a_feed_is_told_when_there_is_nothing_to_compute() -> None:
    scene = Scene()
    for _ in range(2):  # both threads begin with nothing to do
        assert scene.feed.idled.acquire(timeout=WAIT)
    scene.batcher.put([Image(1)])
    scene.begun()
    assert not scene.feed.idled.acquire(blocking=False)
    scene.network.go.release()
    assert scene.feed.idled.acquire(timeout=WAIT)
    scene.close()


def test_of_many_that_are_put_at_once_those_without_room_are_refused() -> None:
    scene = Scene(capacity=2, sizes=(1,))
    scene.batcher.put([Image(1)])
    scene.begun()
    scene.batcher.put([Image(0)])  # gathered ahead
    while scene.batcher.depth():
        threading.Event().wait(0.001)
    gone, *rest = images = [Image(value) for value in (2, 3, 4, 5)]
    gone.gone = True
    scene.batcher.put(images)
    assert [image.error for image in images[:3]] == [None] * 3  # one that was cancelled made room
    assert isinstance(rest[-1].error, OverloadedError)
    assert rest[-1].error.reason is Reason.QUEUE_FULL
    assert scene.observed.cancelled_images == 1
    scene.close()


def test_a_full_queue_is_looked_through_once_for_all_that_come_at_once() -> None:
    """Not for each of them, which would take longest where there is most to do."""
    scene = Scene(capacity=2, sizes=(1,))
    scene.batcher.put([Image(1)])
    scene.begun()
    scene.batcher.put([Image(0)])  # gathered ahead
    while scene.batcher.depth():
        threading.Event().wait(0.001)
    waiting = Image(2)
    scene.batcher.put([waiting, *(Image(value) for value in range(100))])
    assert waiting.looked_at == 1
    late = [Image(value) for value in range(100)]
    scene.batcher.put(late)
    assert waiting.looked_at == 2
    assert all(isinstance(image.error, OverloadedError) for image in late)
    scene.close()


def test_one_that_is_closed_refuses_all_that_are_put() -> None:
    scene = Scene()
    scene.close()
    images = [Image(1), Image(2)]
    scene.batcher.put(images)
    assert all(isinstance(image.error, UnavailableError) for image in images)


def test_callers_that_wait_are_counted_once_each() -> None:
    scene = Scene(sizes=(1,))
    scene.batcher.put([Image(1)])
    scene.begun()
    scene.batcher.put([Image(2), Image(3, "b"), Image(4, "b"), Image(5, "c")])
    while scene.batcher.depth() > 3:  # one is gathered ahead
        threading.Event().wait(0.001)
    assert scene.batcher.parties() == 2
    scene.close()
