"""Streams and batch sizes of a CPU by measured rates: a device whose costs are stated, and a clock that it moves."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from glimpse.models.outputs import DEFAULT_OUTPUTS, PROBABILITIES, Outputs
from glimpse.server.runtime import kept_measurements, stream_rates, stream_turns
from glimpse.server.runtime.stream_rates import Shape, adjust, candidates, chosen, gains
from glimpse.server.runtime.stream_turns import Cost

RULE = Shape(2, 8)
NOTHING = Shape(0, 0)
SHAPES = [Shape(1, 16), Shape(2, 16), Shape(2, 4), Shape(1, 8), Shape(2, 1)]


class Device:
    """Takes the stated seconds of both kinds for an image of each shape, and a second for the first turn of each."""

    def __init__(self, wall: Callable[[Shape], float], processor: Callable[[Shape], float] | None = None) -> None:
        self.now, self.turns = 0.0, list[Shape]()
        self._wall, self._processor = wall, processor or (lambda shape: RULE.streams * wall(shape))

    def turn(self, shape: Shape) -> Cost:
        first = shape not in self.turns
        self.turns.append(shape)
        self.now += 1.0 if first else self._wall(shape) * shape.in_flight
        return Cost(self._wall(shape), self._processor(shape))

    def gains(self, seconds: float = 100.0) -> dict[Shape, float]:
        return gains(self.turn, SHAPES, RULE, seconds=seconds, clock=lambda: self.now)


def test_a_shape_that_computes_clearly_more_is_chosen() -> None:
    found = Device(lambda shape: 0.008 if shape == Shape(2, 16) else 0.010).gains()
    assert found[Shape(2, 16)] == pytest.approx(1.25, abs=0.01)
    assert chosen(found, RULE) == Shape(2, 16)


def test_a_shape_that_gains_in_some_turns_only_is_not_chosen() -> None:
    """Whatever else ran on the machine may have made the rule look slow in these."""
    device = Device(lambda _: 0.010)

    def turn(shape: Shape) -> Cost:
        found = device.turn(shape)
        slow = shape == RULE and device.turns.count(RULE) in {2, 4, 6}
        return Cost(2 * found.wall, 2 * found.processor) if slow else found

    found = gains(turn, [Shape(2, 16)], RULE, seconds=100, clock=lambda: device.now)
    assert found[Shape(2, 16)] < 1.05


def test_of_shapes_that_gain_alike_the_one_that_answers_soonest_is_chosen() -> None:
    assert chosen({Shape(2, 16): 1.20, Shape(1, 16): 1.16}, RULE) == Shape(1, 16)
    assert chosen({Shape(2, 16): 1.20, Shape(1, 16): 1.13}, RULE) == Shape(2, 16)
    assert chosen({Shape(1, 8): 1.15, Shape(2, 4): 1.16}, RULE) == Shape(2, 4)


def test_the_rule_stays_unless_a_shape_gains_a_tenth() -> None:
    """To answer sooner is no gain: measured without a service beside it, it costs nothing."""
    assert chosen({Shape(2, 16): 1.09, Shape(1, 16): 1.03}, RULE) == RULE
    assert chosen({Shape(2, 16): 1.03, Shape(1, 2): 0.99}, RULE) == RULE
    assert chosen({}, RULE) == RULE


def test_a_shape_has_to_gain_in_time_and_in_cpu_time() -> None:
    """One stream leaves cores idle while its threads wait for each other: it is cheap, and slow."""
    idle = Device(lambda shape: 0.010 * RULE.streams / shape.streams, lambda _: 0.010)
    assert idle.gains().get(Shape(1, 16), 0.0) < 0.6
    busy = Device(lambda _: 0.010, lambda shape: 0.040 / shape.streams)
    assert busy.gains().get(Shape(1, 16), 0.0) < 0.6


def test_what_the_service_does_for_each_batch_counts_against_small_ones() -> None:
    fast, slow = Device(lambda _: 0.0001).gains(), Device(lambda _: 0.1).gains()
    assert fast.get(Shape(2, 1), 0.0) < 0.6
    assert slow[Shape(2, 1)] > 0.99


def test_a_hopeless_shape_gets_two_turns_beside_its_first() -> None:
    device = Device(lambda shape: 0.02 if shape == Shape(1, 8) else 0.01)
    assert Shape(1, 8) not in device.gains()
    assert device.turns.count(Shape(1, 8)) == 3
    assert device.turns.count(Shape(2, 4)) == 6


def test_once_no_shape_is_left_to_compare_measuring_ends() -> None:
    slower = Device(lambda shape: 0.01 if shape == RULE else 0.02)
    slower.gains()
    assert slower.turns.count(RULE) == 4
    none = Device(lambda _: 0.1)
    none.gains(0.0)
    assert none.turns == [RULE, RULE]


def test_two_turns_of_the_rule_show_that_time_does_not_suffice() -> None:
    slow = Device(lambda _: 0.05)
    assert slow.gains(3.0) == {}
    assert slow.turns == [RULE, RULE]


def test_as_many_shapes_are_tried_as_there_is_time_to_compare() -> None:
    """Those that keep about as many images in flight as the rule come first."""
    device = Device(lambda _: 0.02)
    device.turns = [*SHAPES, RULE]  # all are warm
    turn = 0.02 * RULE.in_flight
    assert {*device.gains(9.5 * turn)} == {SHAPES[0]}
    assert {*device.turns[len(SHAPES) :]} == {RULE, SHAPES[0]}
    assert device.now <= 10.5 * turn


@pytest.mark.parametrize("seconds", [0.0, 2.0, 6.0, 9.0])
def test_no_turn_begins_once_the_time_is_over(seconds: float) -> None:
    device = Device(lambda _: 0.1)
    found = device.gains(seconds)
    # The rule's first turn, another shape's that had begun, and the rule's of a round.
    assert device.now <= seconds + 1.0 + 2 * 0.1 * 32
    assert not found if seconds < 9 else True
    assert all(device.turns.count(shape) >= 4 for shape in found)


def test_a_shape_that_does_not_fit_into_memory_is_left_out() -> None:
    device = Device(lambda _: 0.01)

    def turn(shape: Shape) -> Cost:
        if shape.largest > 8:
            raise MemoryError(shape)
        return device.turn(shape)

    assert max(shape.largest for shape in gains(turn, SHAPES, RULE, seconds=100, clock=lambda: device.now)) == 8


def test_what_did_not_fit_into_memory_is_let_go_at_once() -> None:
    held = weakref.WeakSet[Runtime]()

    def turn(shape: Shape) -> Cost:
        def fails() -> None:
            raise MemoryError

        runtime = Runtime(before=fails if shape.largest > 8 else lambda: None)
        held.add(runtime)
        return stream_turns.turn(runtime, np.zeros((1, 2, 2, 3), np.uint8), 1)

    gc.disable()
    try:
        gains(turn, [Shape(2, 16)], RULE)
        join_measuring()
        assert not held
    finally:
        gc.enable()


def test_candidates_are_one_two_half_of_the_cores_and_all() -> None:
    groups = candidates(Shape(16, 2), multiply_adds=10**9, fixed=False)
    assert [{shape.streams for shape in group} for group in groups] == [{1, 16}, {2}, {8}]
    assert {shape.largest for group in groups for shape in group} == {1, 2, 4, 8, 16}
    (vgg16,) = candidates(Shape(2, 1), multiply_adds=15 * 10**9, fixed=False)
    assert {shape.largest for shape in vgg16} == {1, 2, 4}
    (two,) = candidates(RULE, multiply_adds=10**6, fixed=False)
    assert {shape.streams for shape in two} == {1, 2}
    assert RULE not in two
    assert two == [*(Shape(2, size) for size in (16, 4, 2, 1)), *(Shape(1, size) for size in (16, 8, 4, 2, 1))]
    (one,) = candidates(Shape(1, 8), multiply_adds=10**6, fixed=False)
    assert {*one} == {Shape(1, size) for size in (1, 2, 4, 16)}


def test_where_the_largest_batch_stays_only_streams_are_compared() -> None:
    assert candidates(Shape(4, 24), multiply_adds=10**6, fixed=True) == [[Shape(1, 24)], [Shape(2, 24)]]
    assert not any(candidates(Shape(1, 24), multiply_adds=10**6, fixed=True))
    (large,) = candidates(Shape(2, 1), multiply_adds=10**11, fixed=False)
    assert large == [Shape(1, 1)]


class Runtime:
    """Computes nothing, on so many cores, and notes what is asked of it."""

    name, device, precision, outputs = "openvino", "cpu", "float32", DEFAULT_OUTPUTS

    def __init__(self, cores: int = 2, *, before: Callable[[], object] = lambda: None) -> None:
        self.streams, self.measured, self._before = cores, list[int](), before
        self.sizes = set[int]()  # of the batches that were computed

    def batch_sizes(self, largest: int, multiply_adds: int) -> tuple[int, ...]:
        assert multiply_adds == 10**8
        return (*(size for size in (1, 2, 4) if size < (largest or 8)), largest or 8)

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str] = DEFAULT_OUTPUTS) -> Outputs:
        assert outputs == DEFAULT_OUTPUTS
        self._before()
        self.sizes.add(len(pixels))
        return {PROBABILITIES: np.ones((len(pixels), 1), np.float32)}

    alone = __call__

    def side_by_side(self, streams: int) -> stream_turns.Compute:
        self.measured.append(streams)
        return self

    def use_streams(self, streams: int) -> None:
        self.streams = streams

    def prepare_maps(self) -> None:
        """It has none."""

    def out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)


def join_measuring() -> None:
    """Wait until no thread measures any more."""
    for thread in threading.enumerate():
        if thread.name == "measuring":
            thread.join(30)


FACTS = kept_measurements.facts(network="n", runtime="openvino", processor="p", precision="float32")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    return tmp_path / "streams"


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of a batch of 16 on one stream costs half; that is measured without taking time."""

    def turn(compute: stream_turns.Compute, pixels: NDArray[np.uint8], streams: int) -> Cost:
        compute(pixels, DEFAULT_OUTPUTS)
        cost = 0.5 if (streams, len(pixels)) == (1, 16) else 1.0
        return Cost(cost, cost)

    monkeypatch.setattr(stream_turns, "turn", turn)


