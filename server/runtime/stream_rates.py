"""How many batches a CPU is to compute side by side, and how large they may be, by rates measured at the first start.

Which is best depends on the network, on the processor's caches and instructions and on what a layer costs to begin, so
it is measured where that can be done in a few seconds. A rule, the runtime's own, is what all is compared with, and
what remains where measuring fails or finds nothing that is clearly better.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import structlog
from numpy.typing import NDArray

from glimpse.models.messages import short
from glimpse.server.nouns import noun
from glimpse.server.runtime import Runtime, kept_measurements, stream_turns
from glimpse.server.runtime.stream_turns import Compute, Cost

KIND = "streams"  # of measurement
_LARGEST = 16  # images
SECONDS = 3.0  # that the rates of one compiled network are measured for, at the most
_SIZES = (1, 2, 4, 8, _LARGEST)
# Multiply-adds of the largest batch that is tried: 16 images of ResNet-50, of which processors with instructions for
# matrices compute 1.7 times as many a second as one by one, in bfloat16.
_WORK = 70_000_000_000
_SMALL_WORK = 10_000_000_000  # the same, where there is no memory for another network
_TURNS = 5  # of each shape
_FEWEST = 3  # of a shape that may be chosen
_HOPELESS = 0.8  # times the rate of the best, below which a shape gets no more turns than two
_GAIN = 1.1  # times the rule's rate, which a shape must reach to be taken instead
_ALIKE = 1.05  # times the rate of another shape, up to which the one that answers sooner is better
# CPU seconds that the service itself takes for a batch of any size: to compose it, to wake a thread, to count it.
_AROUND = 0.0002
_HANGS = 30.0  # seconds, after which nobody waits for a measurement any more
_log = structlog.get_logger(__name__)


class Shape(NamedTuple):
    """How a CPU is kept busy."""

    streams: int  # batches that are computed side by side
    largest: int  # images in the largest batch

    @property
    def in_flight(self) -> int:
        """Images that are computed at once; at equal rates, their seconds are in proportion to it."""
        return self.streams * self.largest


@runtime_checkable
class Adjustable(Runtime, Protocol):
    """A runtime whose number of streams may be changed before it serves."""

    def side_by_side(self, streams: int) -> Compute:
        """What computes so many batches at once, beside the runtime's own; its memory goes with it."""

    def use_streams(self, streams: int) -> None:
        """From now on compute so many batches at once. Nothing is being computed."""


