"""Several models on one device: each has its share, and none waits long for a turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models.outputs import PROBABILITIES, Outputs
from glimpse.server.batching.batch_queue import Answer
from glimpse.server.batching.batcher import Batcher
from glimpse.server.batching.device import DeviceShare, SharedDevice, Turn
from glimpse.server.batching.streams import Streams
from glimpse.server.domain import BatchReport

LONG = 60.0  # seconds; until something is called hung


class Computing(threading.Thread):
    """Computes batches of one model without a pause, each of so many seconds by a clock of its own."""

    clock = threading.local()

    def __init__(self, share: DeviceShare, seconds: float, busy: Callable[[], bool], over: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self._share, self._seconds, self._busy, self._over = share, seconds, busy, over
        self.had = 0.0

    def run(self) -> None:
        self.clock.now = 0.0
        while not self._over():
            turn = self._share.turn()
            turn.begin()
            while not (self._busy() or self._over()):  # however busy the machine is, nobody's turn finds him absent
                time.sleep(0.0001)
            self.clock.now += self._seconds
            self.had += self._seconds
            turn.end()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 5.0)])
def test_each_of_three_models_has_its_weight_s_share_within_a_tenth(weights: tuple[float, ...]) -> None:
    device = SharedDevice(2, clock=lambda: float(Computing.clock.now))
    shares = [device.share(weight, batches=2) for weight in weights]
    threads: list[Computing] = []

    def busy() -> bool:
        return all(share.waiting for share in shares)

    def over() -> bool:
        return sum(each.had for each in threads) > 5.0

    for share, seconds in zip(shares, (0.001, 0.004, 0.016), strict=True):
        threads += [Computing(share, seconds, busy, over) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(LONG)
    had = [sum(each.had for each in threads[first : first + 3]) for first in (0, 3, 6)]
    wanted = [sum(had) * weight / sum(weights) for weight in weights]
    assert had == pytest.approx(wanted, rel=0.1)


def test_a_lone_caller_waits_for_the_next_batch_of_another_model_to_end() -> None:
    device = SharedDevice(2)
    large, small = device.share(batches=2), device.share(batches=2)

    def waiting(share: DeviceShare) -> tuple[Turn, threading.Thread]:
        turn = share.turn()
        thread = threading.Thread(target=turn.begin, daemon=True)
        thread.start()
        while not share.waiting:
            time.sleep(0.001)
        return turn, thread

    computing = [large.turn(), large.turn()]
    for each in computing:
        each.begin()
    for _ in range(30):
        later, of_large = waiting(large)  # who comes first does not matter
        turn, of_small = waiting(small)
        time.sleep(0.001)
        computing.pop(0).end()
        of_small.join(LONG)
        assert not of_small.is_alive()
        assert of_large.is_alive()
        turn.end()
        of_large.join(LONG)
        computing.append(later)


def test_a_model_that_had_nothing_to_do_has_no_claim_to_that_time() -> None:
    now = 0.0
    device = SharedDevice(1, clock=lambda: now)
    first, second = device.share(), device.share()

    def compute(share: DeviceShare) -> None:
        nonlocal now
        turn = share.turn()
        turn.begin()
        now += 1.0
        turn.end()

    for _ in range(100):
        compute(first)
    compute(second)
    assert second.had == pytest.approx(first.had, abs=1.0)


def test_a_lone_image_has_the_whole_device_only_where_nobody_else_computes() -> None:
    device = SharedDevice(4)
    one, other = device.share(batches=4), device.share(batches=4)
    turn, busy = one.turn(), other.turn()
    busy.begin()
    turn.begin()
    assert not turn.whole()
    turn.end()
    busy.end()
    turn.begin()
    assert turn.whole()
    waits = threading.Thread(target=busy.begin, daemon=True)
    waits.start()
    waits.join(0.05)
    assert waits.is_alive()  # it has all of it
    turn.end()
    waits.join(LONG)
    assert not waits.is_alive()
    busy.end()


def test_a_batch_that_takes_the_whole_device_is_not_passed_by_small_ones() -> None:
    device = SharedDevice(2)
    small, whole = device.share(batches=2), device.share(batches=1)
    first = small.turn()
    first.begin()
    waits = threading.Thread(target=whole.turn().begin, daemon=True)
    waits.start()
    while not whole.waiting:
        time.sleep(0.001)
    second = small.turn()
    passes = threading.Thread(target=second.begin, daemon=True)
    passes.start()
    passes.join(0.05)
    assert passes.is_alive()
    assert waits.is_alive()
    first.end()
    waits.join(LONG)
    assert not waits.is_alive()
    assert passes.is_alive()


def test_a_batch_that_hangs_keeps_others_from_the_device_until_it_is_given_up() -> None:
    now = 0.0
    device = SharedDevice(2, clock=lambda: now)
    hung, other = device.share(batches=1), device.share(batches=1)
    turn = hung.turn()
    turn.begin()
    waits = threading.Thread(target=other.turn().begin, daemon=True)
    waits.start()
    hung.give_up(10.0)
    waits.join(0.05)
    assert waits.is_alive()
    now = 11.0
    hung.give_up(10.0)
    waits.join(LONG)
    assert not waits.is_alive()
    turn.end()  # it comes back after all, and gives nothing back a second time
    assert device._free == 0
    assert not hung.active


def test_a_model_that_hangs_has_no_other_turn_before_its_batch_comes_back() -> None:
    """Its next batch would wait for the one that hangs, and keep the device from the others meanwhile."""
    now = 0.0
    device = SharedDevice(2, clock=lambda: now)
    hung, other = device.share(batches=1), device.share(batches=1)
    first, second, theirs = hung.turn(), hung.turn(), other.turn()
    first.begin()
    waits = threading.Thread(target=second.begin, daemon=True)
    waits.start()
    while not hung.waiting:
        time.sleep(0.001)
    now = 11.0
    hung.give_up(10.0)
    waits.join(0.05)
    assert waits.is_alive()
    theirs.begin()
    theirs.end()
    first.end()
    waits.join(LONG)
    assert not waits.is_alive()
    second.end()
    assert (device._free, hung.active) == (2, False)


def test_a_model_that_has_hung_is_not_made_to_wait_for_that_time() -> None:
    now = 0.0
    device = SharedDevice(2, clock=lambda: now)
    hung = device.share()
    turn = hung.turn()
    turn.begin()
    turn.whole()
    now = 1000.0
    hung.give_up(10.0)
    turn.end()
    assert (hung.had, device._free) == (0.0, 2)


class Seconds:
    """Adds up what a batcher computes."""

    def __init__(self) -> None:
        self.computed = 0.0
        self._lock = threading.Lock()

    def batch(self, report: BatchReport) -> None:
        assert report.ok
        with self._lock:
            self.computed += report.compute_seconds

    def expired(self, count: int) -> None: ...

    def cancelled(self, count: int) -> None: ...

    def halved(self) -> None: ...


class Timed:
    """Batchers of models that share a device, each batch of so many seconds by a clock of the test's.

    A batch ends once everybody who may is waiting for the next turn, so that it is nobody's luck who gets that.
    """

    def __init__(self, streams: int, *models: tuple[float, float]) -> None:
        """`models`: weight and seconds of a batch of each."""
        self._clock = threading.local()
        self.device = SharedDevice(streams, clock=lambda: float(getattr(self._clock, "now", 0.0)))
        self.shares = [self.device.share(weight, batches=streams) for weight, _ in models]
        self.had = [0.0] * len(models)
        self.batches: list[int] = []  # the models whose batches began, in that order
        self._lock, self._ending = threading.Lock(), threading.Lock()
        self._streams, self._ended = streams, 0
        self.over = threading.Event()
        self.patience = 10.0  # seconds of a batch for others to come; who has not by then does not
        self.batchers = [
            Batcher(
                self._compute(number, seconds),
                input_shape=(1, 1, 3),
                batch_sizes=(1, 2),
                capacity=10_000,
                observer=Seconds(),
                streams=Streams(streams),
                share=self.shares[number],
            )
            for number, (_, seconds) in enumerate(models)
        ]

    def _compute(self, number: int, seconds: float) -> Callable[[NDArray[np.uint8], frozenset[str]], Outputs]:
        def compute(pixels: NDArray[np.uint8], _: frozenset[str]) -> Outputs:
            with self._lock:
                self.batches.append(number)
            with self._ending:
                end = time.monotonic() + self.patience
                while not self.over.is_set() and time.monotonic() < end and not self.all_wait():
                    time.sleep(0.0001)
                self._ended += 1
            self._clock.now = float(getattr(self._clock, "now", 0.0)) + seconds
            with self._lock:
                self.had[number] += seconds
            return {PROBABILITIES: np.full((len(pixels), 2), 0.5, np.float32)}

        return compute

    def all_wait(self) -> bool:
        """Whether somebody has the place of the batch that ended before, and all models wait for the next."""
        return len(self.batches) - self._ended >= self._streams and all(share.waiting for share in self.shares)

    def run(self, seconds: float) -> list[float]:
        """Have all busy until so many seconds have been computed; what each has had."""
        pixels = np.zeros((1, 1, 3), np.uint8)
        futures = [each.submit(pixels) for each in self.batchers for _ in range(9_000)]
        for each in self.batchers:
            each.start()
        end = time.monotonic() + LONG
        while sum(self.had) < seconds:
            assert time.monotonic() < end
            time.sleep(0.001)
        had = list(self.had)
        self.over.set()
        for future in futures:
            future.cancel()
        for each in self.batchers:
            assert each.close(LONG)
        return had


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize(
    "models", [((1.0, 0.001), (4.0, 0.001)), ((1.0, 0.001), (3.0, 0.006)), ((1.0, 0.001), (2.0, 0.004), (5.0, 0.016))]
)
def test_batchers_of_one_device_share_it_by_their_weights(
    streams: int, models: tuple[tuple[float, float], ...]
) -> None:
    """Also one that is to have several turns in a row: it has its next batch at hand when the one before it ends."""
    timed = Timed(streams, *models)
    had = timed.run(200 * max(seconds for _, seconds in models))
    weights = [weight for weight, _ in models]
    assert had == pytest.approx([sum(had) * weight / sum(weights) for weight in weights], rel=0.1)


@pytest.mark.parametrize("streams", [1, 2])
def test_a_lone_caller_waits_for_two_batches_of_a_large_model_at_most(
    streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From when it asks for a turn: on a busy machine others begin before its thread has woken up."""
    timed = Timed(streams, (1.0, 0.001), (5.0, 0.1))
    timed.patience = 0.002
    begin, asked = timed.device.begin, list[int]()

    def noted(turn: Any, share: DeviceShare) -> float:
        if share is timed.shares[0]:
            asked.append(len(timed.batches))
        return begin(turn, share)

    monkeypatch.setattr(timed.device, "begin", noted)
    small, large = timed.batchers
    pixels = np.zeros((1, 1, 3), np.uint8)
    futures = [large.submit(pixels) for _ in range(9_000)]
    for each in timed.batchers:
        each.start()
    futures[20].result(LONG)
    for _ in range(30):
        small.submit(pixels).result(LONG)
        assert timed.batches.index(0, asked[-1]) - asked[-1] <= 2
    timed.over.set()
    for future in futures:
        future.cancel()
    for each in timed.batchers:
        assert each.close(LONG)