def adjusted(
    runtime: Runtime, stated: Shape = NOTHING, *, facts: dict[str, Any] = FACTS, spare: bool = True
) -> tuple[int, ...]:
    return adjust(
        runtime,
        lambda size: np.zeros((size, 2, 2, 3), np.uint8),
        stated=stated,
        multiply_adds=10**8,
        spare=lambda: spare,
        follows_from=facts,
    )


@pytest.mark.usefixtures("sixteen")
def test_a_later_start_takes_the_streams_of_the_first_without_measuring(cache: Path) -> None:
    first, later = Runtime(), Runtime()
    assert adjusted(first) == adjusted(later) == (1, 2, 4, 16)
    assert first.streams == later.streams == 1
    assert first.measured
    assert not later.measured
    assert len([*cache.iterdir()]) == 1


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize("other", ["cores", "network", "runtime", "processor", "precision", "largest"])
def test_streams_of_something_else_are_measured_anew(cache: Path, other: str) -> None:
    adjusted(Runtime())
    changed = Runtime(4 if other == "cores" else 2)
    facts = {**FACTS, other: "other"} if other in FACTS else FACTS
    adjusted(changed, Shape(0, 4 if other == "largest" else 0), facts=facts)
    assert changed.measured
    assert len([*cache.iterdir()]) == 2