def adjust(
    runtime: Adjustable,
    pixels: Callable[[int], NDArray[np.uint8]],
    *,
    stated: Shape,
    multiply_adds: int,
    spare: Callable[[], bool],
    follows_from: Mapping[str, Any],
) -> tuple[int, ...]:
    """Set the streams of a runtime to what is best here, by an earlier start or measured now; returns its batch sizes.

    Args:
        runtime: as its own rule has set it: a stream for each core.
        pixels: a batch of that many images.
        stated: what is to be taken without being measured; 0 in it: what is best.
        multiply_adds: of the network, for one image.
        spare: whether there is memory to compile the network once more, beside the runtime's own.
        follows_from: what the rates depend on, besides the cores; see `kept_measurements.facts`.
    """
    sizes = runtime.batch_sizes(stated.largest, multiply_adds)
    if stated.streams:
        runtime.use_streams(stated.streams)
        return sizes
    rule = Shape(runtime.streams, sizes[-1])
    # A graph may take batches of one size only.
    fixed = stated.largest > 0 or runtime.batch_sizes(1, multiply_adds) == runtime.batch_sizes(2, multiply_adds)
    groups = candidates(rule, multiply_adds=multiply_adds, fixed=fixed)
    if not any(groups):
        return sizes
    known = {rule, *(shape for group in groups for shape in group)}
    follows_from = {**follows_from, "rule": [*rule], "shapes": sorted([*shape] for shape in known)}

    def parsed(found: Any) -> Shape:
        streams, largest = found
        if not (type(streams) is type(largest) is int):  # True and 1.0 are as good as 1 in a set, but not to OpenVINO
            raise ValueError(f"streams and batch sizes are whole numbers. Received: {found}")
        if (shape := Shape(streams, largest)) not in known:
            raise ValueError(f"it is none of those that were measured. Received: {found}")
        return shape

    found = kept_measurements.read(KIND, follows_from, parsed)
    if found is None:
        lacked = False

        def has_memory() -> bool:
            nonlocal lacked
            enough = spare()
            lacked = lacked or not enough
            return enough

        if not has_memory():
            small = max(rule.largest, _SMALL_WORK // max(1, multiply_adds))
            groups = [[shape for shape in group if shape.largest <= small] for group in groups]
        found = _measured(runtime, pixels, rule, groups, has_memory)
        if not lacked:  # else a later start may have the memory to measure what this one left out
            # The rule, too, where measuring failed: the next start is not to wait for the same.
            kept_measurements.store(KIND, follows_from, [*found])
    _log.info("streams chosen", streams=found.streams, largest_batch=found.largest)
    runtime.use_streams(found.streams)
    return sizes if found.largest == rule.largest else runtime.batch_sizes(found.largest, multiply_adds)


def candidates(rule: Shape, *, multiply_adds: int, fixed: bool) -> list[list[Shape]]:
    """The shapes beside the rule's that are worth a turn, in groups that need the network to be compiled once more.

    The first group needs that not: a runtime has the network compiled for one batch on all cores, too.

    Args:
        rule: what all are compared with, with a stream for each core. The others have 1, 2, and one for every second.
        multiply_adds: of the network, for one image.
        fixed: whether the rule's largest batch stays.
    """
    sizes = [rule.largest] if fixed else [size for size in _SIZES if size == 1 or size * multiply_adds <= _WORK]
    cores = rule.streams
    numbers = sorted({1, min(2, cores), max(1, cores // 2), cores})
    own = [number for number in numbers if number in (1, rule.streams)]
    grouped = [own, *([number] for number in numbers if number not in own)]
    # Time may not suffice for all. Those with the rule's streams come first, for with fewer of them cores wait; then
    # those that keep about as many images in flight, and of two the larger.
    found = []
    for group in grouped:
        shapes = [shape for size in reversed(sizes) for number in group if (shape := Shape(number, size)) != rule]
        found.append(sorted(shapes, key=lambda shape: (shape.streams != cores, _apart(shape, rule))))
    return found


def _apart(shape: Shape, rule: Shape) -> float:
    """How far the images in flight of two shapes are from each other."""
    return abs(math.log2(shape.in_flight / rule.in_flight))


def gains(
    turn: Callable[[Shape], Cost],
    shapes: Sequence[Shape],
    rule: Shape,
    *,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> dict[Shape, float]:
    """How many times the rate of the rule each shape has, as far as that could be measured in time.

    They compute in turns, for whatever else runs on the machine comes and goes; each turn is compared with the rule's
    in the same round, and the lower quartile counts, so that in doubt the rule remains. The gain is the lesser of that
    in time and that in CPU time: in time alone another process would decide, and in CPU time alone a shape that leaves
    cores idle would look cheap. Only as many shapes are tried as there is time to compare, by what a turn of the rule
    takes: of a large network on a slow machine none, and then nothing is lost but two turns.

    Args:
        turn: computes one. The first time it may compile, for which there is a third of the time. Raises MemoryError
            where a shape does not fit.
        shapes: to be compared with the rule, most promising first.
        rule: that they are compared with.
        seconds: after which no other turn begins.
        clock: seconds, monotonic.
    """
    begun = clock()
    end = begun + seconds
    turn(rule)
    taken = clock()
    turn(rule)
    taken = clock() - taken
    warm = _warmed(turn, _affordable(shapes, rule, taken, end - clock()), lambda: clock() >= begun + seconds / 3)

    def cost(shape: Shape) -> Cost:
        found = turn(shape)
        own = _AROUND / shape.largest
        return Cost(found.wall + own / rule.streams, found.processor + own)

    found: dict[Shape, list[float]] = {shape: [] for shape in warm}
    for number in range(_TURNS):
        if not warm or clock() >= end:
            break
        base = cost(rule)
        for shape in warm if number % 2 else reversed(warm):
            if clock() >= end:
                break
            this = cost(shape)
            found[shape].append(min(base.wall / this.wall, base.processor / this.processor))
        if number:  # one turn may have been disturbed
            warm = _hopeful({shape: median(found[shape]) for shape in warm})
    return {shape: sorted(each)[len(each) // 4] for shape, each in found.items() if len(each) >= _FEWEST}


def _affordable(shapes: Sequence[Shape], rule: Shape, taken: float, seconds: float) -> list[Shape]:
    """Of the shapes, the first that can be compared in time, where a turn of the rule takes `taken` seconds."""
    # Of each as many turns as it takes to choose it, and its first; an image takes about as long in all of them.
    left, found = seconds - _FEWEST * taken, []
    for shape in shapes:
        left -= (1 + _FEWEST) * taken * max(1.0, shape.in_flight / rule.in_flight)
        if left < 0:
            break
        found.append(shape)
    return found


def _warmed(turn: Callable[[Shape], Cost], shapes: Sequence[Shape], over: Callable[[], bool]) -> list[Shape]:
    """Those that fit into memory and had their first turn before the time was over."""
    warm = []
    for shape in shapes:
        if over():
            break
        try:
            turn(shape)
        except MemoryError as error:
            error.__traceback__ = None  # it keeps what computed, and is kept by it, until garbage is looked for
        else:
            warm.append(shape)
    return warm


def _hopeful(gains_of: Mapping[Shape, float]) -> list[Shape]:
    """The shapes that are worth more turns."""
    best = max([1.0, *gains_of.values()])
    return [shape for shape, gain in gains_of.items() if gain >= _HOPELESS * best]


def chosen(measured: Mapping[Shape, float], rule: Shape) -> Shape:
    """The shape that answers soonest of those within 5% of the best rate, if they gain a tenth; else the rule.

    No shape is taken for answering sooner alone. Measured by itself, a single stream with two images kept up with two
    streams of MobileNet; beside decoding and gRPC, for which one of its threads always waits, the service then took
    1.15 times the CPU time for an image.
    """
    best = max(measured.values(), default=0.0)
    good = [shape for shape, rate in measured.items() if rate >= _GAIN and rate * _ALIKE >= best]
    return min(good, key=lambda shape: (shape.in_flight, -measured[shape]), default=rule)


def _measured(
    runtime: Adjustable,
    pixels: Callable[[int], NDArray[np.uint8]],
    rule: Shape,
    groups: Sequence[Sequence[Shape]],
    spare: Callable[[], bool],
) -> Shape:
    """The best of all shapes; the rule, if that could not be found out."""
    begun, given_up = time.monotonic(), threading.Event()
    try:
        measure = partial(_gains, runtime, pixels, rule, groups, spare, given_up=given_up)
        found = stream_turns.in_time(measure, _HANGS)
    except Exception as error:  # noqa: BLE001 - whatever it was: without a measurement there is the rule
        given_up.set()  # where it goes on after all, it is not to compute beside the first callers
        error.__traceback__ = None  # it keeps what computed, and is kept by it, until garbage is looked for
        _log.warning(
            "streams not measured",
            detail=f"{short(error)} They are chosen by a rule: one for each core, {rule.largest} "
            f"{noun(rule.largest, 'image')} in a batch.",
        )
        return rule
    best = chosen(found, rule)
    _log.info(
        "streams measured",
        shapes={f"{shape.streams}x{shape.largest}": round(gain, 2) for shape, gain in {rule: 1.0, **found}.items()},
        seconds=round(time.monotonic() - begun, 2),
    )
    return best


def _gains(
    runtime: Adjustable,
    pixels: Callable[[int], NDArray[np.uint8]],
    rule: Shape,
    groups: Sequence[Sequence[Shape]],
    spare: Callable[[], bool],
    *,
    given_up: threading.Event,
) -> dict[Shape, float]:
    """`gains` of all groups, one group after the other; a TimeoutError once it is given up."""
    computes = {rule.streams: runtime.side_by_side(rule.streams)}

    def turn(shape: Shape) -> Cost:
        if given_up.is_set():
            raise TimeoutError
        return stream_turns.turn(computes[shape.streams], pixels(shape.largest), shape.streams)

    found: dict[Shape, float] = {}
    for number, group in enumerate(groups):
        if not group or (number and not spare()):
            continue
        more = {shape.streams for shape in group} - computes.keys()
        try:
            computes |= {streams: runtime.side_by_side(streams) for streams in more}
        except MemoryError:  # what was measured before still counts
            break
        found |= gains(turn, group, rule, seconds=SECONDS / 2 if number else SECONDS)
        for streams in more:
            del computes[streams]
    return found
