"""How many times as fast networks are computed in int8 as in other precisions, and what that costs in accuracy.

``python -m tools.bench.quantised [--data PATH] NAME...``; a name is a tag (imagenet), or an architecture with a tag
(resnet50:random). The service's own runtimes compute in turns, a batch on each core, in float32, in bfloat16 where the
processor has it, and in int8. What counts is the CPU time of this process, so that other work on the machine changes
little. With labelled images, the network is calibrated with a hundred of them, and judged by the others.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from glimpse.models.bundle import Bundle
from glimpse.models.comparison import labelled, names
from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.outputs import PROBABILITIES
from glimpse.models.train import files
from glimpse.models.train.reading import network_input
from glimpse.server.machine import cores
from glimpse.server.runtime import conversion, quantisation, stream_turns
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtime.openvino_graphs import compiled
from glimpse.server.runtime.openvino_library import openvino
from glimpse.server.runtime.quantisation import Orders
from glimpse.server.runtimes import QUANTISED, REFERENCE, Precision

_SIZES = (1, 4, 8, 16)  # images
_TURNS = 15
_CALIBRATES = 100  # images
_BATCH = 8


def costs(turn: Callable[[Precision], float], precisions: Sequence[Precision]) -> dict[Precision, list[float]]:
    """What each precision costs in each of some turns, after one that may compile.

    Args:
        turn: computes in a precision; what an image cost.
        precisions: that are compared. Every second turn begins with the last.
    """
    for precision in precisions:
        turn(precision)
    found: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    for number in range(_TURNS):
        for precision in reversed(precisions) if number % 2 else precisions:
            found[precision].append(turn(precision))
    return found


def told(found: Mapping[Precision, Sequence[float]], reduced: Precision = QUANTISED) -> str:
    """Medians in milliseconds of CPU time, and how many times as fast the reduced precision is within a turn."""
    means = ", ".join(f"{name} {1e3 * median(each):.3f}" for name, each in found.items())
    ratios = (
        f"{median(one / other for one, other in zip(each, found[reduced], strict=True)):.2f} times as fast as {name}"
        for name, each in found.items()
        if name != reduced
    )
    return f"{means} ms an image; {reduced} is {', '.join(ratios)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each network and batch size, and one about its answers."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.quantised", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--data", type=Path, metavar="PATH", help="labelled images, as for glimpse.models compare")
    parser.add_argument("--careful", action="store_true", help="keep the most sensitive layers in float32")
    options = parser.parse_args(arguments)
    print(f"{cores.processor()}, openvino {openvino.__version__}")
    for name in options.names:
        _measure(name, options.data, careful=options.careful)
    return 0


def _measure(name: str, data: Path | None, *, careful: bool) -> None:
    bundle = names.resolve(name)
    network = conversion.get_or_convert(bundle)
    pictures = quantisation.pictures(bundle, None)
    pixels, judged, classes = pictures.pixels, pictures.pixels, np.empty(0, np.int64)
    if data is not None:
        every, known = _read(data, name, bundle)
        order = np.random.default_rng(0).permutation(len(every))
        pixels, judged, classes = every[order[:_CALIBRATES]], every[order[_CALIBRATES:]], known[order[_CALIBRATES:]]
    orders = Orders(bundle, network.graph, network.summary, pixels, careful)
    key = f"bench-{quantisation.key(bundle, pictures, careful=careful)}-{len(judged)}"
    begun = time.monotonic()
    graphs = network.graph, conversion.get_or_quantise(orders, key).graph
    print(f"{name}: quantised in {time.monotonic() - begun:.0f} s")
    _tell_speed(name, graphs, judged)
    if data is not None:
        _tell_accuracy(name, _answers(graphs[0], judged), _answers(graphs[1], judged), classes)


def _tell_speed(name: str, graphs: tuple[Path, Path], pixels: NDArray[np.uint8]) -> None:
    reduced = () if (fastest := OpenVINORuntime.resolve("auto")) == REFERENCE else (fastest,)
    precisions: tuple[Precision, ...] = (REFERENCE, *reduced, QUANTISED)
    runtimes = {each: OpenVINORuntime(graphs[each == QUANTISED], each) for each in precisions}
    for size in _SIZES:
        batch = np.ascontiguousarray(np.take(pixels, range(size), axis=0, mode="wrap"))

        def turn(precision: Precision, batch: NDArray[np.uint8] = batch) -> float:
            runtime = runtimes[precision]
            return stream_turns.turn(runtime, batch, runtime.streams).processor

        print(f"{name}, {size} images: {told(costs(turn, precisions))}", flush=True)


def _answers(graph: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    compute = compiled(graph)
    return np.concatenate([compute(pixels[at : at + _BATCH])[PROBABILITIES] for at in range(0, len(pixels), _BATCH)])


def _tell_accuracy(
    name: str, before: NDArray[np.float32], after: NDArray[np.float32], classes: NDArray[np.int64]
) -> None:
    top = before.argmax(axis=1), after.argmax(axis=1)
    print(
        f"{name}, {len(classes)} images that did not calibrate: top-1 {(top[0] == classes).mean():.2%} in float32, "
        f"{(top[1] == classes).mean():.2%} in int8; the same first class for {(top[0] == top[1]).mean():.2%}; "
        f"{np.minimum(before, after).sum(axis=1).mean():.2%} of the probability stays",
        flush=True,
    )


def _read(data: Path, name: str, bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    found = labelled.find(data)
    index = labelled.indices(found, bundle.labels, name)
    with files.open_images(found.images, SUFFIXES) as images:
        by_name = {image.name: image for image in images}
        pixels = [network_input(by_name[file].read(), bundle.recipe) for file, _ in found.files]
    return np.stack(pixels), np.array([index[label] for _, label in found.files], np.int64)


if __name__ == "__main__":
    sys.exit(main())