@pytest.mark.usefixtures("sixteen")
def test_where_memory_is_short_large_batches_of_large_networks_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_rates, "_SMALL_WORK", 9 * 10**8)
    short = Runtime()
    assert adjusted(short, spare=False)[-1] == 8
    assert max(short.sizes) == 8
    monkeypatch.setattr(stream_rates, "_SMALL_WORK", 10**10)
    assert adjusted(Runtime(), spare=False, facts={**FACTS, "network": "other"})[-1] == 16


@pytest.mark.usefixtures("sixteen")
def test_what_a_lack_of_memory_left_out_is_measured_by_a_later_start(cache: Path) -> None:
    adjusted(Runtime(), spare=False)
    assert not cache.exists()
    later = Runtime()
    adjusted(later)
    assert later.measured
    assert len([*cache.iterdir()]) == 1


def test_what_is_stated_is_taken_without_measuring(cache: Path) -> None:
    stated = Runtime(4)
    assert adjusted(stated, Shape(2, 4)) == (1, 2, 4)
    assert stated.streams == 2
    assert not stated.measured
    assert not cache.exists()


@pytest.mark.usefixtures("sixteen")
def test_where_streams_cannot_be_compiled_the_others_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(4)
    own = runtime.side_by_side

    def side_by_side(streams: int) -> stream_turns.Compute:
        if streams == 2:
            raise MemoryError
        return own(streams)

    monkeypatch.setattr(runtime, "side_by_side", side_by_side)
    assert adjusted(runtime)[-1] == 16
    assert runtime.streams == 1


