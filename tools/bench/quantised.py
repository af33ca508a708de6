"""How many times as fast networks are computed in int8 as in float32, and what that costs in accuracy.

``python -m tools.bench.quantised [--data PATH] NAME...``; a name is a tag (imagenet), or an architecture with a tag
(resnet50:random). The two networks compute in turns, on one core each, and what counts is the CPU time of this process,
so that other work on the machine changes little. With labelled images, the network is calibrated with a hundred of
them, and judged by the others.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse.models.bundle import Bundle
from glimpse.models.comparison import labelled, names
from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.outputs import PROBABILITIES
from glimpse.models.train import files
from glimpse.models.train.reading import network_input
from glimpse.server import cores
from glimpse.server.runtime import conversion, quantisation
from glimpse.server.runtime.openvino_graphs import compiled
from glimpse.server.runtime.openvino_library import core, openvino
from glimpse.server.runtime.quantisation import Orders

_SIZES = (1, 4, 8)  # images
_TURNS = 15
_CALIBRATES = 100  # images
_BATCH = 8


class Cost(NamedTuple):
    """Milliseconds of CPU time an image, at one batch size."""

    size: int
    float32: float
    int8: float


def turns(
    one: Callable[[], object], other: Callable[[], object], number: int, clock: Callable[[], float] = time.process_time
) -> tuple[float, float]:
    """Medians of the CPU seconds of two things that are done in turns."""
    found: tuple[list[float], list[float]] = [], []
    for _ in range(number):
        for do, seconds in zip((one, other), found, strict=True):
            begun = clock()
            do()
            seconds.append(clock() - begun)
    return median(found[0]), median(found[1])


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
    for cost in _costs(graphs, judged):
        print(
            f"{name}, {cost.size} images: float32 {cost.float32:.2f} ms an image, int8 {cost.int8:.2f} ms, "
            f"{cost.float32 / cost.int8:.2f} times as fast",
            flush=True,
        )
    if data is not None:
        _tell_accuracy(name, _answers(graphs[0], judged), _answers(graphs[1], judged), classes)


def _costs(graphs: tuple[Path, Path], pixels: NDArray[np.uint8]) -> list[Cost]:
    alone = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    requests = [core().compile_model(graph, "CPU", alone).create_infer_request() for graph in graphs]
    found = []
    for size in _SIZES:
        batch = np.ascontiguousarray(pixels[:size])
        one, other = (partial(request.infer, [batch]) for request in requests)
        one()
        other()
        seconds = turns(one, other, _TURNS)
        found.append(Cost(size, *(1e3 * each / size for each in seconds)))
    return found


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