@pytest.mark.parametrize("streams", [1, 2])
def test_batchers_of_one_device_share_it_by_weight_and_answer_all(streams: int) -> None:
    device = SharedDevice(streams)

    def computing(seconds: float) -> Callable[[NDArray[np.uint8], frozenset[str]], Outputs]:
        def compute(pixels: NDArray[np.uint8], _: frozenset[str]) -> Outputs:
            time.sleep(seconds)
            return {PROBABILITIES: np.full((len(pixels), 2), 0.5, np.float32)}

        return compute

    told, batchers = [], []
    for weight, seconds in ((1.0, 0.001), (3.0, 0.006)):
        told.append(Seconds())
        batchers.append(
            Batcher(
                computing(seconds),
                input_shape=(1, 1, 3),
                batch_sizes=(1, 2),
                capacity=10_000,
                observer=told[-1],
                streams=Streams(streams),
                share=device.share(weight, batches=streams),
            )
        )
    pixels = np.zeros((1, 1, 3), np.uint8)
    futures: list[list[Future[Answer]]] = [[each.submit(pixels) for _ in range(500)] for each in batchers]
    for each in batchers:
        each.start()
    futures[1][200].result(LONG)  # both are busy until then
    first, second = (each.computed for each in told)
    assert second / first == pytest.approx(3.0, rel=0.25)
    for future in futures[0]:
        future.result(LONG)
    for future in futures[1]:
        future.cancel()
    for each in batchers:
        assert each.close(LONG)
    assert device._shares == []
    assert device._free == streams