@pytest.mark.usefixtures("sixteen")
def test_a_stated_largest_batch_stays() -> None:
    runtime = Runtime(4)
    assert adjusted(runtime, Shape(0, 4)) == (1, 2, 4)


@pytest.mark.parametrize("streams", [[], [1, 3], [3, 8], 7, None, ["1", "16"], [True, 16]])
@pytest.mark.usefixtures("sixteen")
def test_damaged_streams_are_measured_again(cache: Path, streams: object) -> None:
    adjusted(Runtime())
    (path,) = cache.iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "streams": streams}))
    again = Runtime()
    assert adjusted(again) == (1, 2, 4, 16)
    assert again.measured


def test_a_measurement_that_fails_leaves_the_rule_for_this_start_and_later_ones() -> None:
    def fails() -> None:
        raise RuntimeError("no such instruction")

    with capture_logs() as lines:
        runtime = Runtime(before=fails)
        assert adjusted(runtime)[-1] == 8
    assert runtime.streams == 2
    (warning,) = (line for line in lines if line["log_level"] == "warning")
    assert warning["event"] == "streams not measured"
    assert "no such instruction" in warning["detail"]
    later = Runtime(before=fails)
    assert adjusted(later)[-1] == 8
    assert not later.measured


def test_a_measurement_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_rates, "_HANGS", 0.05)
    held = threading.Event()
    with capture_logs() as lines:
        runtime = Runtime(before=held.wait)
        assert adjusted(runtime)[-1] == 8
    held.set()
    join_measuring()
    assert runtime.sizes == {8}, "of the turn that had begun, and no other one beside the first callers"
    assert runtime.streams == 2
    assert any("It took more than 0.05 s." in line.get("detail", "") for line in lines)


def test_all_streams_compute_at_the_same_time() -> None:
    together, met = threading.Barrier(3), set[int]()

    def meet() -> None:
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            together.wait(30)

    cost = stream_turns.turn(Runtime(before=meet), np.zeros((4, 2, 2, 3), np.uint8), 3)
    assert cost.wall > 0
    assert cost.processor >= 0


def test_a_lack_of_memory_is_told_apart_from_other_errors() -> None:
    def fails() -> None:
        raise RuntimeError("std::bad_alloc")

    with pytest.raises(MemoryError, match="4 images"):
        stream_turns.turn(Runtime(before=fails), np.zeros((4, 2, 2, 3), np.uint8), 1)
