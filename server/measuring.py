"""A model loaded as the server loads it, and measured: its answers on labelled images, and its speed.

``python -m glimpse.server.measuring`` is run by `models.comparison.process`. Orders come on standard input and answers
go to standard output, a JSON object a line; `done` tells of images that are done, until the answer itself comes.

load      weights, architecture, layer: load and warm the model; answers what it is and what computes it. `layer`,
          unless empty: an inner one, whose statistics are computed, too
classify  images, files, skip_unreadable: answers the metrics of the model on these images
logits    the same, into, embedding: writes logits, classes, figures and statistics of the images to a file, and their
          embeddings if `embedding` is true; answers what was left out
time      seconds: answers images a second while many wait, and the milliseconds of an image alone

The runtime, its precision and the batch size are those that a server would choose here, with the settings of the
environment; so `GLIMPSE_RUNTIME` and the others apply. When standard input ends, so does this process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from glimpse.models.decoding.cost import predict
from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.decoding.limits import OWN_FILES
from glimpse.models.drift import OF_IMAGES, ImageFigures, image_figures
from glimpse.models.outputs import EMBEDDING, FEATURE_STATISTICS, LOGITS, Outputs
from glimpse.models.train import files
from glimpse.models.train.measure import measure
from glimpse.models.train.reading import network_input, summary
from glimpse.server import logs, settings
from glimpse.server.batching.batch_queue import Answer
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_model
from glimpse.server.loading.options import LoadOptions, model_source
from glimpse.server.machine import cores
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.processes import cleanup
from glimpse.server.processes.startup import StartupError
from glimpse.server.settings import problems

_WAITING = 64  # images that are decoded ahead, and that the speed is measured with
# Images alone, one after the other, before the first is timed: the batcher has to see that they are.
_LONELY = 10
_FEWEST = 3  # times as many images as are in flight, and images alone, that a turn has at least


class _Picture(NamedTuple):
    """An image that could be decoded."""

    pixels: NDArray[np.uint8]  # as the network takes them
    size: int  # width x height of the image as it came


@dataclass(slots=True)
class _Computed:
    """What a model gives for images."""

    indices: list[int] = field(default_factory=list)  # of the classes
    left_out: list[tuple[str, str]] = field(default_factory=list)  # name and reason of what could not be read
    figures: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in OF_IMAGES})
    logits: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    more: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # what else was asked for, by output

    @property
    def classes(self) -> NDArray[np.int64]:
        """``[N]``, of the images that could be read."""
        return np.array(self.indices)

    def add_figures(self, found: ImageFigures, size: int) -> None:
        """Keep those of one image."""
        for name, value in (*found._asdict().items(), ("size", float(size))):
            self.figures[name].append(value)


class _Measuring:
    """Carries out the orders of one comparison, for one model."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._model: LoadedModel | None = None
        self._pixels: list[NDArray[np.uint8]] = []  # some of the images, as the network takes them
        self._capacity = 0  # images that may be in flight
        self._ahead = 1  # images that are decoded at a time

    def answer(self, order: dict[str, Any]) -> None:
        """Carry out one order and write its answer; what is expected to go wrong is an answer, too."""
        carry_out: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self._load,
            "classify": self._classify,
            "logits": self._logits,
            "time": self._time,
        }
        name = order.pop("order")
        try:
            self._say(carry_out[name](**order))
        except (StartupError, ValueError, OSError) as error:
            self._say({"error": " ".join(problems.explain(error))})
        except MemoryError as error:
            self._say({"error": f"There is not enough memory. {error}".strip()})

    def _load(self, weights: str, architecture: str, layer: str = "") -> dict[str, Any]:
        # What belongs to another model is left out: the settings of the environment are those of a server.
        chosen = settings.load([]).model_copy(
            update={
                "weights": weights,
                "model": architecture,
                "variant": "",
                "options": {},
                "labels": None,
                "recipe": None,
            }
        )
        source = replace(model_source(chosen), measured_layer=layer)
        self._model = loaded = load_model(source, LoadOptions.of(chosen), Metrics().of)
        self._capacity = chosen.max_images_in_flight
        self._ahead = max(1, min(_WAITING, self._capacity // 2))
        return {
            "model": loaded.bundle.name,
            "weights_digest": loaded.bundle.weights_digest,
            "runtime": loaded.runtime,
            "device": loaded.device,
            "precision": loaded.precision,
            "parameters": loaded.network.parameters,
            "multiply_adds": loaded.network.multiply_adds,
            "input_shape": loaded.bundle.input_shape,
            "batch_size": loaded.batch_sizes[-1],
        }

    def _classify(self, images: str, files: list[tuple[str, int]], skip_unreadable: bool) -> dict[str, Any]:  # noqa: FBT001 - by name, from JSON
        """Metrics of the model's logits, as its runtime gives them, and the images that could not be read."""
        found = self._computed(Path(images), files, skip_unreadable=skip_unreadable)
        measured = measure(found.logits, found.classes, self._loaded.bundle.temperature)
        return {"metrics": measured.metrics(), "left_out": found.left_out}

    def _logits(
        self,
        images: str,
        files: list[tuple[str, int]],
        skip_unreadable: bool,  # noqa: FBT001 - by name, from JSON
        into: str,
        embedding: bool = False,  # noqa: FBT001, FBT002 - the same
    ) -> dict[str, Any]:
        """Write the logits, the classes, and the figures of the images to a file of NumPy's."""
        if embedding and EMBEDDING not in self._loaded.outputs:
            raise ValueError(
                f"{self._loaded.bundle.name} has no embedding, on which the score logistic is fitted. Choose another "
                "score."
            )
        more = frozenset({EMBEDDING}) if embedding else frozenset[str]()
        found = self._computed(Path(images), files, skip_unreadable=skip_unreadable, figures=True, more=more)
        figures = {name: np.array(values) for name, values in found.figures.items()}
        np.savez(into, logits=found.logits, classes=found.classes, **figures, **found.more)  # type: ignore[arg-type]  # see numpy#24143
        return {"left_out": found.left_out, "temperature": self._loaded.bundle.temperature}

    def _computed(
        self,
        images: Path,
        files: list[tuple[str, int]],
        *,
        skip_unreadable: bool,
        figures: bool = False,
        more: frozenset[str] = frozenset(),
    ) -> _Computed:
        outputs: list[Outputs] = []
        if self._loaded.bundle.measured_layer:
            more |= {FEATURE_STATISTICS}
        needed = more | {LOGITS}
        computed = _Computed()
        waiting: list[Future[Answer]] = []
        depth = self._loaded.bundle.recipe.depth

        def take() -> None:
            outputs.extend(future.result().outputs for future in waiting)
            self._say({"done": len(computed.indices) + len(computed.left_out)})

        for portion in self._decoded(images, files):
            readable: list[NDArray[np.uint8]] = []
            indices: list[int] = []
            for name, index, found in portion:
                if isinstance(found, str):
                    computed.left_out.append((name, found))
                else:
                    readable.append(found.pixels)
                    indices.append(index)
                    if figures:
                        computed.add_figures(image_figures(found.pixels, depth), found.size)
            if computed.left_out and not skip_unreadable:
                raise ValueError(
                    f"{images}: {summary(computed.left_out)} Remove or repair what cannot be read, or skip it with "
                    "--skip-unreadable."
                )
            submitted = [self._loaded.batcher.submit(pixels, outputs=needed) for pixels in readable]
            take()  # those of the portion before, which were computed while this one was decoded
            computed.indices += indices
            waiting = submitted
            if len(self._pixels) < self._ahead:
                self._pixels += readable
        take()
        if not outputs:
            raise ValueError(f"{images}: none of the images can be read. {summary(computed.left_out)}")
        computed.logits = np.stack([each[LOGITS] for each in outputs])
        computed.more = {name: np.stack([each[name] for each in outputs]) for name in sorted(more)}
        return computed

    def _decoded(
        self, images: Path, wanted: Sequence[tuple[str, int]]
    ) -> Iterator[list[tuple[str, int, _Picture | str]]]:
        """Portions of the images: name, class, and the network's input, or the reason why there is none."""
        recipe = self._loaded.bundle.recipe
        with files.open_images(images, SUFFIXES) as found, ThreadPoolExecutor(cores.available()) as threads:
            by_name = {file.name: file for file in found}

            def decoded(name: str) -> _Picture | str:
                try:
                    data = by_name[name].read()
                    return _Picture(network_input(data, recipe), predict(data, OWN_FILES).pixels)
                except KeyError:
                    return "has gone since it was found"
                except files.UnreadableError as error:
                    return str(error)

            for start in range(0, len(wanted), self._ahead):
                portion = wanted[start : start + self._ahead]
                pixels = threads.map(decoded, [name for name, _ in portion])
                yield [(name, index, each) for (name, index), each in zip(portion, pixels, strict=True)]

    def _time(self, seconds: float) -> dict[str, float]:
        """One turn: images a second while many wait, then the milliseconds of an image that is alone."""
        return {"images_per_second": self._rate(seconds), "latency_ms": 1000 * self._latency(seconds)}

    def _rate(self, seconds: float) -> float:
        """Images a second while as many wait as the batches take; neither the first of them counts nor the last."""
        batcher = self._loaded.batcher
        most = min(self._loaded.batch_sizes[-1] * (cores.available() + 1), self._capacity)
        places = threading.Semaphore(most)
        ended: list[float] = []

        def done(_: Future[Answer]) -> None:
            ended.append(time.monotonic())
            places.release()

        end = time.monotonic() + seconds
        futures: list[Future[Answer]] = []
        for pixels in cycle(self._pixels):
            places.acquire()
            if len(futures) > _FEWEST * most and time.monotonic() >= end:
                break
            futures.append(batcher.submit(pixels))
            futures[-1].add_done_callback(done)
        for future in futures:
            future.result()
        # While the first and the last batches are computed, some of the device has nothing to do.
        steady = sorted(ended)[most:-most]
        return (len(steady) - 1) / (steady[-1] - steady[0])

    def _latency(self, seconds: float) -> float:
        """Seconds that an image alone takes, the median."""
        took: list[float] = []
        end = time.monotonic() + seconds
        for count, pixels in enumerate(cycle(self._pixels)):
            begun = time.monotonic()
            if len(took) >= _FEWEST and begun >= end:
                break
            self._loaded.batcher.submit(pixels).result()
            if count >= _LONELY:
                took.append(time.monotonic() - begun)
        return statistics.median(took)

    @property
    def _loaded(self) -> LoadedModel:
        if self._model is None:
            raise ValueError("No model has been loaded.")
        return self._model

    def _say(self, values: dict[str, Any]) -> None:
        print(json.dumps(values), file=self._answers, flush=True)


def main() -> None:
    """Answer orders until there are no more."""
    # Ctrl-C is for the comparison to answer, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cores.share_in_long_turns()
    logs.configure("warning", "text")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(orders,), daemon=True).start()
    measuring = _Measuring(answers)
    while True:
        measuring.answer(json.loads(orders.get()))


def _read(orders: queue.SimpleQueue[str]) -> None:
    """Read orders as they come; at their end the comparison is over, whatever is still going on here."""
    for line in sys.stdin:
        orders.put(line)
    cleanup.current().end()
    os._exit(0)


if __name__ == "__main__":
    main()
