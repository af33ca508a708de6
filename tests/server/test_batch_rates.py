"""Batch sizes by measured rates: a device whose seconds for each batch size are stated, and a clock that it moves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from glimpse.server.runtime import kept_measurements
from glimpse.server.runtime.batch_rates import useful_sizes, useful_sizes_kept
from glimpse.server.runtime.serving import whose_memory

SIZES = (1, 2, 4, 8, 16, 32)


class Device:
    """Takes the stated seconds for each batch size, and a minute more for its first of a size."""

    def __init__(self, seconds: Callable[[int], float], room: int = 1024) -> None:
        self.now, self.seconds, self.room, self.compiled = 0.0, seconds, room, set[int]()

    def compute(self, size: int) -> None:
        if size > self.room:
            raise MemoryError(size)
        if size not in self.compiled:
            self.compiled.add(size)
            self.now += 60  # compiling must not count
        self.now += self.seconds(size)

    def sizes(self, *, may_grow: bool = True) -> tuple[int, ...]:
        return useful_sizes(
            self.compute,
            SIZES,
            may_grow=may_grow,
            out_of_memory=lambda error: isinstance(error, MemoryError),
            clock=lambda: self.now,
        ).sizes


def test_the_largest_batch_grows_while_the_rate_does() -> None:
    assert Device(lambda size: 0.010 + 0.0001 * size).sizes()[-1] == 256


def test_doubled_batches_that_gain_nothing_are_left_out() -> None:
    device = Device(lambda size: 0.0001 * max(size, 64))
    assert device.sizes()[-1] == 64


def test_after_two_sizes_that_gain_nothing_none_is_tried() -> None:
    """Each has to be compiled, which takes seconds."""
    device = Device(lambda size: 0.0001 * max(size, 16))
    assert device.sizes()[-1] == 16
    assert max(device.compiled) == 64


CALM = (2, 8, 16, 32, 64, 128, 256)  # of which each takes clearly longer than the one before


class NoisyDevice(Device):
    """Whose batches are held up: `times` as long, by their size and the turn in which that size is measured."""

    def __init__(self, times: Callable[[int, int], float]) -> None:
        self.batches: Counter[int] = Counter()

        def seconds(size: int) -> float:
            self.batches[size] += 1
            return (0.010 + 0.0001 * size) * times(size, (self.batches[size] - 1) // 4)

        super().__init__(seconds)


def test_a_device_that_is_not_held_up_is_measured_twice() -> None:
    device = NoisyDevice(lambda *_: 1.0)
    assert device.sizes() == CALM
    assert set(device.batches.values()) == {8}


@pytest.mark.parametrize("noisy", [16, 32, 64, 128, 256])
def test_one_noisy_turn_of_a_size_does_not_lose_it(noisy: int) -> None:
    assert NoisyDevice(lambda size, turn: 2.0 if size == noisy and turn == 0 else 1.0).sizes() == CALM


def test_a_machine_that_is_busy_at_first_measures_what_a_calm_one_does() -> None:
    """For a whole turn, in which the larger a batch, the longer it is held up."""
    assert NoisyDevice(lambda size, turn: size if turn == 0 else 1.0).sizes() == CALM


def test_rates_that_do_not_settle_are_used_but_not_kept(cache: Path) -> None:
    """In each turn twice as large a batch is the fastest."""
    batches: Counter[int] = Counter()

    def seconds(size: int) -> float:
        batches[size] += 1
        turn = (batches[size] - 1) // 4
        return 0.010 if size <= 2**turn else float(size)

    assert kept(Device(seconds)) == (16,)
    assert not cache.exists()


def test_a_size_that_takes_as_long_as_the_next_one_is_left_out() -> None:
    assert Device(lambda size: 0.010 if size <= 4 else 0.0025 * size).sizes() == (4,)
    assert Device(lambda size: 0.010 if size <= 4 else 0.010 + 0.0005 * size).sizes() == (4, 8, 16, 32, 64, 128, 256)


def test_the_largest_is_lowered_where_large_batches_gain_nothing() -> None:
    assert Device(lambda size: 0.001 * max(size, 8)).sizes() == (8,)


def test_a_stated_largest_stays_and_nothing_beyond_it_is_tried() -> None:
    growing, flat = Device(lambda size: 0.010 + 0.0001 * size), Device(lambda size: 0.001 * max(size, 8))
    assert growing.sizes(may_grow=False)[-1] == 32
    assert flat.sizes(may_grow=False) == (8, 16, 32)
    assert max(growing.compiled | flat.compiled) == 32


def test_a_batch_that_does_not_fit_ends_the_growth() -> None:
    assert Device(lambda size: 0.010 + 0.0001 * size, room=100).sizes()[-1] == 64


def test_a_stated_size_that_does_not_fit_is_told() -> None:
    with pytest.raises(MemoryError):
        Device(lambda size: 0.01, room=16).sizes()


def test_the_message_about_memory_tells_whose_it_is() -> None:
    assert "machine or container" in whose_memory("cpu")
    assert whose_memory("gpu:0").startswith("the GPU, not of the machine.")


FACTS = kept_measurements.facts(network="n", runtime="jax", processor="p", precision="bfloat16")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    return tmp_path / "batch_sizes"


def kept(device: Device, facts: dict[str, object] = FACTS, *, may_grow: bool = True) -> tuple[int, ...]:
    return useful_sizes_kept(
        device.compute,
        SIZES,
        may_grow=may_grow,
        out_of_memory=lambda error: isinstance(error, MemoryError),
        follows_from=facts,
        clock=lambda: device.now,
    )


def test_a_later_start_takes_the_sizes_of_the_first_and_computes_one(cache: Path) -> None:
    found = kept(Device(lambda size: 0.010 + 0.0001 * size))
    assert len([*cache.iterdir()]) == 1
    later = Device(lambda size: 1.0 * size)
    assert kept(later) == found
    assert later.compiled == {found[-1]}


@pytest.mark.parametrize("fact", ["network", "runtime", "processor", "precision"])
def test_sizes_of_something_else_are_not_taken(cache: Path, fact: str) -> None:
    kept(Device(lambda size: 0.010 + 0.0001 * size))
    other = Device(lambda size: 0.010 + 0.0001 * size)
    kept(other, {**FACTS, fact: "other"})
    kept(Device(lambda size: 0.010 + 0.0001 * size), may_grow=False)
    assert len(other.compiled) > 1
    assert len([*cache.iterdir()]) == 3


def test_kept_sizes_that_do_not_fit_any_more_are_measured_again(cache: Path) -> None:
    assert kept(Device(lambda size: 0.010 + 0.0001 * size))[-1] == 256
    assert kept(Device(lambda size: 0.010 + 0.0001 * size, room=100))[-1] == 64
    assert len([*cache.iterdir()]) == 1
    assert kept(Device(lambda size: 0.010 + 0.0001 * size))[-1] == 64


@pytest.mark.parametrize("sizes", [[], [0, 1], [2, 1], [1, 1], [1, 512], [1.0], ["1"], [True], 7, None])
def test_damaged_sizes_are_measured_again(cache: Path, sizes: object) -> None:
    found = kept(Device(lambda size: 0.010 + 0.0001 * size))
    (path,) = cache.iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "batch_sizes": sizes}))
    assert kept(Device(lambda size: 0.010 + 0.0001 * size)) == found
    assert json.loads(path.read_text())["batch_sizes"] == [*found]
